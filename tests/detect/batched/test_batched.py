"""Whole batches give detectron2's own boxes, bit by bit, and the rows of `job.detect.probabilities`."""

import copy
import functools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.structures import Instances

from job.detect import batched, config, last_layers, model, probabilities
from job.detect.batched import choice, suppression
from job.detect.model import Detector
from job.detect.prepare import to_tensor
from tests.conftest import SMALL_RCNN, picture, random_checkpoint, settings
from tests.detect.test_probabilities import C4, CASCADE, HEADS, of_yaml
from tests.detect.test_probabilities import network as make_network

KINDS = [name for name in HEADS if name != "panoptic"]
DC5 = """
VERSION: 2
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  BACKBONE: {NAME: build_resnet_backbone}
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, OUT_FEATURES: [res5], RES5_DILATION: 1}
  RPN: {IN_FEATURES: [res5], PRE_NMS_TOPK_TEST: 200, POST_NMS_TOPK_TEST: 50}
  ROI_HEADS: {NAME: StandardROIHeads, IN_FEATURES: [res5], NUM_CLASSES: 5}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 1, FC_DIM: 64, POOLER_RESOLUTION: 7}
"""
Size = tuple[int, int]


MADE = functools.cache(make_network)


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    """Some random weights find too few boxes to compare."""
    torch.manual_seed(0)


def network(name: str) -> Any:
    return copy.deepcopy(MADE(name))


def attached(net: Any) -> Any:
    """The model as the job runs it."""
    probabilities.attach(net)
    model._disable_masks(net)
    last_layers.keep_in_float32(net)
    return net.eval()


def made_of(seed: int, count: int, size: Size = (96, 128)) -> torch.Tensor:
    return torch.stack([torch.from_numpy(picture(31 * seed + each, *size).transpose(2, 0, 1)) for each in range(count)])


def run_both(net: Any, images: torch.Tensor, size: Size = (480, 600)) -> tuple[list[Instances], batched.Found]:
    sizes = [(size[0] + number, size[1]) for number in range(len(images))]
    inputs = [
        {"image": image, "height": height, "width": width} for image, (height, width) in zip(images, sizes, strict=True)
    ]
    with torch.inference_mode():
        return [each["instances"] for each in net(inputs)], batched.run(batched.detect(net, images, sizes))


def is_same(expected: Instances, found: batched.Found, index: int) -> bool:
    exists = found.exists[index]
    pairs = [
        (expected.pred_boxes.tensor, found.boxes),
        (expected.scores, found.scores),
        (expected.pred_classes, found.classes),
        (expected.class_probabilities, found.probabilities),
        (expected.box_features, found.features),
    ]
    return all(torch.equal(one, other[index][exists]) and one.dtype == other.dtype for one, other in pairs)


def check(net: Any, images: torch.Tensor, size: Size = (480, 600)) -> list[int]:
    """Compares all images of a batch, and returns the numbers of their boxes."""
    expected, found = run_both(net, images, size)
    assert found.settled.all()
    assert all(is_same(one, found, index) for index, one in enumerate(expected))
    return [len(one) for one in expected]


@pytest.mark.parametrize("name", KINDS)
def test_boxes_are_those_of_detectron2_to_the_bit(name: str) -> None:
    net = attached(network(name))
    assert batched.supports(net)
    for count in (1, 2, 3, 8):
        assert min(check(net, made_of(count, count))) > 10
    assert min(check(net, made_of(4, 3, (70, 101)), (70, 101))) > 10


@pytest.mark.parametrize("name", ["faster", "class-agnostic", "cascade", "sigmoid", "retinanet", "fcos"])
def test_images_without_boxes(name: str) -> None:
    net = attached(network(name))
    for module in net.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = 2.0
    assert check(net, made_of(1, 3)) == [0, 0, 0]


@pytest.mark.parametrize("name", ["faster", "c4", "cascade"])
def test_images_without_proposals_and_with_few(name: str) -> None:
    net = attached(network(name))
    for smallest, some in ((1e6, False), (60.0, True)):
        net.proposal_generator.min_box_size = smallest
        assert any(check(net, made_of(2, 4))) is some


def test_one_level_without_a_pyramid() -> None:
    torch.manual_seed(5)
    net = attached(of_yaml(DC5)())
    assert batched.supports(net)
    assert min(check(net, made_of(1, 3))) > 10


@pytest.mark.parametrize("name", ["faster", "cascade", "retinanet", "fcos"])
def test_blank_images_whose_anchors_all_tie(name: str) -> None:
    net = attached(network(name))
    expected, found = run_both(net, torch.full((2, 3, 96, 128), 114, dtype=torch.uint8))
    for index, one in enumerate(expected):  # only equal scores may come in another order
        assert torch.equal(one.scores, found.scores[index][found.exists[index]])


