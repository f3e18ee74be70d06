"""Frames are those of the program ffmpeg: pixels as it shows them, and times as it tells them."""

import io
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
import pytest

from job.video.clip import Clip
from tests.video.clips import turn, write_video

HEIGHT, WIDTH, COUNT = 96, 160, 20


def paint(number: int) -> npt.NDArray[np.uint8]:
    """A smooth picture with strong colours that moves."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin(columns / 25 + number / 4), np.cos(rows / 20 - number / 6), np.sin((rows + columns) / 35 + 1)]
    return np.stack([128 + 110 * wave for wave in waves], axis=2).astype(np.uint8)


PICTURES = [paint(number) for number in range(COUNT)]
LOSSLESS: dict[str, Any] = {"options": {"qp": "0", "g": "6", "bf": "2"}}
KINDS: dict[str, dict[str, Any]] = {
    "b-frames.mp4": LOSSLESS,
    "bt-709.mkv": LOSSLESS | {"colorspace": 1},
    "bt-601.mkv": LOSSLESS | {"colorspace": 6},
    "full-range.mkv": LOSSLESS | {"color_range": 2, "colorspace": 1},
    "ten-bits.mp4": LOSSLESS | {"pixels": "yuv420p10le"},
    "4-2-2.mkv": {"codec": "ffv1", "pixels": "yuv422p"},
    "interlaced.mpg": {
        "codec": "mpeg2video", "options": {"flags": "+ilme+ildct", "qscale": "1", "b": "9M"}, "tick": Fraction(1, 25),
    },
    "open.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:lossless=1:keyint=6:open-gop=1"}},
    "variable.mkv": LOSSLESS | {"stamps": [30 * number + number**2 for number in range(COUNT)]},
    "old.avi": {"codec": "mpeg4", "options": {"qscale": "1"}},
}  # fmt: skip


# Mean and largest difference in levels. ffmpeg adds noise when it rounds 10 bits to 8; other pixels are the same.
ALLOWED = {"ten-bits.mp4": (1.6, 8)}
# The colours of each field by itself, which ffmpeg does only if it is asked to.
FILTERS = {"interlaced.mpg": ("-vf", "scale=interl=1")}


def run_ffmpeg(path: Path, *arguments: str) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-map", "0:v:0", *arguments, "-"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def check_pixels(path: Path, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> Clip:
    clip = Clip(io.BytesIO(path.read_bytes()))
    filters = FILTERS.get(path.name, ())
    data = run_ffmpeg(path, "-fps_mode", "passthrough", *filters, "-pix_fmt", "bgr24", "-f", "rawvideo")
    expected = np.frombuffer(data, np.uint8).reshape(-1, *shape, 3)
    assert len(expected) == len(clip.seconds) == COUNT
    for number in range(COUNT):
        difference = np.abs(clip.read_until(number)[number].astype(int) - expected[number])
        mean, largest = ALLOWED.get(path.name, (0.1, 2))
        assert difference.mean() <= mean and difference.max() <= largest
    return clip


@pytest.mark.parametrize("name", KINDS)
def test_pixels_and_times(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, PICTURES, **KINDS[name])
    clip = check_pixels(path)
    lines = (
        run_ffmpeg(path, "-fps_mode", "passthrough", "-enc_time_base", "demux", "-f", "framehash").decode().splitlines()
    )
    tick = next(Fraction(line.split(": ")[1]) for line in lines if line.startswith("#tb 0"))
    stamps = np.array([int(line.split(",")[2]) for line in lines if not line.startswith("#")])
    assert clip.seconds == pytest.approx((stamps - stamps[0]) * float(tick), abs=1e-6)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_the_display_matrix(degrees: int, tmp_path: Path) -> None:
    path = turn(write_video(tmp_path / "clip.mp4", PICTURES, **LOSSLESS), degrees)
    check_pixels(path, (WIDTH, HEIGHT) if degrees in (90, 270) else (HEIGHT, WIDTH))
