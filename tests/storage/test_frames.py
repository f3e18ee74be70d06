"""Frames of videos in the place of the videos, in every kind of input."""

import io
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from job.errors import ServiceUnavailable, Stopped
from job.images import ImageError, decode
from job.packages import explain_missing_package
from job.storage import Listing, frames, open_source
from job.storage.frames import VideoSource
from job.video import Sampling, deadline
from job.video.clip import Clip
from job.video.names import split_time
from tests.conftest import ROOT, S3
from tests.video.clips import copy_stream, draw, read_number, write_video

PICTURES = [draw(number) for number in range(60)]
GOP = {"g": "12", "bf": "3"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos, an image, and a file that claims to be a video."""
    (tmp_path / "in" / "day 1").mkdir(parents=True)
    write_video(tmp_path / "in" / "day 1" / "drive.MP4", PICTURES, options=GOP)
    write_video(tmp_path / "in" / "short.mkv", PICTURES[:3], options=GOP)
    (tmp_path / "in" / "broken.mov").write_bytes(b"dash cam without power")
    cv2.imwrite(str(tmp_path / "in" / "still.png"), draw(5))
    return tmp_path / "in"


def open_frames(uri: Path | str, rule: str = "fps:2") -> VideoSource:
    return open_source(str(uri), threading.Event(), Sampling.parse(rule))


FRAMES = [f"day 1/drive-{number:02}-MP4.png" for number in (0, 13, 25, 38, 50)]


def number_of(source: VideoSource, key: str, etag: str | None = None) -> int:
    data = np.frombuffer(source.read(key, etag), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert image is not None
    return read_number(image.astype(np.uint8))


def test_frames_are_listed_and_read_like_images(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = open_frames(folder)
    entries = {entry.key: entry for entry in source.list()}
    assert sorted(entries) == ["broken.mov", *FRAMES, "short-0-mkv.png", "still.png"]
    assert "3 videos with CORAL_FRAMES=fps:2: 7 frames." in caplog.text
    assert [number_of(source, key, entries[key].etag) for key in FRAMES] == [0, 13, 25, 38, 50]
    assert number_of(source, "still.png") == 5
    with pytest.raises(ImageError, match="it is no video that can be read"):
        source.read("broken.mov", entries["broken.mov"].etag)


def test_frames_are_read_without_a_listing_and_checked_against_it(folder: Path) -> None:
    etag = next(entry.etag for entry in open_frames(folder).list() if entry.key == FRAMES[3])
    assert etag.endswith("#t=1.520")
    later = open_frames(folder)
    assert number_of(later, FRAMES[3], etag) == 38
    write_video(folder / "day 1" / "drive.MP4", PICTURES[::-1], options=GOP)
    with pytest.raises(OSError, match="its video has changed since the listing"):
        open_frames(folder).read(FRAMES[3], etag)
    (folder / "day 1" / "drive.MP4").unlink()
    with pytest.raises(FileNotFoundError):
        open_frames(folder).read(FRAMES[3], etag)


def test_a_frame_is_read_by_its_name_alone(folder: Path) -> None:
    """Imported predictions name frames, and no listing of theirs has ETags."""
    source = open_frames(folder)
    assert [number_of(source, key) for key in FRAMES] == [0, 13, 25, 38, 50]
    assert source.read_range(FRAMES[1], 0, 2) in (b"BM", b"\x89P")
    with pytest.raises(OSError):
        source.read("day 1/gone-07-mp4.png")
    with pytest.raises(FileNotFoundError):
        open_frames(folder, "none").read(FRAMES[0])


def test_an_image_that_is_named_like_a_frame_is_read(folder: Path) -> None:
    cv2.imwrite(str(folder / "other-07-mp4.png"), draw(9))
    source = open_frames(folder)
    assert "other-07-mp4.png" in {entry.key for entry in source.list()}
    assert number_of(source, "other-07-mp4.png") == 9


@pytest.mark.parametrize("kept_bytes", [frames._MAX_KEPT_BYTES, PICTURES[0].nbytes, 0])
def test_threads_read_all_frames_in_any_order(kept_bytes: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_MAX_KEPT_BYTES", kept_bytes)
    source = open_frames(folder, "all")
    keys = [entry.key for entry in Listing.from_entries(source.list()) if entry.key.endswith((".png",))]
    drive = [key for key in keys if "drive" in key]
    assert len(drive) == 60
    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(lambda key: number_of(source, key), drive[::-1]))
    assert found == list(range(59, -1, -1))
    kept = [image.nbytes for opened in source._open.values() for image in opened._kept.values()]
    assert sum(kept) <= kept_bytes


def test_videos_in_a_list_and_in_a_bucket(folder: Path, moto: S3, tmp_path: Path) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=moto.endpoint)
    for path in folder.rglob("*.*"):
        client.upload_file(str(path), moto.bucket, f"{tmp_path.name}/{path.relative_to(folder)}")
    remote = open_frames(moto.uri(tmp_path.name))
    assert sorted(entry.key for entry in remote.list())[1:6] == FRAMES
    assert [number_of(remote, key) for key in FRAMES] == [0, 13, 25, 38, 50]
    listed = tmp_path / "list.txt"
    listed.write_text(f"{folder}/day 1/drive.MP4\n{moto.uri(tmp_path.name)}/short.mkv\n")
    source = open_frames(listed)
    keys = sorted(entry.key for entry in source.list())
    assert keys == [f"{folder}/{key}" for key in FRAMES] + [f"{moto.uri(tmp_path.name)}/short-0-mkv.png"]
    assert [number_of(source, key) for key in keys] == [0, 13, 25, 38, 50, 0]


class Counted:
    """Files whose reads are counted."""

    def __init__(self, source: VideoSource) -> None:
        self.lengths: list[int] = []
        self._read_range = source.files.read_range
        source.files.read_range = self.read_range  # type: ignore[method-assign]

    def read_range(self, key: str, start: int, length: int) -> bytes:
        self.lengths.append(length)
        return self._read_range(key, start, length)


NOISY = [np.random.default_rng(number).integers(0, 256, (160, 240, 3), np.uint8) for number in range(100)]


@pytest.mark.parametrize(("name", "blocks"), [("index-first.mp4", 2), ("index-last.m4v", 3), ("fragments.mov", 102)])
def test_a_listing_reads_only_the_index_of_an_mp4(name: str, blocks: int, tmp_path: Path) -> None:
    """Other containers have no index of their frames. Here each of the 100 frames is a fragment."""
    path = write_video(tmp_path / "clip.mp4", NOISY, options={"g": "12", "qp": "0"})
    copy_stream(path, tmp_path / name, {"movflags": "frag_keyframe"} if "fragments" in name else {})
    path.unlink()
    if name == "index-first.mp4":
        copy_stream(tmp_path / name, tmp_path / "first.mp4", {"movflags": "faststart"})
        (tmp_path / "first.mp4").replace(tmp_path / name)
    size = (tmp_path / name).stat().st_size
    assert size > 3 << 20
    source = open_frames(tmp_path, "all")
    counted = Counted(source)
    entries = list(source.list())
    assert len(entries) == 100
    assert sum(counted.lengths) <= blocks * (16 << 10) < size / 3
    expected = Clip(io.BytesIO((tmp_path / name).read_bytes())).seconds
    assert [split_time(entry.etag)[1] for entry in entries] == pytest.approx(expected, abs=6e-4)


def test_a_long_video_is_read_once_in_blocks(tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.mkv", NOISY, options={"g": "12", "qp": "0"})
    source = open_frames(tmp_path, "all")
    entries = Listing.from_entries(source.list())
    counted = Counted(source)
    with ThreadPoolExecutor(8) as executor:
        frames = list(executor.map(lambda entry: source.read(entry.key, entry.etag), entries))
    assert len(set(frames)) == 100
    assert max(counted.lengths) <= 4 << 20
    assert sum(counted.lengths) <= 2.5 * path.stat().st_size  # once for the times, once for the frames


def test_a_video_of_ten_gigabytes_is_read_in_ranges(tmp_path: Path) -> None:
    """A sparse file: after the frames comes a box of that size, which players skip. Images may have 512 MB."""
    path = write_video(tmp_path / "long.mp4", PICTURES, options=GOP)
    with path.open("ab") as file:
        file.write((1).to_bytes(4, "big") + b"free" + (10 << 30).to_bytes(8, "big"))
        file.truncate(file.tell() - 16 + (10 << 30))
    source = open_frames(tmp_path, "every:20")
    counted = Counted(source)
    entries = Listing.from_entries(source.list())
    assert [number_of(source, entry.key, entry.etag) for entry in entries] == [0, 20, 40]
    assert sum(counted.lengths) < 8 << 20


def test_threads_decode_each_frame_once_without_a_listing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a worker of an engine does, which gets the entries from elsewhere."""
    entries = [entry for entry in Listing.from_entries(open_frames(folder, "all").list()) if "drive" in entry.key]
    decoded: list[object] = []
    original = Clip._decode_packet

    def count(clip: Clip, packet: object) -> list[object]:
        frames = list(original(clip, packet))
        decoded.extend(frames)
        return frames

    monkeypatch.setattr(Clip, "_decode_packet", count)
    source = open_frames(folder, "all")
    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(lambda entry: number_of(source, entry.key, entry.etag), entries))
    assert found == list(range(60))
    assert len(decoded) <= 75  # 60, and the first turns


