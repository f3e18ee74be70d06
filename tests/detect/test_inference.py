"""The rows of the map step match detectron2's DefaultPredictor, run on each image separately."""

import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from hypothesis import given
from hypothesis import settings as configure
from hypothesis import strategies as st

from job import parts
from job.detect import config, model, runner
from job.detect.inference import Inference, fit_batch_size
from job.detect.model import Detector
from job.detect.pieces import Piece
from job.detect.prepare import PreparedImage, to_tensor
from job.detect.projection import make_signs
from job.errors import ServiceUnavailable
from job.storage import Entry
from job.storage.local import LocalFolder
from tests.conftest import DEMO_YAML, SMALL_RCNN, picture, random_checkpoint, settings
from tests.detect.conftest import MASK, build, prepared


class Nobody:
    """Nobody is told of the rows, and no part is written: the tests take the rows themselves."""

    def failed(self, row: parts.Row) -> None: ...

    def detected(self, count: int) -> None: ...

    def written(self, piece: Piece) -> None: ...

    def write_finished(self) -> None: ...


def rows_of(detector: Detector, images: list[Any], folder: Path, batch_size: int = 4) -> list[Any]:
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number:02d}.png"), image)
    source = LocalFolder(str(folder))
    entries = sorted(source.list(), key=lambda each: each.key)
    rows: list[parts.Row] = []
    images_and_rows = prepared(entries, source, detector)
    inference, never = Inference(detector, batch_size), threading.Event()
    runner._detect(images_and_rows, inference, Nobody(), never, rows, Nobody())  # type: ignore[arg-type]
    return sorted(rows, key=lambda row: row.file_name)


@pytest.fixture(scope="module")
def pictures() -> list[Any]:
    """Images of five shapes, two of them frequent."""
    sizes = [(120, 160), (160, 120), (120, 160), (90, 300), (64, 64), (120, 160), (160, 120), (97, 131)]
    return [picture(seed, *size) for seed, size in enumerate(sizes)]


def same_as_predictor(cfg: Any, rows: list[Any], images: list[Any]) -> int:
    predictor = DefaultPredictor(cfg)
    boxes = 0
    for image, row in zip(images, rows, strict=True):
        expected = predictor(image)["instances"]
        assert (row.height, row.width) == image.shape[:2]
        np.testing.assert_allclose(row.boxes, expected.pred_boxes.tensor, rtol=0, atol=1e-3)
        np.testing.assert_allclose(row.scores, expected.scores, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(row.classes, expected.pred_classes)
        boxes += len(expected)
    return boxes


@pytest.mark.parametrize("channels", ["BGR", "RGB"])
def test_boxes_match_the_default_predictor(tmp_path: Path, pictures: list[Any], channels: str) -> None:
    detector = build(tmp_path, SMALL_RCNN.replace("INPUT: {", f"INPUT: {{FORMAT: {channels}, "))
    rows = rows_of(detector, pictures, tmp_path / "in")
    cfg = config.read_cfg(settings(model=str(tmp_path / "model.yaml")))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", str(tmp_path / "model.pth")
    assert same_as_predictor(cfg, rows, pictures) > 20


@pytest.fixture(scope="module")
def both(small_rcnn: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Inference, DefaultPredictor]:
    """The small detector as the job runs it, and as detectron2 runs it, with scores that do not tie at 1."""
    yaml = str(small_rcnn[0])
    weights = str(random_checkpoint(small_rcnn[0], tmp_path_factory.mktemp("rcnn") / "small.pth", spread=0.2))
    cfg = config.read_cfg(settings(model=yaml))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", weights
    return Inference(model.build(settings(model=yaml, weights=weights)), 1), DefaultPredictor(cfg)


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 9))
@configure(max_examples=12, deadline=None)
def test_boxes_are_in_pixels_of_the_original_for_any_shape(
    both: tuple[Inference, DefaultPredictor], height: int, width: int, seed: int
) -> None:
    inference, predictor = both
    image = picture(seed, height, width)
    tensor = to_tensor(image, inference._detector)
    row: Any
    (row,) = inference.detect([PreparedImage(Entry("a", "", 0), tensor, height, width, b"")])
    # DefaultPredictor fails if the short side is rounded to 0; the job resizes it to one pixel.
    if min(tensor.shape[1:]) > 1:
        expected = predictor(image)["instances"]
        # Random weights amplify rounding: over 396 random shapes, up to 0.0012 pixels and 0.00023 in a score.
        np.testing.assert_allclose(row.boxes, expected.pred_boxes.tensor, rtol=0, atol=3e-3)
        np.testing.assert_allclose(row.scores, expected.scores, rtol=0, atol=1e-3)
    assert (row.boxes >= 0).all()
    assert (row.boxes[:, [0, 2]] <= width).all() and (row.boxes[:, [1, 3]] <= height).all()


