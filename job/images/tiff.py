"""Compressed TIFF files whose strips or tiles lack data: OpenCV leaves their rows black."""

import ctypes
from pathlib import Path
from typing import Any

import PIL

from job.images.headers import expose_lack_of_memory, open_header

_COMPRESSION, _JPEG = 259, 7
_OFFSETS_AND_COUNTS = ((273, 279), (324, 325))  # of strips, and of tiles
_BROKEN = "decoder error -2"  # Pillow's text for data that libtiff calls wrong or too short
_END_OF_JPEG = b"\xff\xd9"


def _silence_libtiff() -> None:
    """Stops the libtiff of Pillow's wheel from printing: the row of a failed image has its reason."""
    for path in Path(PIL.__file__).parent.parent.glob("pillow.libs/libtiff*"):
        library = ctypes.CDLL(str(path))
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


_silence_libtiff()


def lacks_data(data: bytes) -> bool:
    """Returns whether a strip or tile of a compressed TIFF ends before its last row.

    Decoders of fax groups 3 and 4 do not report it, so these are not checked.

    Raises:
        MemoryError: If there is too little memory to tell.
    """
    image: Any = open_header(data)
    if image.tag_v2.get(_COMPRESSION) == _JPEG:  # libjpeg makes up the rows that are missing
        return not all(_END_OF_JPEG in block for block in _read_blocks(image.tag_v2, data))
    try:
        image.load()
    except (
        OSError,
        ValueError,
    ) as error:  # all other kinds of error are left to OpenCV, which reads more kinds of TIFF
        expose_lack_of_memory(error)
        return str(error) == _BROKEN
    return False


def _read_blocks(tags: Any, data: bytes) -> list[bytes]:
    """Returns the data of all strips or tiles."""
    return [
        data[start : start + size]
        for offsets, counts in _OFFSETS_AND_COUNTS
        for start, size in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False)
    ]
