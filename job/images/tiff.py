"""Compressed TIFF files whose strips or tiles lack data: OpenCV leaves their rows black."""

import ctypes
from pathlib import Path
from typing import Any

import PIL

from job.images.headers import ImageError, describe_damage, expose_lack_of_memory, open_header

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
        ImageError: If its header is damaged.
        MemoryError: If there is too little memory to tell.
    """
    image: Any = open_header(data)
    if image.tag_v2.get(_COMPRESSION) == _JPEG:  # libjpeg makes up the rows that are missing
        return _lacks_end(image.tag_v2, data)
    try:
        image.load()
    except (
        OSError,
        ValueError,
    ) as error:  # all other kinds of error are left to OpenCV, which reads more kinds of TIFF
        expose_lack_of_memory(error)
        return str(error) == _BROKEN
    return False


def _lacks_end(tags: Any, data: bytes) -> bool:
    """Returns whether any strip or tile has no end of a JPEG file.

    A damaged file may say a thousand times that a strip is all of the file: so none is copied, and no byte is looked
    at twice.
    """
    blocks = [
        block
        for offsets, counts in _OFFSETS_AND_COUNTS
        for block in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False)
    ]
    if not all(isinstance(value, int) and value >= 0 for block in blocks for value in block):
        raise ImageError(describe_damage("it does not say where its strips are"))
    found = -1  # the first end at or after the beginning of the last strip
    for start, size in sorted(blocks):
        if found < start:
            found = data.find(_END_OF_JPEG, start)
        if not start <= found <= start + size - len(_END_OF_JPEG):
            return True
    return False