def test_frames_are_kept_as_png_and_read_as_bmp(folder: Path) -> None:
    source = open_frames(folder)
    list(source.list())
    quick, kept = source.read(FRAMES[2]), source.to_keep().read(FRAMES[2])
    assert quick.startswith(b"BM") and kept.startswith(b"\x89PNG")
    assert np.array_equal(decode(quick), decode(kept))
    assert source.to_keep().read("still.png") == (folder / "still.png").read_bytes()


def test_videos_are_skipped(folder: Path) -> None:
    source = open_frames(folder, "none")
    assert [entry.key for entry in source.list(keep=lambda key: key.endswith(".png"))] == ["still.png"]
    assert source.read("short.mkv") == (folder / "short.mkv").read_bytes()


def test_an_outage_ends_the_listing_and_is_no_damage(folder: Path) -> None:
    source = open_frames(folder)

    def fail(*_: object) -> bytes:
        raise ServiceUnavailable("the store does not answer")

    source.files.read_range = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(ServiceUnavailable, match="does not answer"):
        list(source.list())


@pytest.mark.parametrize("error", [RecursionError("too deep"), KeyError("codec"), RuntimeError()])
def test_an_error_that_nobody_foresaw_makes_one_row(
    error: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Clip, "_read_stamps", fail)
    source = open_frames(folder)
    keys = sorted(entry.key for entry in source.list())
    assert keys == ["broken.mov", "day 1/drive.MP4", "short.mkv", "still.png"]
    with pytest.raises(ImageError, match=f"a library failed to read its video .{type(error).__name__}: "):
        source.read("short.mkv")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("Cannot allocate memory"), Stopped("SIGTERM")])
