"""Frames of videos, which are made here and say their own numbers."""

import io
import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from demo import fetch
from job.images import ImageError
from job.video import clip as clip_module
from job.video.clip import Clip, list_times
from job.video.index_only import IndexOnly
from job.video.sampling import Sampling
from tests.conftest import ROOT
from tests.video.clips import SIZE, copy_stream, draw, read_number, turn, write_video

NUMBERS = range(60)
PICTURES = [draw(number) for number in NUMBERS]
# Their files are much larger than the index.
NOISY = [np.random.default_rng(number).integers(0, 256, (*SIZE, 3), np.uint8) for number in NUMBERS]
GOP = {"g": "12", "bf": "3"}


def open_clip(path: Path) -> Clip:
    return Clip(io.BytesIO(path.read_bytes()))


def read(clip: Clip, number: int) -> Any:
    return clip.read_until(number)[number]


KINDS: dict[str, dict[str, Any]] = {
    "b-frames.mp4": {"options": GOP},
    "one-key.mp4": {},
    "open.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=12:open-gop=1"}},
    "matroska.mkv": {"options": GOP},
    "old.avi": {"codec": "mpeg4", "options": {"g": "12"}},
    "dvd.mpg": {"codec": "mpeg2video", "options": {"g": "12"}, "tick": Fraction(1, 25)},
    "web.webm": {"codec": "libvpx-vp9"},
    "phone.mov": {"options": GOP},
    "ten-bits.mp4": {"pixels": "yuv420p10le", "options": GOP},
    "4-2-2.mkv": {"codec": "ffv1", "pixels": "yuv422p"},
    "stream.hevc": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "two.mp4": {"second_stream": True, "options": GOP},
}


@pytest.mark.parametrize("name", KINDS)
def test_frames_in_any_order_are_those_that_were_written(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, PICTURES, **KINDS[name])
    clip = open_clip(path)
    assert np.allclose(clip.seconds - clip.seconds[0], np.array(NUMBERS) / 25, atol=0.002)
    in_order = [read(clip, number) for number in NUMBERS]
    assert [read_number(image) for image in in_order] == list(NUMBERS)
    shuffled = random.Random(0).sample(NUMBERS, len(NUMBERS))
    other = open_clip(path)
    assert all(np.array_equal(read(other, number), in_order[number]) for number in shuffled)


def test_frames_that_are_decoded_on_the_way_come_along(tmp_path: Path) -> None:
    clip = open_clip(write_video(tmp_path / "clip.mp4", PICTURES, options=GOP))
    found = clip.read_until(20, frozenset({3, 14, 17, 40}), max_bytes=1 << 20)
    assert {number: read_number(image) for number, image in found.items()} == {14: 14, 17: 17, 20: 20}


