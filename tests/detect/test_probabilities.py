"""Class distributions and features, compared with detectron2's raw outputs for the anchor or proposal of a box."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import FCOS, ROI_HEADS_REGISTRY, StandardROIHeads, build_backbone, build_model
from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.structures import Instances
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from job.detect import model as job_model
from job.detect import probabilities
from tests.conftest import SMALL_RCNN, picture, random_checkpoint, settings
from tests.detect.conftest import MASK

Rows = npt.NDArray[np.float64]

KEYPOINT = SMALL_RCNN.replace(
    "  ROI_BOX_HEAD:",
    "  KEYPOINT_ON: true\n"
    "  ROI_KEYPOINT_HEAD: {NAME: KRCNNConvDeconvUpsampleHead, CONV_DIMS: [16], POOLER_RESOLUTION: 14}\n"
    "  ROI_BOX_HEAD:",
)
AGNOSTIC = SMALL_RCNN.replace("ROI_BOX_HEAD: {", "ROI_BOX_HEAD: {CLS_AGNOSTIC_BBOX_REG: true, ")
CASCADE = AGNOSTIC.replace("NAME: StandardROIHeads", "NAME: CascadeROIHeads")
CASCADE_MASK = MASK.replace("NAME: StandardROIHeads", "NAME: CascadeROIHeads").replace(
    "ROI_BOX_HEAD: {", "ROI_BOX_HEAD: {CLS_AGNOSTIC_BBOX_REG: true, "
)
C4 = """
VERSION: 2
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64}
  RPN: {PRE_NMS_TOPK_TEST: 200, POST_NMS_TOPK_TEST: 20}
  ROI_HEADS: {NUM_CLASSES: 5}
INPUT: {MIN_SIZE_TEST: 96, MAX_SIZE_TEST: 160}
"""
PANOPTIC = MASK.replace("GeneralizedRCNN", "PanopticFPN").replace(
    "  ROI_BOX_HEAD:", "  SEM_SEG_HEAD: {NUM_CLASSES: 5, CONVS_DIM: 32}\n  ROI_BOX_HEAD:"
)
RETINANET = """
VERSION: 2
MODEL:
  META_ARCHITECTURE: RetinaNet
  BACKBONE: {NAME: build_retinanet_resnet_fpn_backbone}
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, OUT_FEATURES: [res3, res4, res5]}
  FPN: {IN_FEATURES: [res3, res4, res5], OUT_CHANNELS: 32}
  ANCHOR_GENERATOR: {SIZES: [[32], [64], [128], [256], [512]]}
  RETINANET: {NUM_CLASSES: 5, NUM_CONVS: 1, IN_FEATURES: [p3, p4, p5, p6, p7]}
INPUT: {MIN_SIZE_TEST: 96, MAX_SIZE_TEST: 160}
"""


def one_class(yaml: str) -> str:
    return yaml.replace("NUM_CLASSES: 5", "NUM_CLASSES: 1")


def sigmoid(yaml: str) -> str:
    return yaml.replace("ROI_BOX_HEAD: {", "ROI_BOX_HEAD: {USE_SIGMOID_CE: true, ")


def configured(yaml: str) -> Any:
    cfg = get_cfg()
    cfg.merge_from_other_cfg(CfgNode.load_cfg(yaml))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def fcos(classes: int = 5) -> Any:
    """Builds a small FCOS, in the same way as the zoo's Python file."""
    backbone = build_backbone(configured(RETINANET))
    return FCOS(
        backbone=backbone,
        head=FCOSHead(input_shape=[ShapeSpec(channels=32)] * 5, num_classes=classes, conv_dims=[32]),
        head_in_features=["p3", "p4", "p5", "p6", "p7"],
        num_classes=classes,
        pixel_mean=[103.53, 116.28, 123.675],
        pixel_std=[1.0, 1.0, 1.0],
        test_score_thresh=0.05,
        test_nms_thresh=0.9,
    )


def of_yaml(yaml: str) -> Callable[[], Any]:
    return lambda: build_model(configured(yaml))