def many_results(net: Any, limit: int) -> Any:
    net = attached(net)
    predictor = net.roi_heads.box_predictor
    predictor.test_score_thresh, predictor.test_topk_per_image = 0.0, limit
    return net


@pytest.mark.parametrize("limit", [-1, 0, 1, 100])
def test_all_candidates_count(limit: int) -> None:
    # 250 candidates: 50 proposals and 5 classes, all above a threshold of 0.
    counts = check(many_results(network("faster"), limit), made_of(3, 3))
    assert all(100 < each < 250 for each in counts) if limit < 0 else counts == [min(limit, 100)] * 3


def test_more_boxes_than_are_moved_apart() -> None:
    # Above 1,000 boxes, torchvision suppresses class by class on a CPU: in the RPN, and in the heads.
    yaml = SMALL_RCNN.replace("PRE_NMS_TOPK_TEST: 200, POST_NMS_TOPK_TEST: 50", "POST_NMS_TOPK_TEST: 300")
    torch.manual_seed(0)
    net = many_results(of_yaml(yaml)(), 100)
    assert net.proposal_generator.pre_nms_topk[False] > 1000
    assert check(net, made_of(4, 2, (160, 224))) == [100, 100]


@pytest.mark.parametrize("name", ["faster", "class-agnostic", "retinanet"])
def test_too_many_candidates_are_never_silent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = attached(network(name))
    seen = set()
    for most in (2, 20, 60, 100, 200):
        monkeypatch.setattr(choice, "MAX_CANDIDATES", most)
        expected, found = run_both(net, made_of(5, 4))
        for index, one in enumerate(expected):
            settled = bool(found.settled[index])
            assert is_same(one, found, index) or not settled
            seen.add(settled)
    assert seen == {True, False}


@pytest.mark.parametrize("name", ["faster", "retinanet"])
def test_too_few_rounds_are_never_silent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The proposals are settled by continuing; the boxes are reported.
    monkeypatch.setattr(suppression, "ROUNDS", 1)
    net = attached(network(name))
    expected, found = run_both(net, made_of(6, 4))
    assert not found.settled.all()
    monkeypatch.setattr(suppression, "ROUNDS", 3)
    expected, found = run_both(net, made_of(6, 4))
    for index, one in enumerate(expected):
        assert is_same(one, found, index) or not found.settled[index]


# Infinite logits of sigmoids are left out: all their scores are 1, so that detectron2 sorts them in any order.
@pytest.mark.parametrize(
    ("name", "layer", "values"),
    [
        ("faster", "roi_heads.box_predictor.cls_score", (torch.nan, torch.inf, -torch.inf)),
        ("faster", "roi_heads.box_predictor.bbox_pred", (torch.nan, torch.inf, -torch.inf)),
        ("faster", "proposal_generator.rpn_head.objectness_logits", (torch.nan, torch.inf, -torch.inf)),
        ("faster", "proposal_generator.rpn_head.anchor_deltas", (torch.nan, torch.inf, -torch.inf)),
        ("c4", "roi_heads.box_predictor.cls_score", (torch.nan,)),
        ("cascade", "roi_heads.box_predictor.1.cls_score", (torch.nan,)),
        ("cascade", "roi_heads.box_predictor.2.bbox_pred", (torch.nan,)),
        ("retinanet", "head.cls_score", (torch.nan, -torch.inf)),
        ("fcos", "head.cls_score", (torch.nan, -torch.inf)),
        ("fcos", "head.ctrness", (torch.nan, -torch.inf)),
    ],
)
def test_outputs_that_are_not_finite(name: str, layer: str, values: tuple[float, ...]) -> None:
    for value in values:
        net = attached(network(name))
        add_gaps(net.get_submodule(layer), value)
        check(net, made_of(7, 3))


