"""Preparation of images for the detector."""

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest

from job import images, parts
from job.budget import Budget
from job.detect import prepare, runner
from job.detect.cpu_turns import Turns
from job.detect.model import Detector
from job.detect.prepare import Preparation, PreparedImage, to_tensor
from job.images import jpeg
from job.prefetch import Workers
from job.storage import Entry, Listing
from job.storage.local import LocalFolder
from tests.conftest import picture
from tests.detect.conftest import prepared


def test_an_unusable_file_is_a_row(demo_detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"nothing of the sort")
    source = LocalFolder(str(tmp_path))
    entries = [*source.list(), Entry("gone.jpg", "e", 1), Entry("broken.jpg", "other", 19)]
    row, gone, changed = prepared(entries, source, demo_detector)
    assert isinstance(row, parts.Row) and row.status == "failed" and "not an image" in str(row.error)
    assert isinstance(changed, parts.Row) and changed.status == "unread" and "changed" in str(changed.error)
    assert isinstance(gone, parts.Row) and "deleted" in str(gone.error)


def detector(precision: str, channels: str = "BGR", min_size: int = 80) -> Any:
    return SimpleNamespace(precision=precision, channels=channels, min_size=min_size, max_size=133)


def by_pillow(image: Any, size: tuple[int, int]) -> Any:
    """The resizing of DefaultPredictor, as detectron2 documents it: Pillow, bilinear, width before height."""
    return np.asarray(PIL.Image.fromarray(image).resize(size[::-1], PIL.Image.Resampling.BILINEAR)).transpose(2, 0, 1)


SHAPES = {(180, 240): (80, 107), (45, 60): (80, 107), (72, 128): (75, 133), (720, 1280): (75, 133), (1, 300): (1, 133)}


@pytest.mark.parametrize("channels", ["BGR", "RGB"])
@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_in_fp32_are_those_of_pillow(shape: tuple[int, int], channels: str) -> None:
    image = picture(3, *shape)
    tensor = to_tensor(image, detector("fp32", channels))
    ordered = image if channels == "BGR" else np.ascontiguousarray(image[:, :, ::-1])
    np.testing.assert_array_equal(tensor, by_pillow(ordered, SHAPES[shape]))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("channels", ["BGR", "RGB"])
@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_in_half_precision_are_at_most_one_level_off(
    shape: tuple[int, int], channels: str, precision: str
) -> None:
    image = picture(3, *shape)
    tensor = to_tensor(image, detector(precision, channels))
    ordered = image if channels == "BGR" else np.ascontiguousarray(image[:, :, ::-1])
    moved = np.abs(tensor.numpy().astype(int) - by_pillow(ordered, SHAPES[shape]))
    assert moved.max() <= 1 and moved.mean() < 0.01


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("channels", ["BGR", "RGB"])
@pytest.mark.parametrize("min_size", [0, 80, 72])
def test_the_memory_stays_in_rows_of_pixels(min_size: int, channels: str, precision: str) -> None:
    """Nothing is transposed, which costs as much as the resizing; and an image of the right size is not resized."""
    image = picture(3, 72, 128)
    tensor = to_tensor(image, detector(precision, channels, min_size))
    assert tensor.permute(1, 2, 0).is_contiguous()
    if min_size != 80:
        ordered = image if channels == "BGR" else image[:, :, ::-1]
        np.testing.assert_array_equal(tensor.permute(1, 2, 0), ordered)


@pytest.mark.parametrize(("kind", "bytes_per_pixel"), [("jpg", 11), ("png", 22)])
def test_ordinary_jpegs_are_expected_to_need_half_the_memory(
    kind: str, bytes_per_pixel: int, demo_detector: Detector, tmp_path: Path
) -> None:
    file = tmp_path / f"a.{kind}"
    PIL.Image.fromarray(picture(3, 300, 400)).save(file)
    source, budget = LocalFolder(str(tmp_path)), Budget(1 << 30)
    with Workers(1) as executor:
        list(Preparation(source, demo_detector, budget, Turns(True)).prepare(source.list(), executor, ahead=1))
    assert budget.peak == file.stat().st_size + bytes_per_pixel * 300 * 400