HEADS: dict[str, tuple[Callable[[], Any], str]] = {
    "faster": (of_yaml(SMALL_RCNN), "softmax"),
    "mask": (of_yaml(MASK), "softmax"),
    "keypoint": (of_yaml(KEYPOINT), "softmax"),
    "class-agnostic": (of_yaml(AGNOSTIC), "softmax"),
    "c4": (of_yaml(C4), "softmax"),
    "panoptic": (of_yaml(PANOPTIC), "softmax"),
    "one class": (of_yaml(one_class(SMALL_RCNN)), "softmax"),
    "cascade": (of_yaml(CASCADE), "softmax"),
    "cascade mask": (of_yaml(CASCADE_MASK), "softmax"),
    "cascade, one class": (of_yaml(one_class(CASCADE)), "softmax"),
    "sigmoid": (of_yaml(sigmoid(SMALL_RCNN)), "sigmoid"),
    "sigmoid, one class": (of_yaml(sigmoid(one_class(SMALL_RCNN))), "sigmoid"),
    "sigmoid cascade": (of_yaml(sigmoid(CASCADE)), "sigmoid"),
    "retinanet": (of_yaml(RETINANET), "sigmoid"),
    "retinanet, one class": (of_yaml(one_class(RETINANET)), "sigmoid"),
    "fcos": (fcos, "sigmoid"),
    "fcos, one class": (lambda: fcos(1), "sigmoid"),
}

# Mean and standard deviation of the outputs of a layer over all places of an image. With these, the sigmoids sum to
# more than 1 on some anchors and to less on others.
_SPREAD = {"cls_score": (-1.5, 1.5), "ctrness": (0.0, 1.5), "bbox_pred": (0.0, 0.3)}


def network(name: str, seed: int = 0) -> Any:
    """Builds a model with random weights whose outputs differ between places and between classes."""
    torch.manual_seed(seed)
    model = HEADS[name][0]().eval()
    for path, layer in model.named_modules():
        kind = path.rpartition(".")[2]
        if kind in _SPREAD and not path.startswith("proposal_generator"):
            mean, deviation = _SPREAD[kind]
            if kind == "cls_score" and hasattr(model, "head"):
                mean = -4.0  # there are far more anchors, of which the best are kept
            if kind == "bbox_pred" and isinstance(model, FCOS):  # distances to the four sides, cut off at 0
                mean, deviation = 2.0, 1.0
            seen: list[torch.Tensor] = []
            # A copy, since detectron2 later writes into the output.
            hook = layer.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output.clone()))
            with torch.inference_mode():
                model(batch(9)[:1])
            hook.remove()
            values = torch.cat([each.transpose(0, 1).flatten(1) for each in seen], dim=1)
            scale = deviation / values.std(dim=1)
            layer.weight.data *= scale.view(-1, *[1] * (layer.weight.dim() - 1))
            layer.bias.data = (layer.bias.data - values.mean(dim=1)) * scale + mean
    return model


def batch(seed: int) -> list[dict[str, Any]]:
    """Three images of one shape."""
    pictures = [picture(10 * seed + each, 96, 128) for each in range(3)]
    return [{"image": torch.from_numpy(each.transpose(2, 0, 1).copy())} for each in pictures]


def run(model: Any, *, half: bool = False) -> list[Instances]:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        return [each["instances"] for each in model(batch(1))]


# The truth: the raw outputs of the last layers, decoded here for every anchor or proposal, without any selection.


class Raw:
    """Records the outputs of the layers, before any selection, while the model runs.

    Attributes:
        outputs: Outputs of the head, or of the box predictor of each stage.
        inputs: Inputs of the head or of the ROI heads.
        pooled: Inputs of the box predictor of each stage.
    """

    def __init__(self, model: Any) -> None:
        self.outputs: list[Any] = []
        self.inputs: list[Any] = []
        self.pooled: list[torch.Tensor] = []
        if hasattr(model, "roi_heads"):
            model.roi_heads.register_forward_pre_hook(self._note_inputs)
            for each in predictors_of(model):
                each.register_forward_hook(self._note_outputs)
        else:
            model.head.register_forward_pre_hook(self._note_inputs)
            model.head.register_forward_hook(self._note_outputs)

    def _note_inputs(self, module: Any, inputs: Any) -> None:
        self.inputs.append(inputs)

    def _note_outputs(self, module: Any, inputs: Any, output: Any) -> None:
        self.pooled += [inputs[0]] if isinstance(inputs[0], torch.Tensor) else []
        self.outputs.append([[x.clone() for x in each] if isinstance(each, list) else each.clone() for each in output])