def test_boxes_of_the_demo_model_match_the_default_predictor(
    demo_detector: Detector, frames: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: list[Any] = [cv2.imread(str(each)) for each in frames[100:250:30]]
    rows = rows_of(demo_detector, images, tmp_path / "in")
    cfg = config.read_cfg(settings(model=str(DEMO_YAML)))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""  # the predictor's own loader does not read Darknet files
    monkeypatch.setattr("detectron2.engine.defaults.build_model", lambda _: demo_detector.model)
    assert same_as_predictor(cfg, rows, images) > 10


def test_the_batch_size_hardly_changes_the_rows(
    small_rcnn: tuple[Path, Path], pictures: list[Any], tmp_path: Path
) -> None:
    # Not bit by bit: matrix products of different shapes may be summed in a different order.
    yaml, weights = small_rcnn
    detector = model.build(settings(model=str(yaml), weights=str(weights)))
    one, three = (rows_of(detector, pictures, tmp_path / f"in{size}", size) for size in (1, 3))
    for first, second in zip(one, three, strict=True):
        np.testing.assert_array_equal(first.classes, second.classes)
        np.testing.assert_allclose(first.boxes, second.boxes, rtol=0, atol=1e-3)
        np.testing.assert_allclose(first.scores, second.scores, rtol=0, atol=1e-5)
        np.testing.assert_allclose(first.class_probabilities, second.class_probabilities, rtol=0, atol=1e-3)
        assert first.feature is not None and second.feature is not None
        assert first.box_features is not None and first.box_features.shape == (len(first.scores), 64)
        for one_feature, other in ((first.feature, second.feature), (first.box_features, second.box_features)):
            # Features have numbers near 0, which are sums of large ones with both signs.
            np.testing.assert_allclose(one_feature, other, rtol=0, atol=2e-3 * np.abs(other).max())


def test_features_of_boxes_are_those_of_their_proposals_shortened(tmp_path: Path, pictures: list[Any]) -> None:
    detector: Any = build(tmp_path, SMALL_RCNN.replace("FC_DIM: 64", "FC_DIM: 128"))
    image, kept = pictures[0], list[torch.Tensor]()
    predictor = detector.model.roi_heads.box_predictor
    predictor.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    row: Any
    (row,) = rows_of(detector, [image], tmp_path / "in")
    assert row.box_features.dtype == np.float16 and len(row.box_features) == len(row.scores) > 3
    # Boxes of one proposal have one feature, so there are no others than those of the proposals.
    shortened = kept[0].half().double().numpy() @ make_signs(128, 64).T.astype(np.float64) / 8
    for feature in row.box_features:
        assert (feature == shortened.astype(np.float16)).all(axis=1).any()
    assert len(np.unique(row.box_features, axis=0)) > 1


def test_a_feature_of_a_box_that_is_not_finite_is_zeros(tmp_path: Path, pictures: list[Any]) -> None:
    detector: Any = build(tmp_path, SMALL_RCNN)
    head = detector.model.roi_heads.box_head
    head.register_forward_hook(lambda module, inputs, output: output.index_fill(1, torch.tensor([0]), 1e6))
    detector.model.roi_heads.box_predictor.cls_score.weight.data[:, 0] = 0
    detector.model.roi_heads.box_predictor.bbox_pred.weight.data[:, 0] = 0
    rows = rows_of(detector, pictures[:1], tmp_path / "in")
    assert len(rows[0].box_features) > 3 and not rows[0].box_features.any()
    output = LocalFolder(str(tmp_path / "out"))
    parts.write(output, rows, runner.provenance(detector))
    assert len(list(parts.read(output))) == 1  # 1e6 is too large for half precision, but what is written is valid


def test_masks_are_not_computed_and_change_no_box(tmp_path: Path, pictures: list[Any]) -> None:
    detector = build(tmp_path, MASK)
    with torch.inference_mode():
        (output,) = detector.model([{"image": torch.zeros(3, 96, 96)}])
    assert not output["instances"].has("pred_masks")
    rows = rows_of(detector, pictures, tmp_path / "in")
    cfg = config.read_cfg(settings(model=str(tmp_path / "model.yaml")))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", str(tmp_path / "model.pth")
    assert same_as_predictor(cfg, rows, pictures) > 20


def test_out_of_memory_halves_the_batch_and_loses_nothing(
    small_rcnn: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml, weights = small_rcnn
    detector = model.build(settings(model=str(yaml), weights=str(weights)))
    images = [picture(seed, 96, 96) for seed in range(11)]
    expected = rows_of(detector, images, tmp_path / "in", 1)
    forward, sizes = detector.model.forward, []

    def greedy(batch: list[Any]) -> Any:
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.cuda.OutOfMemoryError("no GPU is at hand to run out of memory: this stands in for it")
        return forward(batch)

    monkeypatch.setattr(detector.model, "forward", greedy)
    rows = rows_of(detector, images, tmp_path / "in", 8)
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 1]  # 11 images: the last three were batched after the failure
    for first, second in zip(expected, rows, strict=True):
        np.testing.assert_allclose(first.boxes, second.boxes, rtol=0, atol=1e-3)


def test_an_image_that_exceeds_gpu_memory_is_reported(
    small_rcnn: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = model.build(settings(model=str(small_rcnn[0]), weights=str(small_rcnn[1])))

    def full(batch: list[Any]) -> Any:
        raise torch.OutOfMemoryError("no GPU is at hand to run out of memory: this stands in for it")

    monkeypatch.setattr(detector.model, "forward", full)
    with pytest.raises(ServiceUnavailable, match="One image of 96x96 pixels does not fit into GPU memory"):
        rows_of(detector, [picture(0, 96, 96)], tmp_path / "in", 8)


@given(st.integers(0, 1 << 38), st.integers(0, 1 << 36))
def test_the_automatic_batch_size_fits_twice(memory: int, needed: int) -> None:
    size = fit_batch_size(memory, needed)
    assert size in (1, 2, 4, 8, 16, 32, 64)
    assert size == 1 or 2 * size * needed <= memory
    assert size == 64 or 4 * size * max(1, needed) > memory or needed == 0


@pytest.mark.parametrize("size", [(1, 5000), (5000, 3), (1, 1), (2, 700)])
def test_images_of_extreme_shape_run(small_rcnn: tuple[Path, Path], tmp_path: Path, size: tuple[int, int]) -> None:
    detector = model.build(settings(model=str(small_rcnn[0]), weights=str(small_rcnn[1])))
    (row,) = rows_of(detector, [picture(0, *size)], tmp_path / "in")
    assert row.status == "ok" and (row.height, row.width) == size


def test_half_precision_finds_nearly_the_same(small_rcnn: tuple[Path, Path], tmp_path: Path) -> None:
    yaml, weights = map(str, small_rcnn)
    images = [picture(seed, 96, 128) for seed in range(3)]
    full = rows_of(model.build(settings(model=yaml, weights=weights)), images, tmp_path / "in")
    half = rows_of(model.build(settings(model=yaml, weights=weights, precision="bf16")), images, tmp_path / "in")
    for first, second in zip(full, half, strict=True):
        np.testing.assert_allclose(first.scores[:3], second.scores[:3], atol=0.1)