@pytest.mark.parametrize(("pictures", "found"), [(0, [59]), (1, [59]), (3, [57, 58, 59]), (100, list(NUMBERS))])
def test_of_the_frames_on_the_way_only_the_last_are_converted(
    pictures: int, found: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way to a frame may be a whole video: all of it would be gigabytes of pixels."""
    converted: list[int] = []
    original = clip_module._to_pixels

    def convert(*arguments: Any) -> Any:
        pixels = original(*arguments)
        converted.append(read_number(pixels))
        return pixels

    monkeypatch.setattr(clip_module, "_to_pixels", convert)
    clip = open_clip(write_video(tmp_path / "clip.mpg", PICTURES, codec="mpeg2video", tick=Fraction(1, 25)))
    kept = clip.read_until(59, frozenset(NUMBERS), max_bytes=pictures * PICTURES[0].nbytes)
    assert list(kept) == converted == found
    assert [read_number(image) for image in kept.values()] == found


def test_a_frame_on_the_way_that_cannot_be_converted_fails_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = clip_module._to_pixels

    def convert(frame: Any, ratio: Fraction | None) -> Any:
        if round(frame.time * 25) == 7:
            raise ImageError("it cannot be converted")
        return original(frame, ratio)

    monkeypatch.setattr(clip_module, "_to_pixels", convert)
    clip = open_clip(write_video(tmp_path / "clip.mp4", PICTURES))
    assert list(clip.read_until(9, frozenset(NUMBERS), max_bytes=1 << 20)) == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    with pytest.raises(ImageError, match="it cannot be converted"):
        read(clip, 7)


def test_times_are_those_of_a_variable_rate(tmp_path: Path) -> None:
    stamps = [20 * number + number**2 for number in NUMBERS]
    clip = open_clip(write_video(tmp_path / "clip.mp4", PICTURES, stamps=stamps, options=GOP))
    assert np.allclose(clip.seconds, np.array(stamps) / 1000, atol=0.001)
    assert read_number(read(clip, 41)) == 41


def test_the_clip_of_the_demo_as_opencv_reads_it() -> None:
    fetch.fetch()
    clip, reader = open_clip(fetch.VIDEO), cv2.VideoCapture(str(fetch.VIDEO))
    assert len(clip.seconds) == 250
    for number in range(250):
        done, expected = reader.read()
        assert done and np.array_equal(read(clip, number), expected)


@pytest.mark.parametrize(
    ("degrees", "turned"),
    [(0, None), (90, cv2.ROTATE_90_CLOCKWISE), (180, cv2.ROTATE_180), (270, cv2.ROTATE_90_COUNTERCLOCKWISE)],
)
def test_a_display_matrix_turns_the_picture(degrees: int, turned: int | None, tmp_path: Path) -> None:
    path = turn(write_video(tmp_path / "clip.mp4", PICTURES, options={"qp": "0"}), degrees)
    expected = draw(13) if turned is None else cv2.rotate(draw(13), turned)
    image = read(open_clip(path), 13)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() < 6


def to_bgr(y: float, cb: float, cr: float, red: float, blue: float, full: bool) -> list[float]:
    """Converts by the definitions of ITU-R BT.601 and BT.709, from 8-bit values."""
    if full:
        y, cb, cr = y / 255, (cb - 128) / 255, (cr - 128) / 255
    else:
        y, cb, cr = (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    g = (y - red * r - blue * b) / (1 - red - blue)
    return [min(255.0, max(0.0, 255 * value)) for value in (b, g, r)]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("space", "red", "blue"), [(1, 0.2126, 0.0722), (6, 0.299, 0.114)])
@pytest.mark.parametrize("color", [(81, 90, 240), (145, 54, 34), (180, 120, 130)])
def test_colours_follow_the_matrix_and_the_range(
    color: tuple[int, int, int], space: int, red: float, blue: float, full: bool, tmp_path: Path
) -> None:
    """Space 1 is BT.709, space 6 BT.601, as in ISO/IEC 23091-2."""
    path = tmp_path / "flat.mkv"
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = space, 2 if full else 1
        frame: Any = av.VideoFrame(SIZE[1], SIZE[0], "yuv420p")
        for plane, value in zip(frame.planes, color, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.colorspace, frame.color_range = space, 2 if full else 1
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    image = read(open_clip(path), 0)
    assert np.abs(image[20, 20] - np.array(to_bgr(*color, red, blue, full))).max() <= 3


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    path = write_video(tmp_path / "wide.mp4", PICTURES, sample_aspect_ratio=Fraction(4, 3), options={"qp": "0"})
    image = read(open_clip(path), 13)
    assert image.shape == (64, 128, 3)
    expected = cv2.resize(draw(13), (128, 64), interpolation=cv2.INTER_LINEAR)
    assert np.abs(image.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("tenth", range(1, 10))
def test_of_a_file_that_was_cut_what_is_there_is_read(tenth: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "cut.mp4", NOISY, options=GOP)
    whole = open_clip(path)
    data = path.read_bytes()
    try:
        clip = Clip(io.BytesIO(data[: len(data) * tenth // 10]))
    except ImageError:
        assert tenth == 0
        return
    found = 0
    for number in range(len(clip.seconds)):
        try:
            image = read(clip, number)
        except ImageError as error:
            assert "damaged" in str(error)
        else:
            found += 1
            assert np.array_equal(image, read(whole, number))
    assert found >= 60 * (tenth - 2) / 10


def test_a_stretch_that_is_damaged(tmp_path: Path) -> None:
    path = write_video(tmp_path / "damaged.mkv", NOISY, options=GOP)
    whole, data = open_clip(path), bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    clip = Clip(io.BytesIO(bytes(data)))
    same = 0
    for number in range(len(clip.seconds)):
        try:
            same += np.array_equal(read(clip, number), read(whole, round(clip.seconds[number] * 25)))
        except ImageError as error:
            assert "s after its beginning" in str(error)
    assert same >= 36  # of 60


@pytest.mark.parametrize("distance", ["1", "200"])
def test_a_file_that_ends_in_zeros_is_not_read_to_its_end_for_each_frame(
    distance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a recorder leaves it that lost its power. The threads of the decoder have much to say about it."""
    count, delay = 400, 16
    monkeypatch.setattr(clip_module, "_MAX_DELAY", delay)
    options = {"g": distance, "bf": "0", "sc_threshold": "0"}
    path = write_video(tmp_path / "clip.mp4", [NOISY[number % 60] for number in range(count)], options=options)
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
    data, start = bytearray(path.read_bytes()), packets[200].pos
    assert start is not None and start > 10_000
    data[start:] = bytes(len(data) - start)
    decoded = 0
    original = Clip._decode_packet

    def decode(clip: Clip, packet: Any) -> Any:
        nonlocal decoded
        decoded += 1
        return original(clip, packet)

    monkeypatch.setattr(Clip, "_decode_packet", decode)
    clip, good = Clip(io.BytesIO(bytes(data))), 0
    for number in range(count):
        try:
            read(clip, number)
            good += 1
        except ImageError as error:
            assert "its video is damaged" in str(error)
    assert good == 200
    assert decoded < (4 + delay) * count  # not 200 * 200 / 2


def test_threads_of_a_decoder_that_complain_do_not_stop_the_process(tmp_path: Path) -> None:
    """They wait for the interpreter's lock if their messages go to Python, also while the clip is closed."""
    path = write_video(tmp_path / "clip.mp4", NOISY, options={"g": "1", "bf": "0"})
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
    for packet in packets[20:]:
        assert packet.pos is not None
        data[packet.pos + 16 : packet.pos + packet.size] = bytes(packet.size - 16)
    path.write_bytes(data)
    code = (
        "import contextlib, io, pathlib, sys\n"
        "from job.images import ImageError\n"
        "from job.video.clip import Clip\n"
        "data = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "for number in 10 * [0, 30, 5, 40]:\n"
        "    clip = Clip(io.BytesIO(data))\n"
        "    with contextlib.suppress(ImageError):\n"
        "        clip.read_until(number)\n"
        "    clip.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_packets_have_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are files that lead back into themselves."""
    path = write_video(tmp_path / "clip.mp4", PICTURES, options={"bf": "0"})
    monkeypatch.setattr(clip_module, "_MAX_PACKETS", 30)
    assert len(open_clip(path).seconds) == 30


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "fragments.mp4"])
def test_an_index_that_claims_too_many_frames_is_refused(name: str, tmp_path: Path) -> None:
    """FFmpeg would take 24 bytes and more of memory for each, of a file of a few kilobytes."""
    path = write_video(tmp_path / f"whole{name[-4:]}", PICTURES, options=GOP)
    if name == "fragments.mp4":
        path = copy_stream(path, tmp_path / name, {"movflags": "frag_keyframe+empty_moov"})
    data = bytearray(path.read_bytes())
    assert IndexOnly(io.BytesIO(data)).most_frames == (12 if name == "fragments.mp4" else 60)
    box, place = (b"trun", 8) if name == "fragments.mp4" else (b"stsz", 12)
    place += data.index(box)
    data[place : place + 4] = (178_000_000).to_bytes(4, "big")
    with pytest.raises(ImageError, match="it has more than 10,000,000 frames"):
        Clip(io.BytesIO(data))