def logistic(logits: torch.Tensor) -> Rows:
    result: Rows = 1 / (1 + np.exp(-logits.double().numpy()))
    return result


def normalised_exponentials(logits: torch.Tensor) -> Rows:
    powers = np.exp(logits.double().numpy())
    result: Rows = powers / powers.sum(axis=1, keepdims=True)
    return result


@dataclass(frozen=True)
class Candidates:
    """All candidates for the boxes of an image.

    Attributes:
        boxes: (candidates, classes or 1, 4), clipped to the image.
        scores: (candidates, classes).
        outputs: (candidates, classes) sigmoids, or (candidates, classes + 1) softmaxes.
        softmax: Whether the outputs are softmaxes.
        features: (candidates, D) what the last layers saw of the candidate.
    """

    boxes: torch.Tensor
    scores: Rows
    outputs: Rows
    softmax: bool
    features: torch.Tensor

    def row(self, index: int, label: int) -> list[float]:
        given: Rows = self.outputs[index]
        if self.softmax:
            return [float(each) for each in given]
        score = float(self.scores[index, label])
        return by_hand([float(each) for each in given * score / given[label]], label, score)

    def of(self, found: Instances, atol: float) -> list[int]:
        """Finds, for each box, the one candidate with the same corners and score."""
        result = []
        for box, score, label in zip(found.pred_boxes.tensor, found.scores, found.pred_classes.tolist(), strict=True):
            distance = (self.boxes[:, min(label, self.boxes.shape[1] - 1)] - box).abs().amax(dim=1).numpy()
            (index,) = np.flatnonzero((distance < 1e-3) & (np.abs(self.scores[:, label] - score.item()) < atol))
            result.append(int(index))
        return result


def candidates(model: Any, raw: Raw) -> list[Candidates]:
    """Returns the candidates of each image."""
    return of_proposals(model, raw) if hasattr(model, "roi_heads") else of_anchors(model, raw)


def of_proposals(model: Any, raw: Raw) -> list[Candidates]:
    (_, _, proposals, *_), predictors = raw.inputs[0], predictors_of(model)
    counts = [len(each) for each in proposals]
    boxes = torch.cat([each.proposal_boxes.tensor for each in proposals])
    tables = []
    for predictor, (logits, deltas) in zip(predictors, raw.outputs, strict=True):
        boxes = clipped(predictor.box2box_transform.apply_deltas(deltas, boxes))
        tables.append(logistic(logits) if predictor.use_sigmoid_ce else normalised_exponentials(logits))
    table, by_class = np.mean(tables, axis=0), boxes.view(len(boxes), -1, 4)
    result = []
    for end, count in zip(np.cumsum(counts), counts, strict=True):
        part = table[end - count : end]
        scores, softmax = part[:, :-1], not predictors[0].use_sigmoid_ce
        own = slice(end - count, end)
        result.append(Candidates(by_class[own], scores, part if softmax else scores, softmax, raw.pooled[-1][own]))
    return result


def predictors_of(model: Any) -> list[Any]:
    predictor = model.roi_heads.box_predictor
    return list(predictor) if isinstance(predictor, torch.nn.ModuleList) else [predictor]


