"""Recognises truncated images that have a valid end, which the decoders accept."""

import io
import struct
import zlib

import PIL.Image
import PIL.ImageChops

# Any further data for libjpeg, without the 0xff of its markers.
_FILLER = bytes(range(1, 255))
_CHUNK_BYTES = 1 << 16
# The passes of an interlaced PNG: first column, first row, and the steps between columns and between rows.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def is_cut(image: PIL.Image.Image, data: bytes) -> bool:
    """Returns whether a truncated image has a valid end, which Pillow accepts: the missing rows are grey or black then.

    Only images that do end in grey or black cost a closer check.
    """
    width, height = image.size
    if image.format in ("JPEG", "MPO"):
        last = image.crop((width - 1, height - 1, width, height)).tobytes()
        return all(127 <= value <= 128 for value in last) and _reads_further(image, data)
    if image.format == "PNG":
        # Two rows, since the last pass of an interlaced image has every other row.
        return not any(image.crop((0, max(0, height - 2), width, height)).tobytes()) and _is_short(data)
    return False


def _reads_further(image: PIL.Image.Image, data: bytes) -> bool:
    """Returns whether a JPEG changes with more data before its end marker: a complete one never reads that data."""
    end = _find_end(data)
    longer = PIL.Image.open(io.BytesIO(data[:end] + _FILLER + data[end:]), formats=["JPEG"])
    try:
        return PIL.ImageChops.difference(image, longer).getbbox(alpha_only=False) is not None
    except OSError:
        return True


def _find_end(data: bytes) -> int:
    """Returns the position of the end marker of a JPEG, or of the first image in the file.

    Markers within segments are skipped. If there is other data between segments, which decoders skip, it is the last
    marker of the file.
    """
    position = 2
    while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] != b"\xda":  # until the scan
        is_padding = data[position + 1 : position + 2] == b"\xff"
        position += 1 if is_padding else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    is_scan = data[position : position + 2] == b"\xff\xda"
    return data.find(b"\xff\xd9", position) if is_scan else data.rfind(b"\xff\xd9")


def _is_short(data: bytes) -> bool:
    """Returns whether a PNG has less data than its rows need."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * {2: 3, 4: 2, 6: 4}.get(colour, 1)
    missing = 0  # bytes
    for x, y, dx, dy in _ADAM7 if interlaced else [(0, 0, 1, 1)]:
        columns, rows = len(range(x, width, dx)), len(range(y, height, dy))
        missing += rows * (1 + -(-columns * bits // 8)) if columns else 0
    inflate = zlib.decompressobj()
    position, view = 8, memoryview(data)
    while missing > 0 and position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length if kind == b"IDAT" else position
        for start in range(position + 8, end, _CHUNK_BYTES):  # small chunks, since zlib copies the rest of each
            rest: bytes | memoryview = view[start : min(start + _CHUNK_BYTES, end)]
            while rest and missing > 0:
                missing -= len(inflate.decompress(rest, 1 << 20))
                rest = inflate.unconsumed_tail
        position += 12 + length
    return missing > 0 and missing > len(inflate.flush())
