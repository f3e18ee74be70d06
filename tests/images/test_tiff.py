"""Compressed TIFF files whose strips or tiles lack data."""

import io
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest

from job.images import ImageError, decode
from job.images.tiff import lacks_data
from tests.images.test_decoding import tiled_tiff

HEIGHT = 100
NOISE = PIL.Image.fromarray(np.random.default_rng(0).integers(1, 255, (HEIGHT, 96, 3), dtype=np.uint8))
COMPRESSIONS = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
STRIPS, TILES = (273, 279), (324, 325)


def strips(compression: str, image: PIL.Image.Image = NOISE) -> bytes:
    """A TIFF with strips of 16 rows."""
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", compression=compression, tiffinfo={278: 16})
    return buffer.getvalue()


def entry(data: bytes, tag: int) -> tuple[int, str, int]:
    """Returns where the values of a tag are, their format for `struct`, and how many they are."""
    (directory,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, directory)
    for position in range(directory + 2, directory + 2 + 12 * count, 12):
        number, kind, length, value = struct.unpack_from("<HHII", data, position)
        if number == tag:
            letter = "H" if kind == 3 else "I"
            return (position + 8 if length * struct.calcsize(letter) <= 4 else value), letter, length
    raise KeyError(tag)


def blocks(data: bytes, tags: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns offset and size of each strip or tile."""
    values = []
    for tag in tags:
        position, letter, length = entry(data, tag)
        values.append(struct.unpack_from(f"<{length}{letter}", data, position))
    return list(zip(*values, strict=True))


def shorten(data: bytes, tags: tuple[int, int], block: int) -> bytes:
    """Says that a strip or tile has half of its bytes."""
    position, letter, _ = entry(data, tags[1])
    changed = bytearray(data)
    struct.pack_into(
        f"<{letter}", changed, position + block * struct.calcsize(letter), blocks(data, tags)[block][1] // 2
    )
    return bytes(changed)


def empty(data: bytes, tags: tuple[int, int], block: int) -> bytes:
    """Says that a strip or tile has no bytes, as in sparse files."""
    position, letter, _ = entry(data, tags[1])
    changed = bytearray(data)
    struct.pack_into(f"<{letter}", changed, position + block * struct.calcsize(letter), 0)
    return bytes(changed)


def zero(data: bytes, tags: tuple[int, int], block: int) -> bytes:
    """Fills the second half of a strip or tile with zeros, as a copy that was interrupted."""
    start, size = blocks(data, tags)[block]
    return data[: start + size // 2] + bytes(size - size // 2) + data[start + size :]


@pytest.mark.parametrize("block", [0, 3, -1])
@pytest.mark.parametrize("damage", [shorten, empty, zero])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_strip_without_its_data_is_a_failure(
    compression: str,
    damage: Callable[[bytes, tuple[int, int], int], bytes],
    block: int,
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = strips(compression)
    count = len(blocks(data, STRIPS))
    assert count == 7
    assert decode(data).shape == (HEIGHT, 96, 3)
    with pytest.raises(ImageError, match="truncated or damaged"):
        decode(damage(data, STRIPS, block % count))
    assert capfd.readouterr().err == ""


def test_strips_that_are_all_of_the_file_are_not_copied() -> None:
    """A header of a few kilobytes can claim any number of them."""
    count, size = 500, 1 << 20
    entries = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 7), (262, 3, 1, 1), (278, 3, 1, 8)]
    places, end = 256, 256 + 8 * count + size
    entries += [(273, 4, count, places), (279, 4, count, places + 4 * count)]
    header = b"II*\0" + struct.pack("<IH", 8, len(entries))
    header += b"".join(struct.pack("<HHII", *each) for each in sorted(entries)) + bytes(4)
    data = header.ljust(places, b"\0") + struct.pack(f"<{count}I", *[1] * count)
    data += struct.pack(f"<{count}I", *[end - 1] * count) + bytes(size - 2) + b"\xff\xd9"
    assert len(data) == end
    tracemalloc.start()
    try:
        assert not lacks_data(data) and lacks_data(data[:-1])
        assert tracemalloc.get_traced_memory()[1] < 100 * size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [5, 9, 11, 12])  # of numbers that may be negative, or no whole ones
def test_places_of_strips_that_are_no_places(kind: int) -> None:
    data = bytearray(strips("jpeg"))
    (directory,) = struct.unpack_from("<I", data, 4)
    place = next(
        place
        for place in range(directory + 2, directory + 2 + 12 * data[directory], 12)
        if struct.unpack_from("<H", data, place) == (273,)
    )
    struct.pack_into("<HII", data, place + 2, kind, 7, len(data))
    data += struct.pack("<14i", *[-9] * 14)
    with pytest.raises(ImageError, match="truncated or damaged: it does not say where its strips are"):
        decode(bytes(data))


@pytest.mark.parametrize(("damage", "depth"), [(shorten, 8), (shorten, 16), (empty, 8), (empty, 16), (zero, 8)])
def test_a_tile_without_its_data_is_a_failure(
    damage: Callable[[bytes, tuple[int, int], int], bytes], depth: int
) -> None:
    data = tiled_tiff(NOISE, deflate=True, depth=depth)
    assert decode(data).shape == (HEIGHT, 96, 3)
    with pytest.raises(ImageError, match="truncated or damaged"):
        decode(damage(data, TILES, 4))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "P", "RGBA"])
def test_black_rows_are_no_damage(mode: str, compression: str) -> None:
    if (mode, compression) in {("P", "jpeg"), ("RGBA", "jpeg")}:
        pytest.skip("JPEG has no palette and no alpha")
    image = PIL.Image.new("RGB", (64, HEIGHT)).convert(mode)
    assert decode(strips(compression, image)).shape == (HEIGHT, 64, 3)


def test_nothing_is_printed_about_a_damaged_file() -> None:
    """In a process of its own, since the first import silences libtiff."""
    code = (
        "import sys; from job.images import ImageError, decode\n"
        "try: decode(sys.stdin.buffer.read())\n"
        "except ImageError as error: print(error)\n"
    )
    data = shorten(strips("tiff_lzw"), STRIPS, 2)
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert done.stdout.startswith(b"truncated or damaged: its data ends before the last row")
    assert done.stderr == b""