def of_anchors(model: Any, raw: Raw) -> list[Candidates]:
    (outputs,), (features,) = raw.outputs, raw.inputs[0]
    by_level = [each.tensor for each in model.anchor_generator(features)]
    anchors = torch.cat(by_level)
    logits, deltas, *centerness = (
        # from (N, A * K, H, W) per level to (N, all places and anchors, K)
        torch.cat([each.unflatten(1, (-1, width)).permute(0, 3, 4, 1, 2).flatten(1, 3) for each in levels], dim=1)
        for levels, width in zip(outputs, (model.num_classes, 4, 1), strict=False)
    )
    result = []
    for image in range(len(logits)):
        boxes = clipped(model.box2box_transform.apply_deltas(deltas[image], anchors))[:, None]
        sigmoids = logistic(logits[image])
        scores = np.sqrt(sigmoids * logistic(centerness[0][image])) if centerness else sigmoids
        per_level = [len(each) // level[0, 0].numel() for each, level in zip(by_level, features, strict=True)]
        seen = [
            level[image].permute(1, 2, 0).flatten(0, 1).repeat_interleave(count, dim=0)
            for level, count in zip(features, per_level, strict=True)
        ]
        result.append(Candidates(boxes, scores, sigmoids, softmax=False, features=torch.cat(seen)))
    return result


def clipped(boxes: torch.Tensor) -> torch.Tensor:
    """Clips boxes to the 96 x 128 pixels of the images."""
    result = boxes.reshape(-1, 4).minimum(torch.tensor([128.0, 96.0, 128.0, 96.0])).clamp(min=0)
    return result.view(boxes.shape)


def by_hand(ratings: list[float], label: int, score: float) -> list[float]:
    """Computes the documented formula, number by number."""
    ratings = [0.0 if np.isnan(each) else each for each in ratings]
    rest = sum(each for index, each in enumerate(ratings) if index != label)
    share = 1.0 if rest <= 1 - score else (1 - score) / rest
    row = [score if index == label else each * share for index, each in enumerate(ratings)]
    return [*row, 1 - sum(row)]


def check(found: Instances, truth: Candidates, atol: float = 1e-5) -> list[int]:
    """Compares every row of an image with the truth, and returns the candidates of its boxes."""
    rows = found.class_probabilities
    indices = truth.of(found, atol)
    assert rows.isfinite().all() and rows.min() >= 0 and rows.max() <= 1
    np.testing.assert_allclose(rows.double().sum(dim=1), 1, atol=atol)
    for row, index, label in zip(rows.double().numpy(), indices, found.pred_classes.tolist(), strict=True):
        np.testing.assert_allclose(row, truth.row(index, label), rtol=0, atol=atol)
    assert torch.equal(rows.float()[torch.arange(len(rows)), found.pred_classes], found.scores.float())  # to the bit
    assert torch.equal(found.box_features, truth.features[indices])
    return indices


def same_boxes(plain: list[Instances], found: list[Instances]) -> None:
    for one, other in zip(plain, found, strict=True):
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
        assert torch.equal(one.scores, other.scores) and one.scores.dtype == other.scores.dtype
        assert torch.equal(one.pred_classes, other.pred_classes)
        assert set(other.get_fields()) - set(one.get_fields()) == {"class_probabilities", "box_features"}


@pytest.mark.parametrize("name", HEADS)
def test_rows_are_those_of_the_boxes_and_change_none(name: str) -> None:
    plain = network(name)
    model = copy.deepcopy(plain)
    assert probabilities.attach(model) == HEADS[name][1]
    raw = Raw(model)
    found = run(model)
    same_boxes(run(plain), found)
    assert all(len(each) > 10 for each in found)
    images = [check(*each) for each in zip(found, candidates(model, raw), strict=True)]
    if name in ("retinanet", "fcos"):
        assert any(len(set(each)) < len(each) for each in images)  # two boxes of one anchor
    background = torch.cat([each.class_probabilities[:, -1] for each in found])
    if HEADS[name][1] == "sigmoid" and "one class" not in name:  # both cases of the formula occur
        assert (background < 1e-6).any() and (background > 1e-3).any()


@pytest.mark.parametrize("name", ["cascade", "retinanet", "fcos"])
def test_rows_in_half_precision(name: str) -> None:
    # Many scores are equal in half precision, so the score no longer identifies a box.
    plain = network(name)
    model = copy.deepcopy(plain)
    probabilities.attach(model)
    raw = Raw(model)
    found = run(model, half=True)
    same_boxes(run(plain, half=True), found)
    for each in zip(found, candidates(model, raw), strict=True):
        check(*each, atol=2e-2)


@pytest.mark.parametrize("name", ["faster", "class-agnostic", "c4", "cascade", "sigmoid", "sigmoid cascade"])
def test_rows_stay_aligned_when_proposals_are_dropped_that_are_not_finite(name: str) -> None:
    plain = network(name)

    def with_gaps(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output.index_fill(0, torch.arange(0, len(output), 3), torch.nan)

    for path, layer in plain.named_modules():
        if path.endswith(("box_predictor.cls_score", "box_predictor.1.cls_score")):
            layer.register_forward_hook(with_gaps)
    model = copy.deepcopy(plain)
    probabilities.attach(model)
    raw = Raw(model)
    found = run(model)
    same_boxes(run(plain), found)
    assert all(len(each) > 5 for each in found)
    for each in zip(found, candidates(model, raw), strict=True):
        check(*each)


@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_a_class_score_that_is_nan_counts_as_0(name: str) -> None:
    model = network(name)

    def without_first_class(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        output[:, ::5] = torch.nan
        return output

    model.head.cls_score.register_forward_hook(without_first_class)
    probabilities.attach(model)
    raw = Raw(model)
    found = run(model)
    for each in zip(found, candidates(model, raw), strict=True):
        assert len(each[0]) > 10 and not each[0].class_probabilities[:, 0].any()
        check(*each)


@pytest.mark.parametrize("name", ["faster", "cascade", "retinanet", "fcos"])
def test_attaching_twice_is_attaching_once(name: str) -> None:
    model = network(name)
    kind = probabilities.attach(model)
    once = run(model)
    assert probabilities.attach(model) == kind
    for first, second in zip(once, run(model), strict=True):
        assert torch.equal(first.class_probabilities, second.class_probabilities)


@pytest.mark.parametrize("name", ["faster", "one class", "cascade", "sigmoid", "retinanet", "fcos"])
def test_images_without_boxes_have_tables_without_rows(name: str) -> None:
    model = HEADS[name][0]().eval()
    probabilities.attach(model)
    for each in model.modules():
        if hasattr(each, "test_score_thresh"):
            each.test_score_thresh = 2.0
    classes = 1 if "one class" in name else 5
    assert {each.class_probabilities.shape for each in run(model)} == {(0, classes + 1)}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("faster", ""),
        ("faster", "roi_heads"),
        ("faster", "roi_heads.box_predictor"),
        ("c4", "roi_heads"),
        ("cascade", "roi_heads"),
        ("cascade", "roi_heads.box_predictor.1"),
        ("retinanet", ""),
        ("fcos", ""),
    ],
)
def test_a_class_derived_from_a_supported_one_is_left_alone(name: str, part: str) -> None:
    model = HEADS[name][0]().eval()
    module = model.get_submodule(part)
    module.__class__ = type("Derived", (type(module),), {})
    assert probabilities.attach(model) == "synthetic"
    assert not any(each.has("class_probabilities") or each.has("box_features") for each in run(model))


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml", "softmax"),
        ("COCO-Detection/faster_rcnn_R_101_C4_3x.yaml", "softmax"),
        ("COCO-Detection/faster_rcnn_R_101_DC5_3x.yaml", "softmax"),
        ("COCO-Detection/retinanet_R_50_FPN_3x.yaml", "sigmoid"),
        ("COCO-Detection/retinanet_R_101_FPN_3x.yaml", "sigmoid"),
        ("COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x.yaml", "softmax"),
        ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml", "softmax"),
        ("COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml", "softmax"),
        ("LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", "softmax"),
        ("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", "softmax"),
        ("Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml", "softmax"),
        ("Misc/mask_rcnn_R_50_FPN_1x_cls_agnostic.yaml", "softmax"),
        ("COCO-Detection/fcos_R_50_FPN_1x.py", "sigmoid"),
    ],
)
def test_models_of_the_zoo_are_supported(config: str, kind: str) -> None:
    path = model_zoo.get_config_file(config)
    with torch.device("meta"):  # shapes without values, which is fast
        if config.endswith(".py"):
            model = instantiate(LazyConfig.load(path).model)
        else:
            cfg = get_cfg()
            cfg.merge_from_file(path, allow_unsafe=True)
            cfg.MODEL.DEVICE = "meta"
            model = build_model(cfg)
    assert probabilities.attach(model) == kind