def make_scans(count: int, side: int = 64) -> bytes:
    """A valid grey progressive JPEG (ITU T.81) whose scans after the first are empty: runs of blocks with no value."""
    blocks = (side // 8) ** 2
    scan = b"\xff\xda\x00\x08\x01\x01\x00"
    runs = "".join("0" + "1" * 14 for _ in range(-(-blocks // (2**15 - 1))))
    bits = runs + "1" * (-len(runs) % 8)
    empty = bytes(int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)).replace(b"\xff", b"\xff\x00")
    return b"".join(
        [
            b"\xff\xd8\xff\xdb\x00\x43\x00" + b"\x01" * 64,
            b"\xff\xc2\x00\x0b\x08" + side.to_bytes(2, "big") * 2 + b"\x01\x01\x11\x00",
            b"\xff\xc4\x00\x14\x00\x01" + bytes(15) + b"\x00",
            b"\xff\xc4\x00\x14\x10\x01" + bytes(15) + b"\xe0",
            scan + b"\x00\x00\x00" + bytes(-(-blocks // 8)),
            (scan + b"\x01\x3f\x00" + empty) * (count - 1),
            b"\xff\xd9",
        ]
    )


def test_scans_of_a_jpeg_are_limited() -> None:
    assert jpeg.count_scans(make_scans(500)) == 500
    assert images.decode(make_scans(500)).shape == (64, 64, 3)
    with pytest.raises(images.ImageError, match="its 501 scans are more than the limit of 500"):
        images.decode(make_scans(501))


@pytest.mark.parametrize(("progressive", "scans"), [(False, 1), (True, 10)])
def test_scans_are_counted_up_to_the_end_of_the_image(progressive: bool, scans: int) -> None:
    file = io.BytesIO()
    # The thumbnail in the metadata and whatever follows the image have scans of their own.
    exif = PIL.Image.Exif()
    exif[0x9286] = make_scans(9)
    PIL.Image.fromarray(picture(1, 90, 70)).save(file, "JPEG", progressive=progressive, exif=exif)
    assert jpeg.count_scans(file.getvalue() + make_scans(600)) == scans
    assert jpeg.count_scans(b"no JPEG") == jpeg.count_scans(b"") == 0
    assert jpeg.count_scans(b"\xff\xd8\xff") == 0


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Makes the decoder hang on images of 33 x 33 pixels until the test ends."""
    released, decode = threading.Event(), images.decode

    def hang(data: bytes) -> Any:
        image = decode(data)
        if image.shape[:2] == (33, 33):
            released.wait(15)
        return image

    monkeypatch.setattr(images, "decode", hang)
    yield released
    released.set()


def write_images(folder: Path, *sizes: int) -> LocalFolder:
    for number, size in enumerate(sizes):
        PIL.Image.fromarray(picture(number, size, size)).save(folder / f"{number}.png")
    return LocalFolder(str(folder))


def test_an_image_that_takes_too_long_is_a_row(
    demo_detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: threading.Event
) -> None:
    monkeypatch.setattr(prepare, "MAX_DECODING_SECONDS", 0.5)
    # More of them than threads, so that threads have to be replaced.
    source = write_images(tmp_path, 64, *[33] * 5, 64)
    entries = sorted(source.list(), key=lambda entry: entry.key)
    first, *rows, last = prepared(entries, source, demo_detector)
    assert isinstance(first, PreparedImage) and isinstance(last, PreparedImage)
    for row in rows:
        assert isinstance(row, parts.Row)
        assert (row.status, row.error) == ("failed", "decoding it takes longer than 0.5 seconds")
    assert not slow.is_set()


def test_threads_are_replaced_when_all_images_are_submitted(
    demo_detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: threading.Event
) -> None:
    monkeypatch.setattr(prepare, "MAX_DECODING_SECONDS", 0.5)
    source = write_images(tmp_path, 33, 33, 33, 64)
    entries = sorted(source.list(), key=lambda entry: entry.key)
    preparation = Preparation(source, demo_detector, Budget(1 << 30), Turns(on_cpu=True))
    executor = Workers(1)
    start = time.monotonic()
    *rows, last = preparation.prepare(entries, executor, ahead=4)
    assert time.monotonic() - start < 10  # the threads come back after 15 seconds
    assert [row.status for row in rows if isinstance(row, parts.Row)] == ["failed"] * 3
    assert isinstance(last, PreparedImage)
    slow.set()
    executor.shutdown()


def test_waiting_for_memory_does_not_count_as_decoding(
    demo_detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "MAX_DECODING_SECONDS", 1.2)
    decode = images.decode

    def decode_slowly(data: bytes) -> Any:
        time.sleep(0.4)
        return decode(data)

    monkeypatch.setattr(images, "decode", decode_slowly)
    source = write_images(tmp_path, *[64] * 6)
    entries = sorted(source.list(), key=lambda entry: entry.key)
    # There is memory for all files, but only for the pixels of one, so the last one waits for all others.
    budget = Budget(sum(entry.size for entry in entries) + 22 * 64 * 64)
    preparation = Preparation(source, demo_detector, budget, Turns(on_cpu=True))
    with Workers(6) as executor:
        found = list(preparation.prepare(entries, executor, ahead=6))
    assert all(isinstance(image, PreparedImage) for image in found)


def test_a_stop_is_heeded_while_an_image_is_waited_for(
    demo_detector: Detector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    slow: threading.Event,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(prepare, "_SECONDS_UNTIL_NAMED", 0.5)
    source = write_images(tmp_path, 64, 33, 64)
    stop = threading.Event()
    threading.Timer(2, stop.set).start()
    output = LocalFolder(str(tmp_path / "out"))
    listing = Listing.from_entries(source.list())
    start = time.monotonic()
    runner.predict(listing, source, output, demo_detector, set(), batch_size=1, part_size=None, stop=stop)
    assert time.monotonic() - start < 30
    (part,) = parts.read(output)
    assert part.table["key"].to_pylist() == ["0.png"]  # what is done is saved
    assert [message for message in caplog.messages if "Waiting" in message] == [
        "Waiting for '1.png', which is still being decoded."
    ]