def add_gaps(layer: Any, value: float) -> None:
    def with_gaps(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        flat = output.flatten(1)
        rows = torch.arange(0, len(flat), 3)
        columns = torch.arange(0, flat.shape[1], 7)
        return flat.index_put((rows[:, None], columns), torch.tensor(value)).view_as(output)

    layer.register_forward_hook(with_gaps)


@pytest.mark.parametrize(
    ("name", "layer"), [("cascade", "roi_heads.box_predictor.0.bbox_pred"), ("retinanet", "head.bbox_pred")]
)
def test_boxes_at_which_detectron2_fails_are_dropped(name: str, layer: str) -> None:
    net, images = attached(network(name)), made_of(8, 2)
    with torch.inference_mode():
        plain = batched.run(batched.detect(net, images, [(96, 128)] * 2))
        add_gaps(net.get_submodule(layer), torch.nan)
        found = batched.run(batched.detect(net, images, [(96, 128)] * 2))
        with pytest.raises(AssertionError, match="infinite or NaN"):
            net([{"image": image} for image in images])
    assert found.exists.any() and not torch.equal(found.boxes, plain.boxes)
    for table in (found.boxes, found.scores, found.probabilities):
        assert table[found.exists].isfinite().all()


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("faster", ""),
        ("faster", "proposal_generator"),
        ("faster", "proposal_generator.anchor_generator"),
        ("faster", "roi_heads"),
        ("faster", "roi_heads.box_predictor"),
        ("faster", "roi_heads.box_pooler"),
        ("c4", "roi_heads"),
        ("cascade", "roi_heads.box_predictor.1"),
        ("retinanet", ""),
        ("fcos", "anchor_generator"),
    ],
)
def test_a_model_with_a_derived_part_is_not_supported(name: str, part: str) -> None:
    net = attached(network(name))
    assert batched.supports(net)
    module = net.get_submodule(part)
    module.__class__ = type("Derived", (type(module),), {})
    assert not batched.supports(net)


def test_models_with_masks_and_other_architectures_are_not_supported() -> None:
    assert not batched.supports(network("mask"))
    assert not batched.supports(attached(network("panoptic")))
    assert not batched.supports(torch.nn.Identity())


@pytest.mark.parametrize("yaml", [SMALL_RCNN, C4, CASCADE], ids=["fpn", "c4", "cascade"])
def test_boxes_of_real_frames_match_the_default_predictor(yaml: str, frames: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(yaml)
    weights = random_checkpoint(path, tmp_path / "model.pth", spread=0.2)
    detector = model.build(settings(model=str(path), weights=str(weights)))
    cfg = config.read_cfg(settings(model=str(path)))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", str(weights)
    predictor, boxes = DefaultPredictor(cfg), 0
    for frame in frames[::60]:
        image: Any = cv2.imread(str(frame))
        expected = predictor(image)["instances"]
        with (
            torch.inference_mode()
        ):  # the same network, since another memory layout of the weights sums in another order
            found = batched.run(batched.detect(predictor.model, to_tensor(image, detector)[None], [image.shape[:2]]))
        (tables,) = batched.unpack(found.pack().numpy())
        assert tables is not None
        (table,) = tables
        np.testing.assert_array_equal(table[:, :4], expected.pred_boxes.tensor)
        np.testing.assert_array_equal(table[:, 4], expected.scores)
        np.testing.assert_array_equal(table[:, 5], expected.pred_classes)
        boxes += len(expected)
    assert boxes > 20


def test_the_demo_model_on_real_frames(frames: list[Path], demo_detector: Detector) -> None:
    images = [to_tensor(cv2.imread(str(frame)), demo_detector) for frame in frames[::30]]  # type: ignore[arg-type]
    assert batched.supports(demo_detector.model)
    assert sum(check(demo_detector.model, torch.stack(images))) > 10
    net = copy.deepcopy(demo_detector.model)
    for threshold in (0.001, 0.9999):  # many boxes, and none
        net.score_threshold = threshold  # type: ignore[assignment]
        counts = check(net, torch.stack(images[:3])[:, :, :200, :301].contiguous())
        assert max(counts) == 0 if threshold > 0.5 else sum(counts) > 60


def test_packing_leaves_out_rows_that_do_not_exist() -> None:
    net = attached(network("faster"))
    _, found = run_both(net, made_of(9, 2))
    exists = found.exists.clone()
    exists[1, ::2] = False
    changed = copy.copy(found)
    object.__setattr__(changed, "exists", exists)
    object.__setattr__(changed, "settled", torch.tensor([False, True]))
    packed = changed.pack().numpy()
    first, both = batched.unpack(packed, packed[..., 6:].astype(np.float16))
    assert first is None and both is not None
    second, halves = both
    np.testing.assert_array_equal(halves, second[:, 6:].astype(np.float16))
    np.testing.assert_array_equal(second[:, :4], found.boxes[1, 1::2])
    np.testing.assert_array_equal(second[:, 5], found.classes[1, 1::2])
    np.testing.assert_array_equal(second[:, 6:12], found.probabilities[1, 1::2])
    np.testing.assert_array_equal(second[:, 12:], found.features[1, 1::2])