def test_the_federated_loss_of_lvis_is_supported() -> None:
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file("LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"))
    cfg.MODEL.DEVICE = "meta"
    cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE = cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS = True
    with torch.device("meta"):
        assert probabilities.attach(build_model(cfg)) == "sigmoid"


@ROI_HEADS_REGISTRY.register()
class OtherHeads(StandardROIHeads):  # type: ignore[misc]
    """Heads that are not supported."""


@pytest.mark.parametrize(
    ("yaml", "kind"),
    [
        (SMALL_RCNN, "softmax"),
        (CASCADE, "softmax"),
        (RETINANET, "sigmoid"),
        (SMALL_RCNN.replace("NAME: StandardROIHeads", "NAME: OtherHeads"), "synthetic"),
    ],
    ids=["faster", "cascade", "retinanet", "other"],
)
def test_the_detector_says_where_its_probabilities_come_from(
    tmp_path: Path, yaml: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "model.yaml").write_text(yaml)
    weights = random_checkpoint(tmp_path / "model.yaml", tmp_path / "model.pth")
    given_settings = settings(model=str(tmp_path / "model.yaml"), weights=str(weights), score_threshold=0.0)
    detector = job_model.build(given_settings)
    assert detector.probabilities == kind
    assert ("does not provide class probabilities" in caplog.text) == (kind == "synthetic")
    for found in run(detector.model):
        assert len(found) > 10
        table = probabilities.of_instances(found, 5)
        assert table.shape == (len(found), 6)
        np.testing.assert_allclose(table.sum(dim=1), 1, atol=1e-5)
        assert torch.equal(table[torch.arange(len(table)), found.pred_classes], found.scores)