def test_a_lack_of_memory_and_a_stop_are_no_damage(
    error: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Clip, "_read_stamps", fail)
    with pytest.raises(type(error)):
        list(open_frames(folder).list())


def test_boxes_that_are_nested_without_end_are_a_row(folder: Path) -> None:
    boxes = b""
    for _ in range(1200):
        boxes = (len(boxes) + 8).to_bytes(4, "big") + b"trak" + boxes
    index = (len(boxes) + 8).to_bytes(4, "big") + b"moov" + boxes
    (folder / "broken.mov").write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0" + index)
    source = open_frames(folder)
    assert [entry.key for entry in source.list()].count("broken.mov") == 1
    with pytest.raises(ImageError, match="it is no video that can be read"):
        source.read("broken.mov")


def test_the_package_for_videos_is_imported_with_the_first_video(folder: Path) -> None:
    images_only = folder.parent / "images"
    images_only.mkdir()
    cv2.imwrite(str(images_only / "still.png"), draw(5))
    code = (
        "import sys, threading\n"
        "from job.storage import open_source\n"
        "from job.video import Sampling\n"
        "source = open_source(sys.argv[1], threading.Event(), Sampling('all'))\n"
        "print(len(list(source.list())), 'av' in sys.modules)"
    )
    for path, expected in ((images_only, "1 False"), (folder, "65 True")):
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.split("\n")[0] == expected


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "job.video.clip")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError) as raised:
        list(open_frames(folder).list())
    explained = explain_missing_package(raised.value)
    assert explained is not None and "run `pip install 'coralpick[video]'`, or set CORAL_FRAMES=none" in str(explained)
    assert len(list(open_frames(folder, "none").list(keep=lambda key: key.endswith(".png")))) == 1


@pytest.fixture
def hanging(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Makes the decoder hang at the second key frame of `drive.MP4`, until the test ends."""
    monkeypatch.setattr(deadline, "MAX_SECONDS", 0.5)
    released, original = threading.Event(), Clip._decode_packet

    def hang(clip: Clip, packet: Any) -> Iterator[Any]:
        if packet and len(clip.seconds) == 60 and packet.is_keyframe and packet.pts * packet.time_base > 0.4:
            released.wait(60)
        return original(clip, packet)

    monkeypatch.setattr(Clip, "_decode_packet", hang)
    yield released
    released.set()


def test_a_decoder_that_hangs_costs_the_rest_of_its_video_alone(folder: Path, hanging: threading.Event) -> None:
    source = open_frames(folder, "all")
    keys = [entry.key for entry in Listing.from_entries(source.list()) if entry.key.endswith(".png")]

    def read(key: str) -> str:
        try:
            return str(number_of(source, key))
        except ImageError as error:
            return str(error)

    with ThreadPoolExecutor(8) as executor:
        found = dict(zip(keys, executor.map(read, keys), strict=True))
    late = "decoding its video takes longer than 0.5 seconds"
    drive = [found[key] for key in keys if "drive" in key]
    bad = drive.index(late)
    assert 0 < bad <= 12 and drive == [str(number) for number in range(bad)] + [late] * (60 - bad)
    assert [found[key] for key in keys if "short" in key] == ["0", "1", "2"] and found["still.png"] == "5"
    assert not hanging.is_set()


def test_a_video_that_hangs_in_the_listing_is_a_file_with_a_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "MAX_SECONDS", 0.5)
    released, original = threading.Event(), Clip._read_stamps

    def hang(clip: Clip) -> Any:
        stamps = original(clip)
        if len(stamps[0]) == 60:
            released.wait(60)
        return stamps

    monkeypatch.setattr(Clip, "_read_stamps", hang)
    source = open_frames(folder)
    keys = sorted(entry.key for entry in source.list())
    assert keys == ["broken.mov", "day 1/drive.MP4", "short-0-mkv.png", "still.png"]
    with pytest.raises(ImageError, match="takes longer than"):
        source.read("day 1/drive.MP4")
    released.set()