def box(kind: bytes, content: bytes, *, is_long: bool = False, to_the_end: bool = False) -> bytes:
    """A box, its length in 4 or 8 bytes, or not at all."""
    length = 0 if to_the_end else 8 + len(content)
    if is_long:
        return (1).to_bytes(4, "big") + kind + (8 + length).to_bytes(8, "big") + content
    return length.to_bytes(4, "big") + kind + content


def nest(*kinds: bytes, content: bytes, **form: bool) -> bytes:
    for kind in kinds[::-1]:
        content = box(kind, content, **form)
    return content


TABLE = box(b"stsz", bytes(8) + (77).to_bytes(4, "big"))
PATH = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
OF_SOUND = box(b"hdlr", bytes(8) + b"soun")
INDEXES = {
    "usual": (nest(*PATH, content=TABLE), 77),
    "long": (nest(*PATH, content=TABLE, is_long=True), 77),
    "to the end": (nest(*PATH, content=TABLE, to_the_end=True), 77),
    "after other boxes": (nest(*PATH, content=box(b"stts", bytes(100)) + TABLE + box(b"stco", bytes(50))), 77),
    "fragment": (nest(b"moof", b"traf", content=box(b"trun", bytes(4) + (78).to_bytes(4, "big"))), 78),
    "sound": (nest(b"moov", b"trak", b"mdia", content=OF_SOUND + nest(b"minf", b"stbl", content=TABLE)), 0),
    "sound, said last": (nest(b"moov", b"trak", b"mdia", content=nest(b"minf", b"stbl", content=TABLE) + OF_SOUND), 0),
    "as deep as FFmpeg goes": (nest(b"moov", *[b"trak"] * 8, content=TABLE), 77),
    "deeper": (nest(b"moov", *[b"trak"] * 9, content=TABLE), 0),
    "much deeper": (nest(b"moov", *[b"trak"] * 5000, content=TABLE), 0),
    "longer than its box": (nest(*PATH, content=TABLE[:2] + b"\xff\xff" + TABLE[4:]), 77),
    "no length": (nest(*PATH, content=b"\0\0\0\4free" + TABLE), 0),
}