def test_synthetic_probabilities_by_hand() -> None:
    found = Instances((10, 10), scores=torch.tensor([0.7]), pred_classes=torch.tensor([1]))
    torch.testing.assert_close(probabilities.of_instances(found, 3), torch.tensor([[0.0, 0.7, 0.0, 0.3]]))


def test_exclusive_probabilities_by_hand() -> None:
    def row(class_scores: list[float], label: int, power: int = 1) -> torch.Tensor:
        given = torch.tensor([class_scores])
        return probabilities.make_exclusive(given, torch.tensor([label]), given[:, label], power=power)[0]

    torch.testing.assert_close(row([0.5, 0.2, 0.1], 0), torch.tensor([0.5, 0.2, 0.1, 0.2]))  # unchanged
    # The ratings 0.6 and 0.2 share the remainder of 0.2.
    torch.testing.assert_close(row([0.8, 0.6, 0.2], 0), torch.tensor([0.8, 0.15, 0.05, 0.0]))
    torch.testing.assert_close(row([0.8, 0.6, 0.2], 1), torch.tensor([0.32, 0.6, 0.08, 0.0]))
    # Sigmoids 0.64 and 0.16 with a centerness of 0.25 score 0.4 and 0.2: four to one, at a score of 0.4.
    torch.testing.assert_close(row([0.4, 0.2], 0, power=2), torch.tensor([0.4, 0.1, 0.5]))
    torch.testing.assert_close(row([1.0, 0.0], 0), torch.tensor([1.0, 0.0, 0.0]))


unit = st.floats(0, 1, width=32)


@given(
    class_scores=arrays.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=unit),
    power=st.sampled_from([1, 2]),
    data=st.data(),
)
def test_exclusive_probabilities_are_a_distribution_about_the_score(
    class_scores: npt.NDArray[np.float32], power: int, data: st.DataObject
) -> None:
    count, width = class_scores.shape
    classes = np.array(data.draw(st.lists(st.integers(0, width - 1), min_size=count, max_size=count)))
    scores = class_scores[np.arange(count), classes]
    tensors = torch.from_numpy(class_scores), torch.from_numpy(classes), torch.from_numpy(scores)
    rows = probabilities.make_exclusive(*tensors, power=power).numpy()
    assert rows.shape == (count, width + 1) and np.isfinite(rows).all() and rows.min() >= 0 and rows.max() <= 1
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(rows[np.arange(count), classes], scores)
    for row, given_scores, label, score in zip(rows, class_scores.astype(np.float64), classes, scores, strict=True):
        if score > 1e-6:  # below, squares are lost in float32
            ratings = score * (given_scores / score) ** power
            np.testing.assert_allclose(row, by_hand(ratings.tolist(), label, float(score)), rtol=0, atol=1e-5)
