"""The map step's detections: what detectron2's own DefaultPredictor says of each image alone."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from detectron2.engine import DefaultPredictor
from hypothesis import given
from hypothesis import settings as configure
from hypothesis import strategies as st

from job import parts
from job.detect import config, model, runner
from job.detect.batches import Batcher
from job.detect.budget import Budget
from job.detect.cpu_turns import Turns
from job.detect.features import PooledFeature, find_backbone, find_deepest_map
from job.detect.inference import Inference, fit_batch_size
from job.detect.model import Detector
from job.detect.prepare import Preparation, PreparedImage, to_tensor
from job.errors import ServiceUnavailable
from job.storage import Entry, Listing, Source
from job.storage.local import LocalFolder
from tests.conftest import DEMO_YAML, SMALL_RCNN, picture, random_checkpoint, settings

MASK = SMALL_RCNN.replace(
    "  ROI_BOX_HEAD:",
    "  MASK_ON: true\n"
    "  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 1, CONV_DIM: 16, POOLER_RESOLUTION: 14}\n"
    "  ROI_BOX_HEAD:",
)


def build(tmp_path: Path, yaml_text: str, **more: Any) -> Detector:
    yaml = tmp_path / "model.yaml"
    yaml.write_text(yaml_text)
    weights = random_checkpoint(yaml, tmp_path / "model.pth")
    return model.build(settings(model=str(yaml), weights=str(weights), **more))


def prepared(entries: list[Entry], source: Source, detector: Detector) -> list[PreparedImage | parts.Row]:
    preparation = Preparation(source, detector, Budget(1 << 30), Turns(on_cpu=True))
    with ThreadPoolExecutor(2) as pool:
        return list(preparation.prepare(entries, pool, ahead=4))


def rows_of(detector: Detector, images: list[Any], folder: Path, batch_size: int = 4) -> list[Any]:
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number:02d}.png"), image)
    source = LocalFolder(str(folder))
    entries = sorted(source.list(), key=lambda each: each.key)
    rows: list[parts.Row] = []

    class NoProgress:
        def add(self, count: int = 1) -> None: ...

    images_and_rows = prepared(entries, source, detector)
    runner._detect(images_and_rows, Inference(detector, batch_size), NoProgress(), threading.Event(), rows)  # type: ignore[arg-type]
    return sorted(rows, key=lambda row: row.file_name)


@pytest.fixture(scope="module")
def pictures() -> list[Any]:
    """Of five shapes, two of them often."""
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
def test_boxes_are_those_of_the_default_predictor(tmp_path: Path, pictures: list[Any], channels: str) -> None:
    detector = build(tmp_path, SMALL_RCNN.replace("INPUT: {", f"INPUT: {{FORMAT: {channels}, "))
    rows = rows_of(detector, pictures, tmp_path / "in")
    cfg = config.read_cfg(settings(model=str(tmp_path / "model.yaml")))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", str(tmp_path / "model.pth")
    assert same_as_predictor(cfg, rows, pictures) > 20


@pytest.fixture(scope="module")
def both(small_rcnn: tuple[Path, Path]) -> tuple[Inference, DefaultPredictor]:
    """The small detector as the job runs it, and as detectron2 does."""
    yaml, weights = map(str, small_rcnn)
    cfg = config.read_cfg(settings(model=yaml))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", weights
    return Inference(model.build(settings(model=yaml, weights=weights)), 1), DefaultPredictor(cfg)


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 9))
@configure(max_examples=12, deadline=None)
def test_boxes_are_in_pixels_of_the_original_whatever_its_shape(
    both: tuple[Inference, DefaultPredictor], height: int, width: int, seed: int
) -> None:
    inference, predictor = both
    image = picture(seed, height, width)
    tensor = to_tensor(image, inference._detector)
    row: Any
    (row,) = inference.detect([PreparedImage(Entry("a", "", 0), tensor, height, width, b"")])
    # Where the short side would be rounded to nothing, DefaultPredictor fails, and ours is one pixel.
    if min(tensor.shape[1:]) > 1:
        expected = predictor(image)["instances"]
        np.testing.assert_allclose(row.boxes, expected.pred_boxes.tensor, rtol=0, atol=1e-3)
        np.testing.assert_allclose(row.scores, expected.scores, rtol=0, atol=1e-4)
    assert (row.boxes >= 0).all()
    assert (row.boxes[:, [0, 2]] <= width).all() and (row.boxes[:, [1, 3]] <= height).all()


def test_boxes_of_the_demo_model_are_those_of_the_default_predictor(
    demo_detector: Detector, frames: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: list[Any] = [cv2.imread(str(each)) for each in frames[100:250:30]]
    rows = rows_of(demo_detector, images, tmp_path / "in")
    cfg = config.read_cfg(settings(model=str(DEMO_YAML)))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""  # the predictor's own loader does not read Darknet files
    monkeypatch.setattr("detectron2.engine.defaults.build_model", lambda _: demo_detector.model)
    assert same_as_predictor(cfg, rows, images) > 10


def test_the_batch_size_changes_next_to_nothing(
    small_rcnn: tuple[Path, Path], pictures: list[Any], tmp_path: Path
) -> None:
    # Not bit by bit: matrix products of other shapes may be summed in another order.
    yaml, weights = small_rcnn
    detector = model.build(settings(model=str(yaml), weights=str(weights)))
    one, three = (rows_of(detector, pictures, tmp_path / f"in{size}", size) for size in (1, 3))
    for first, second in zip(one, three, strict=True):
        np.testing.assert_array_equal(first.classes, second.classes)
        np.testing.assert_allclose(first.boxes, second.boxes, rtol=0, atol=1e-3)
        np.testing.assert_allclose(first.scores, second.scores, rtol=0, atol=1e-5)
        np.testing.assert_allclose(first.class_probabilities, second.class_probabilities, rtol=0, atol=1e-3)
        np.testing.assert_allclose(first.feature, second.feature, rtol=2e-3, atol=1e-4)


def test_masks_are_not_computed_and_change_no_box(tmp_path: Path, pictures: list[Any]) -> None:
    detector = build(tmp_path, MASK)
    with torch.inference_mode():
        (output,) = detector.model([{"image": torch.zeros(3, 96, 96)}])
    assert not output["instances"].has("pred_masks")
    rows = rows_of(detector, pictures, tmp_path / "in")
    cfg = config.read_cfg(settings(model=str(tmp_path / "model.yaml")))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", str(tmp_path / "model.pth")
    assert same_as_predictor(cfg, rows, pictures) > 20


def test_the_feature_is_the_mean_over_the_image_without_its_padding(tmp_path: Path) -> None:
    detector = build(tmp_path, SMALL_RCNN)
    feature = PooledFeature(detector.model)
    feature.expect(96, 140)  # padded to 96 x 160 by the model
    image = torch.from_numpy(picture(0, 96, 140).transpose(2, 0, 1).copy())
    backbone = find_backbone(detector.model)
    seen: list[Any] = []
    assert backbone is not None
    backbone.register_forward_hook(lambda module, inputs, output: seen.append(find_deepest_map(output)))
    with torch.inference_mode():
        detector.model([{"image": image}])
    assert seen[0].shape == (1, 512, 3, 5) and feature.value is not None
    expected = seen[0][0, :, :, :5].mean(dim=(1, 2))  # 140 / 32 is 4.4: five columns have image in them
    torch.testing.assert_close(feature.value[0], expected)
    feature.expect(40, 60)
    with torch.inference_mode():
        detector.model([{"image": image}])
    torch.testing.assert_close(feature.value[0], seen[1][0, :, :2, :2].mean(dim=(1, 2)))


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
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 1]  # 11 images: the last three were taken in by then
    for first, second in zip(expected, rows, strict=True):
        np.testing.assert_allclose(first.boxes, second.boxes, rtol=0, atol=1e-3)


def test_a_gpu_too_small_for_one_image_is_said(
    small_rcnn: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = model.build(settings(model=str(small_rcnn[0]), weights=str(small_rcnn[1])))

    def full(batch: list[Any]) -> Any:
        raise torch.OutOfMemoryError("no GPU is at hand to run out of memory: this stands in for it")

    monkeypatch.setattr(detector.model, "forward", full)
    with pytest.raises(ServiceUnavailable, match="One image of 96x96 pixels does not fit into GPU memory"):
        rows_of(detector, [picture(0, 96, 96)], tmp_path / "in", 8)


@pytest.mark.parametrize(
    "error", [torch.AcceleratorError("unspecified launch failure"), RuntimeError("CUDNN_STATUS_X")]
)
def test_a_gpu_that_fails_on_the_way_ends_the_run_and_what_is_done_is_saved(
    small_rcnn: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    detector = model.build(settings(model=str(small_rcnn[0]), weights=str(small_rcnn[1])))
    forward, calls = detector.model.forward, itertools.count()

    def fail_later(batch: list[Any]) -> Any:
        if next(calls) == 4:
            raise error
        return forward(batch)

    monkeypatch.setattr(detector.model, "forward", fail_later)
    with pytest.raises(ServiceUnavailable, match="GPU error"):
        predict_all(
            detector, [picture(seed, 64, 64) for seed in range(7)], tmp_path, LocalFolder(str(tmp_path / "out"))
        )
    assert keys_in(tmp_path / "out") == ["00.png", "01.png", "02.png", "03.png"]


def predict_all(detector: Detector, images: list[Any], folder: Path, output: LocalFolder) -> None:
    """The map step, in parts of two images."""
    (folder / "in").mkdir(exist_ok=True)
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / "in" / f"{number:02d}.png"), image)
    source = LocalFolder(str(folder / "in"))
    never = threading.Event()
    runner.predict(Listing.of(source.list()), source, output, detector, set(), batch_size=1, part_size=2, stop=never)


def keys_in(folder: Path) -> list[str]:
    """The images in all parts."""
    return sorted(key for part in folder.glob("parts/part-*") for key in pq.read_table(part)["key"].to_pylist())


class Failing(LocalFolder):
    """A folder whose first write fails."""

    writes = 0

    def write(self, key: str, data: bytes) -> None:
        type(self).writes += 1
        if self.writes == 1:
            raise ServiceUnavailable("the store is gone for a moment")
        super().write(key, data)


def test_a_part_that_cannot_be_written_takes_no_other_with_it(
    small_rcnn: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Failing, "writes", 0)
    detector = model.build(settings(model=str(small_rcnn[0]), weights=str(small_rcnn[1])))
    with pytest.raises(ServiceUnavailable, match="gone for a moment"):
        predict_all(detector, [picture(seed, 64, 64) for seed in range(8)], tmp_path, Failing(str(tmp_path / "out")))
    assert keys_in(tmp_path / "out") == ["02.png", "03.png"]  # made meanwhile, and saved


def test_a_library_that_fails_on_an_image_does_not_end_the_job(
    small_rcnn: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = model.build(settings(model=str(small_rcnn[0]), weights=str(small_rcnn[1])))

    def surprise(data: bytes) -> Any:
        raise cv2.error("out of ideas")

    monkeypatch.setattr("job.images.decode", surprise)
    predict_all(detector, [picture(0, 64, 64)], tmp_path, LocalFolder(str(tmp_path / "out")))
    (part,) = (tmp_path / "out").glob("parts/part-*")
    (row,) = pq.read_table(part).to_pylist()
    assert (row["status"], row["error"]) == ("failed", "a library failed to process it (error: out of ideas)")


@given(st.integers(0, 1 << 38), st.integers(0, 1 << 36))
def test_the_automatic_batch_size_fits_twice_over(memory: int, needed: int) -> None:
    size = fit_batch_size(memory, needed)
    assert size in (1, 2, 4, 8, 16, 32, 64)
    assert size == 1 or 2 * size * needed <= memory
    assert size == 64 or 4 * size * max(1, needed) > memory or needed == 0


@given(st.lists(st.sampled_from("abcdef"), max_size=60), st.integers(1, 5), st.integers(1, 8), st.integers(0, 2**16))
def test_batches_have_one_shape_each_image_once_and_bounded_waiting(
    shapes: list[str], batch_size: int, waiting: int, seed: int
) -> None:
    batcher = Batcher[tuple[str, int]](batch_size, waiting, max_bytes=10**9)
    batches, held = [], 0
    for number, shape in enumerate(shapes):
        batch = batcher.add(shape, (shape, number), 1)
        held += 1 - len(batch)
        assert held <= waiting
        batches += [batch] if batch else []
    batches += batcher.flush()
    assert sorted(number for batch in batches for _, number in batch) == list(range(len(shapes)))
    assert all(len({shape for shape, _ in batch}) == 1 and len(batch) <= batch_size for batch in batches)


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


def test_an_unusable_file_is_a_row(demo_detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"nothing of the sort")
    source = LocalFolder(str(tmp_path))
    entries = [*source.list(), Entry("gone.jpg", "e", 1), Entry("broken.jpg", "other", 19)]
    row, gone, changed = prepared(entries, source, demo_detector)
    assert isinstance(row, parts.Row) and row.status == "failed" and "not an image" in str(row.error)
    assert isinstance(changed, parts.Row) and changed.status == "unread" and "changed" in str(changed.error)
    assert isinstance(gone, parts.Row) and "deleted" in str(gone.error)


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda':UserWarning")
def test_the_way_to_the_gpu_and_back_changes_nothing(
    small_rcnn: tuple[Path, Path], pictures: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: the CPU answers to its name, and what only CUDA has stands aside."""
    detector = model.build(settings(model=str(small_rcnn[0]), weights=str(small_rcnn[1])))
    expected = rows_of(detector, pictures, tmp_path / "in", 2)
    to, moved = torch.Tensor.to, []

    def to_cpu(tensor: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if arguments and arguments[0] == torch.device("cuda"):
            moved.append(tuple(tensor.shape))
            return tensor
        return to(tensor, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", to_cpu)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(Detector, "device", property(lambda _: torch.device("cuda")))
    for name in ("reset_peak_memory_stats", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 0)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 1 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=5 << 30))
    assert Inference(detector).batch_size == 2  # in half of all memory
    moved.clear()
    rows = rows_of(detector, pictures, tmp_path / "in", 2)
    assert moved and all(len(shape) == 4 and shape[0] <= 2 for shape in moved)  # whole batches, as bytes
    for first, second in zip(expected, rows, strict=True):
        for name in ("boxes", "scores", "classes", "class_probabilities", "feature"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
