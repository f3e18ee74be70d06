"""Decodes ordinary JPEG files with libjpeg-turbo alone: the same pixels as Pillow's, in half of its time."""

import functools
import logging
import re
from typing import Any

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

# Start of frame of Huffman-coded files: baseline, extended, progressive. In files with arithmetic coding, libjpeg does
# not notice an early end.
_SEQUENTIAL, _HUFFMAN = (0xC0, 0xC1), (0xC0, 0xC1, 0xC2)
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END_OF_IMAGE, _FILL = 0xDA, 0xD9, 0xFF
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # neither a stuffed byte, a restart nor a fill byte


def decode(data: bytes, size: tuple[int, int]) -> npt.NDArray[np.uint8] | None:
    """Decodes a grey or YCbCr JPEG, unless anything about it is unusual.

    Whatever libjpeg would only warn of is an error here, so truncated and damaged files are refused.

    Args:
        data: The file.
        size: Its width and height in pixels.

    Returns:
        Pixels of shape (height, width, 3), channels in the order blue, green, red, before the EXIF orientation. None if
        another decoder has to decide.
    """
    simplejpeg = _import_simplejpeg()
    frame, _ = _read_headers(data)
    if simplejpeg is None or frame not in _HUFFMAN:
        return None
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if (width, height) != size:  # two libraries read the header differently: no memory for a size nobody checked
            return None
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "BGR", strict=True)
    except Exception:  # including rare kinds of subsampling, and files with harmless warnings
        return None
    return pixels


def count_scans(data: bytes) -> int:
    """Counts the scans of a JPEG file; 0 if it is none."""
    if not data.startswith(b"\xff\xd8"):
        return 0
    count, position = 0, 2
    while marker := _MARKER.search(data, position):
        kind = marker[0][-1]
        if kind == _END_OF_IMAGE:
            break
        count += kind == _START_OF_SCAN
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return count


def has_one_scan(data: bytes) -> bool:
    """Returns whether a file is a JPEG that is decoded row by row, without memory for all of its coefficients."""
    frame, is_whole = _read_headers(data)
    return frame in _SEQUENTIAL and is_whole


def _read_headers(data: bytes) -> tuple[int, bool]:
    """Returns the start-of-frame marker, and whether the first scan has all components; (0, False) if it is no JPEG."""
    frame = num_components = 0
    position = 2 if data.startswith(b"\xff\xd8") else len(data)
    while position + 10 <= len(data) and data[position] == _FILL:
        marker = data[position + 1]
        if marker == _FILL:
            position += 1
            continue
        if marker in _START_OF_FRAME:
            frame, num_components = marker, data[position + 9]
        if marker == _START_OF_SCAN:
            return frame, data[position + 4] == num_components
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return 0, False


@functools.cache
def _import_simplejpeg() -> Any:
    try:
        import simplejpeg
    except Exception as error:  # such as another ABI of numpy
        logger.warning("Decoding JPEG files with Pillow, at half the speed: simplejpeg cannot be imported (%s).", error)
        return None
    return simplejpeg
