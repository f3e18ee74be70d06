"""Makes videos whose frames say which they are."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

SIZE = 64, 96  # height, width
_CELL = 16
_TICK = Fraction(1, 1000)


def draw(number: int, size: tuple[int, int] = SIZE) -> npt.NDArray[np.uint8]:
    """A picture of black and white cells that are the binary digits of a number, BGR."""
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    for digit in range(12):
        row, column = divmod(digit, width // _CELL)
        if number >> digit & 1:
            image[row * _CELL : (row + 1) * _CELL, column * _CELL : (column + 1) * _CELL] = 255
    return image


def read_number(image: npt.NDArray[np.uint8]) -> int:
    """The number that `draw` drew."""
    columns = image.shape[1] // _CELL
    middles = (image[_CELL * (digit // columns) + 8, _CELL * (digit % columns) + 8].mean() for digit in range(12))
    return sum(1 << digit for digit, level in enumerate(middles) if level > 127)


def write_video(
    path: Path,
    pictures: Sequence[npt.NDArray[np.uint8]],
    *,
    stamps: Sequence[int] | None = None,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pixels: str = "yuv420p",
    second_stream: bool = False,
    tick: Fraction = _TICK,
    **context: Any,
) -> Path:
    """Encodes pictures as a video of 25 frames per second, or with their own time stamps in milliseconds."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix in (".mp4", ".mov") else {}) as file:
        streams: list[Any] = [file.add_stream(codec, rate=25, options=options or {}) for _ in range(1 + second_stream)]
        for stream in streams:
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt, stream.time_base = pixels, tick
            stream.codec_context.time_base = tick
            for name, value in context.items():
                setattr(stream.codec_context, name, value)
        for index, stream in enumerate(streams):
            for number, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture if index == 0 else 255 - picture, format="bgr24")
                frame.pts = stamps[number] if stamps else int(Fraction(number, 25) / tick)
                frame.time_base = tick
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
    return path


def copy_stream(path: Path, copy: Path, options: dict[str, str]) -> Path:
    """Writes the first stream of a video into another file as it is, with options of the container."""
    with av.open(str(path)) as file, av.open(str(copy), "w", options=options) as other:
        stream = other.add_stream_from_template(file.streams.video[0])
        for packet in file.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                other.mux(packet)
    return copy


def turn(path: Path, degrees: int) -> Path:
    """Writes a display matrix into an .mp4: the picture is to be turned clockwise by these degrees."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44  # after the type: version, times, id, duration, layer, group, volume
    one = 1 << 16
    a, b = {0: (one, 0), 90: (0, one), 180: (-one, 0), 270: (0, -one)}[degrees]
    matrix = [a, b, 0, -b, a, 0, 0, 0, 1 << 30]
    data[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(bytes(data))
    return path
