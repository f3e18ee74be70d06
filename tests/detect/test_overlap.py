"""Batches on their way to and from the GPU: nothing is read too early, and nothing is lost when memory runs out."""

import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from job import parts
from job.detect import model, runner
from job.detect.copies import OnItsWay
from job.detect.features import find_backbone
from job.detect.forward import Forward, Pass
from job.detect.inference import Inference
from job.detect.model import Detector
from job.detect.part_writer import PartWriter
from job.detect.prepare import PreparedImage, to_tensor
from job.errors import ServiceUnavailable
from job.storage import Entry, Listing
from job.storage.local import LocalFolder
from tests.conftest import picture, random_checkpoint, settings
from tests.detect.fake_gpu import FakeGpu, fake_gpu

__all__ = ["fake_gpu"]
pytestmark = pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda':UserWarning")
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
]


@pytest.fixture(scope="module")
def detector(small_rcnn: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Detector:
    folder = tmp_path_factory.mktemp("overlap")
    weights = random_checkpoint(small_rcnn[0], folder / "small.pth", spread=0.2)
    return model.build(settings(model=str(small_rcnn[0]), weights=str(weights)))


def make_images(detector: Detector, count: int, height: int = 96, width: int = 96) -> list[PreparedImage]:
    images = [picture(seed, height, width) for seed in range(count)]
    return [
        PreparedImage(Entry(f"{number:02d}", "", 0), to_tensor(image, detector), height, width, b"")
        for number, image in enumerate(images)
    ]


def same(first: list[parts.Row], second: list[parts.Row], tolerance: float = 0.0) -> bool:
    assert [row.file_name for row in first] == [row.file_name for row in second]
    for name in ("boxes", "scores", "classes", "class_probabilities", "feature", "box_features"):
        for one, other in zip(first, second, strict=True):
            expected = getattr(other, name)
            # A number of a shortened feature is a sum over all of it, so its rounding goes by the size of the whole.
            size = float(np.sqrt(np.square(expected, dtype=np.float64).mean())) if "feature" in name else 1.0
            np.testing.assert_allclose(getattr(one, name), expected, tolerance, tolerance * size, err_msg=name)
    return True


@pytest.fixture
def inference(detector: Detector, fake_gpu: FakeGpu) -> Iterator[Inference]:
    inference = Inference(detector, 4)
    yield inference
    inference.close()


def submit(inference: Inference, images: list[PreparedImage], size: int = 4) -> tuple[list[parts.Row], list[int]]:
    """Runs images in batches; returns the rows, and how many images were finished by each call."""
    rows: list[parts.Row] = []
    counts = [inference.submit(images[start : start + size], rows) for start in range(0, len(images), size)]
    return rows, [*counts, inference.finish()]


def test_batches_on_their_way_have_the_rows_of_batches_one_by_one(inference: Inference, fake_gpu: FakeGpu) -> None:
    images = make_images(inference._detector, 14)
    one_by_one = [row for start in range(0, 14, 4) for row in inference.detect(images[start : start + 4])]
    fake_gpu.threads.clear()
    rows, counts = submit(inference, images)
    assert sum(len(row.scores) for row in rows if row.scores is not None) > 50
    assert same(rows, one_by_one)
    assert counts == [0, 0, 0, 4, 10]  # while one becomes rows, two are computed and one is copied
    assert fake_gpu.threads == {"copy_0"}  # never the thread that runs the model
    assert inference.finish() == 0


def test_the_gpu_has_the_next_batch_before_this_thread_waits(
    inference: Inference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of Faster R-CNN is waited for twice: for the number of proposals, and for its results."""
    seen: list[str] = []

    def note(place: str, then: Any) -> Any:
        def call(*arguments: Any) -> Any:
            seen.append(place)
            return then(*arguments)

        return call

    network: Any = inference._detector.model
    monkeypatch.setattr(network.backbone, "forward", note("backbone", network.backbone.forward))
    monkeypatch.setattr(network.roi_heads.box_head, "forward", note("head", network.roi_heads.box_head.forward))
    monkeypatch.setattr(OnItsWay, "wait", note("wait", OnItsWay.wait))
    rows, _ = submit(inference, make_images(inference._detector, 16))
    assert len(rows) == 16
    first, middle, last = ["backbone"], ["backbone", "wait", "head"], ["wait", "head", "wait", "wait"]
    assert seen == [*first, *middle, *[*middle, "wait"] * 2, *last]


def test_a_gpu_gives_the_rows_of_the_cpu(detector: Detector, request: pytest.FixtureRequest) -> None:
    """Batch norms are folded, and images are normalised together: results differ by rounding."""
    images = make_images(detector, 4, 90, 130)  # padded to 96 x 160
    before = {name: value.clone() for name, value in detector.model.state_dict().items()}
    expected = Inference(detector, 1).detect(images)
    fake = request.getfixturevalue("fake_gpu")
    inference = Inference(detector)
    assert inference.batch_size == 2  # in half of all memory
    assert same(submit(inference, images)[0], expected, tolerance=2e-3)
    assert {shape[0] for shape, _ in fake.sent[-2:]} == {2}
    inference.close()
    after = detector.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert "preprocess_image" not in vars(detector.model)
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:40])
def test_out_of_memory_of_any_kind_halves_the_batches(
    inference: Inference, monkeypatch: pytest.MonkeyPatch, fake_gpu: FakeGpu, error: RuntimeError
) -> None:
    images = make_images(inference._detector, 14)
    expected, _ = submit(inference, images, 2)
    backbone: Any = inference._detector.model.backbone
    forward, sizes = backbone.forward, []

    def greedy(batch: torch.Tensor) -> Any:
        sizes.append(len(batch))
        if len(sizes) > 1 and len(batch) > 2:
            raise error
        return forward(batch)

    monkeypatch.setattr(backbone, "forward", greedy)
    rows, counts = submit(inference, images)
    # The second batch fails. It and the first one, whose results may be damaged, run again one by one.
    assert sizes == [4, 4, 2, 2, 2, 2, 2, 2, 2]
    assert same(rows, expected, tolerance=2e-3)
    assert (sum(counts), inference.limit.of(96, 96), fake_gpu.flushes) == (14, 2, 1)


@pytest.mark.parametrize("place", ["copy", "head", "results"])
def test_out_of_memory_beside_the_model_is_found(
    inference: Inference, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """In the thread that copies, in later steps, and in work of the GPU whose error appears when results are read."""
    images = make_images(inference._detector, 12)
    expected, _ = submit(inference, images)
    calls = itertools.count()

    def fail_once(then: Any) -> Any:
        def call(*arguments: Any) -> Any:
            if next(calls) == 1:
                raise torch.AcceleratorError("CUDA error: out of memory")
            return then(*arguments)

        return call

    if place == "copy":
        monkeypatch.setattr(inference._copies, "_send", fail_once(inference._copies._send))  # type: ignore[union-attr]
    elif place == "head":  # that of the first batch
        head: Any = inference._detector.model.roi_heads
        monkeypatch.setattr(head.box_head, "forward", fail_once(head.box_head.forward))
    else:
        monkeypatch.setattr(inference._forward, "read", fail_once(inference._forward.read))
    rows, counts = submit(inference, images)
    assert same(rows, expected, tolerance=2e-3)
    assert (sum(counts), inference.limit.of(96, 96)) == (12, 2)


@pytest.mark.parametrize("sizes", [(4, 1), (1, 4)])
def test_the_largest_batch_is_to_blame(
    inference: Inference, monkeypatch: pytest.MonkeyPatch, fake_gpu: FakeGpu, sizes: tuple[int, int]
) -> None:
    """The rest of a batch may run out of memory after the next one has been started."""
    images = make_images(inference._detector, 5)
    expected, _ = submit(inference, images, 1)
    network: Any = inference._detector.model
    head = network.roi_heads.box_head
    forward, most = head.forward, 3 * network.proposal_generator.post_nms_topk[False]
    maps: list[weakref.ref[torch.Tensor]] = []
    left: list[int] = []

    def greedy(pooled: torch.Tensor) -> Any:
        if len(pooled) > most:
            raise torch.OutOfMemoryError("no GPU is at hand to run out of memory: this stands in for it")
        return forward(pooled)

    def keep(_: Any, inputs: Any, features: dict[str, torch.Tensor]) -> None:
        maps.extend(weakref.ref(feature) for feature in features.values())

    monkeypatch.setattr(head, "forward", greedy)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.append(sum(each() is not None for each in maps)))
    hook = network.backbone.register_forward_hook(keep)
    rows: list[parts.Row] = []
    inference.submit(images[: sizes[0]], rows)
    inference.submit(images[sizes[0] :], rows)
    inference.finish()
    hook.remove()
    assert same(rows, expected, tolerance=2e-3)
    assert inference.limit.of(96, 96) == 2
    assert left == [0], "all feature maps are freed before the memory is given back"


def test_a_gpu_without_memory_for_two_images_takes_one_after_the_other(
    inference: Inference, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inference.limit.halve(1, 96, 96)
    images = make_images(inference._detector, 6)
    expected, _ = submit(inference, images, 1)
    network: Any = inference._detector.model
    head, start = network.roi_heads.box_head, inference._forward.start
    forward, started = head.forward, weakref.WeakSet[Any]()

    def note(*arguments: Any) -> Pass:
        work = start(*arguments)
        started.add(work.steps)
        return work

    def greedy(pooled: torch.Tensor) -> Any:
        if sum(steps.gi_frame is not None for steps in started) > 1:
            raise torch.OutOfMemoryError("no GPU is at hand to run out of memory: this stands in for it")
        return forward(pooled)

    monkeypatch.setattr(inference._forward, "start", note)
    monkeypatch.setattr(head, "forward", greedy)
    rows, counts = submit(inference, images, 1)
    assert same(rows, expected, tolerance=2e-3)
    assert sum(counts) == 6
    assert [record.message for record in caplog.records] == [
        "The GPU has no memory for two images at a time: continuing with one after the other."
    ]


def test_one_image_that_exceeds_memory_is_reported(inference: Inference, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(batch: torch.Tensor) -> Any:
        raise torch.OutOfMemoryError("no GPU is at hand to run out of memory: this stands in for it")

    monkeypatch.setattr(inference._detector.model.backbone, "forward", full)
    with pytest.raises(ServiceUnavailable, match="One image of 96x96 pixels does not fit into GPU memory"):
        submit(inference, make_images(inference._detector, 8))
    assert inference.finish() == 0  # no batch is left that would fail again


def test_numbers_beyond_half_precision_are_noticed(inference: Inference, caplog: pytest.LogCaptureFixture) -> None:
    def overflow(*_: Any) -> None:
        assert inference._forward._feature.value is not None
        inference._forward._feature.value[1] = 1e6

    backbone = find_backbone(inference._detector.model)
    assert backbone is not None
    hook = backbone.register_forward_hook(overflow)  # after that of the features
    rows, _ = submit(inference, make_images(inference._detector, 3))
    hook.remove()
    (record,) = caplog.records
    features = [row.feature for row in rows if row.feature is not None]
    assert [bool(feature.any()) for feature in features] == [True, False, True]
    assert np.isfinite(features).all()  # otherwise their part would be damaged, and detected again by each start
    assert "The features of '01' are not finite" in record.message and "set it to bf16" in record.message


def test_shapes_that_do_not_fit_leave_smaller_ones_alone(inference: Inference, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone: Any = inference._detector.model.backbone
    forward = backbone.forward

    def greedy(batch: torch.Tensor) -> Any:
        height, width = batch.shape[2:]
        if len(batch) * height * width > 3 * 96 * 160:
            raise torch.OutOfMemoryError("no GPU is at hand to run out of memory: this stands in for it")
        return forward(batch)

    monkeypatch.setattr(backbone, "forward", greedy)
    rows, _ = submit(inference, make_images(inference._detector, 4, 96, 160))
    assert len(rows) == 4
    assert [inference.limit.of(*size) for size in ((96, 160), (96, 96), (64, 64))] == [2, 3, 4]


def write(folder: Path, images: list[Any]) -> None:
    folder.mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number:02d}.png"), image)


def test_rows_go_to_the_parts_of_their_images(detector: Detector, fake_gpu: FakeGpu, tmp_path: Path) -> None:
    """Batches of one part are on their way while the next part begins."""
    keys = [f"{number:02d}.png" for number in range(11)]
    write(tmp_path / "in", [picture(number, 64, 64 + 32 * (number % 2)) for number in range(11)])
    (tmp_path / "in" / "05.png").write_bytes(b"nothing of the sort")
    source, output = LocalFolder(str(tmp_path / "in")), LocalFolder(str(tmp_path / "out"))
    listing = Listing.from_entries(source.list())
    never = threading.Event()
    runner.predict(listing, source, output, detector, set(), batch_size=2, part_size=4, stop=never)
    written = [sorted(pq.read_table(part)["key"].to_pylist()) for part in (tmp_path / "out" / "parts").iterdir()]
    assert sorted(written) == [keys[:4], keys[4:8], keys[8:]]


def test_shards_on_gpus_of_unlike_memory_have_the_same_batches(
    detector: Detector, fake_gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in", [picture(number, 64, 64) for number in range(16)])
    source, output = LocalFolder(str(tmp_path / "in")), LocalFolder(str(tmp_path / "out"))
    listing, never = Listing.from_entries(source.list()), threading.Event()
    sizes: dict[int, list[int]] = {}
    for memory in (5 << 30, 17 << 30):  # alone, the second one would take 8 images at a time
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda _, memory=memory: SimpleNamespace(total_memory=memory)
        )
        del fake_gpu.sent[:]
        runner.predict(listing, source, output, detector, set(), batch_size=None, part_size=16, stop=never)
        sizes[memory] = [shape[0] for shape, _ in fake_gpu.sent if shape[2:] == (96, 96)]
    assert sizes == {5 << 30: [2] * 8, 17 << 30: [2] * 8}


def test_a_part_is_written_when_its_last_batch_is_there(
    detector: Detector, fake_gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a kill loses little: the next part has many batches."""
    write(tmp_path / "in", [picture(number, 64, 64) for number in range(16)])
    source, output = LocalFolder(str(tmp_path / "in")), LocalFolder(str(tmp_path / "out"))
    started: list[int] = []
    written: list[int] = []
    start, write_part = Forward.start, PartWriter._write

    def count_start(forward: Forward, images: list[PreparedImage], batch: Any) -> Any:
        started.append(len(images))
        return start(forward, images, batch)

    def count_part(writer: PartWriter, rows: list[parts.Row], told: Callable[[], None]) -> None:
        written.append(len(started))
        write_part(writer, rows, told)

    monkeypatch.setattr(Forward, "start", count_start)
    monkeypatch.setattr(PartWriter, "_write", count_part)
    listing, never = Listing.from_entries(source.list()), threading.Event()
    runner.predict(listing, source, output, detector, set(), batch_size=2, part_size=8, stop=never)
    assert started == [2] * 8
    assert written == [6, 8]  # two more batches are computed while the fourth becomes rows


def test_a_stop_saves_the_batches_on_their_way(detector: Detector, fake_gpu: FakeGpu, tmp_path: Path) -> None:
    write(tmp_path / "in", [picture(number, 64, 64) for number in range(12)])
    source, output = LocalFolder(str(tmp_path / "in")), LocalFolder(str(tmp_path / "out"))
    backbone: Any = detector.model.backbone
    stop, forward = threading.Event(), backbone.forward

    def stop_later(batch: torch.Tensor) -> Any:
        stop.set()
        return forward(batch)

    backbone.forward = stop_later
    try:
        listing = Listing.from_entries(source.list())
        runner.predict(listing, source, output, detector, set(), batch_size=2, part_size=6, stop=stop)
    finally:
        del backbone.forward
    (part,) = (tmp_path / "out" / "parts").iterdir()
    # The model starts when two batches are there. No third one is filled.
    assert pq.read_table(part)["key"].to_pylist() == ["00.png", "01.png", "02.png", "03.png"]


@pytest.mark.parametrize("most", [2048, 20])
def test_images_that_are_not_settled_run_again_alone(
    inference: Inference, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """With few candidates suppression cannot settle an image, so detectron2's own inference does."""
    images = make_images(inference._detector, 6)
    expected = [row for image in images for row in inference.detect([image])]
    monkeypatch.setattr("job.detect.batched.choice.MAX_CANDIDATES", most)
    forward, calls = inference._detector.model.forward, []

    def run_alone(inputs: list[Any]) -> Any:
        calls.append(len(inputs))
        return forward(inputs)

    monkeypatch.setattr(inference._detector.model, "forward", run_alone)
    assert same(submit(inference, images)[0], expected, tolerance=2e-3)
    assert set(calls) == ({1} if most == 20 else set())