@pytest.mark.parametrize("name", INDEXES)
def test_the_tables_of_an_index_are_found(name: str) -> None:
    data, count = INDEXES[name]
    assert IndexOnly(io.BytesIO(box(b"ftyp", b"isom") + data)).most_frames == count


def test_of_a_large_index_the_headers_alone_are_read() -> None:
    """Tables may have hundreds of megabytes, and eight videos are listed at the same time."""
    data = nest(*PATH, content=TABLE + box(b"stco", bytes(1 << 20)) + box(b"stts", bytes(1 << 20)))
    num_bytes = 0

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal num_bytes
            found = super().read(size)
            num_bytes += len(found)
            return found

    assert IndexOnly(Counted(data)).most_frames == 77
    assert num_bytes < 500


class Short(io.BytesIO):
    """Gives a few bytes at a time, as a file in blocks does at the end of each."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(3 if size is None or size < 0 else min(size, 3))


def test_an_index_that_comes_in_small_pieces(tmp_path: Path) -> None:
    data = write_video(tmp_path / "clip.mp4", PICTURES, options=GOP).read_bytes()
    whole, pieces = IndexOnly(io.BytesIO(data)), IndexOnly(Short(data))
    assert whole.most_frames == pieces.most_frames == 60
    assert whole._pictures == pieces._pictures == [(data.index(b"mdat") + 4, len(data))]


def make_audio(path: Path) -> Path:
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("aac", rate=44100)
        frame = av.AudioFrame(format="fltp", layout="stereo", samples=1024)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts = 44100, 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def test_files_that_are_no_videos(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "clip.mov", PICTURES).read_bytes()
    index, frames = whole.index(b"moov") - 4, whole.index(b"mdat") - 4
    parts = {"movflags": "frag_keyframe+empty_moov"}
    fragments = copy_stream(tmp_path / "clip.mov", tmp_path / "parts.mp4", parts).read_bytes()
    matroska = write_video(tmp_path / "clip.mkv", PICTURES).read_bytes()
    files = {
        "empty": b"",
        "text": b"no video\n" * 100,
        "no index": whole[:index] + whole[frames:],
        "audio": make_audio(tmp_path / "audio.mp4").read_bytes(),
        "no frames": fragments[: fragments.index(b"moof") - 4],
        "codec": matroska.replace(b"V_MPEG4/ISO/AVC", b"V_UNKNOWN/CODEC"),
    }
    reasons = {}
    for name, data in files.items():
        try:
            Clip(io.BytesIO(data))
            reasons[name] = "none"
        except ImageError as error:
            reasons[name] = str(error)
    unreadable = "it is no video that can be read (invalid data found when processing input)"
    assert reasons == dict.fromkeys(files, unreadable) | {
        "audio": "it is no video that can be read (it has no pictures)",
        "no frames": "it has no frames",
        "codec": "it is no video that can be read (its codec is not known)",
    }


def test_the_chosen_frames_and_the_number_of_the_last(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", PICTURES)
    last, times = list_times(io.BytesIO(path.read_bytes()), Sampling.parse("fps:1"))
    assert last == 59
    assert [number for number, _ in times] == [0, 25, 50]
    assert [seconds for _, seconds in times] == pytest.approx([0, 1, 2], abs=0.001)
