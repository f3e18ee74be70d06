"""Finds pools of 16-bit images whose values lie so close together that they look flat to the detector."""

import io
import logging

import PIL.Image

from job.images import BGR

logger = logging.getLogger(__name__)

_MIN_LEVELS = 256 // 16  # of 8 bits, which are those that the detector gets


def has_narrow_range(data: bytes, image: BGR) -> bool | None:
    """Returns whether an image uses less than 1/16 of its value range; None if it has 8 bits or fewer.

    Args:
        data: The file, which can be decoded.
        image: Its pixels, scaled to 8 bits.
    """
    return int(image.max()) - int(image.min()) < _MIN_LEVELS if _has_many_bits(data) else None


def _has_many_bits(data: bytes) -> bool:
    """Returns whether the channels have more than 8 bits. Of JPEG 2000, only grey images are recognized."""
    if data.startswith(b"\x89PNG"):
        return data[24] > 8
    if not data.startswith((b"II", b"MM", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")):  # TIFF, JPEG 2000
        return False
    with PIL.Image.open(io.BytesIO(data), formats=["TIFF", "JPEG2000"]) as header:
        if header.format == "TIFF":
            bits: tuple[int, ...] = getattr(header, "tag_v2", {}).get(258, (1,))
            return max(bits) > 8
        return header.mode.startswith("I;16")


class RangeCount:
    """Counts 16-bit images, and those of them with a narrow range."""

    def __init__(self) -> None:
        self._num_all = self._num_narrow = 0

    def add(self, is_narrow: bool | None) -> None:
        """Counts an image, with the value of `has_narrow_range`."""
        self._num_all += is_narrow is not None
        self._num_narrow += bool(is_narrow)

    def warn(self) -> None:
        """Logs one warning if most of the 16-bit images have a narrow range."""
        if 2 * self._num_narrow > self._num_all:
            logger.warning(
                "%d of %d 16-bit images use less than 1/16 of the range of their values, so the detector gets almost "
                "uniform images: stretch their values to 0 ... 65535, or save them with 8 bits.",
                self._num_narrow,
                self._num_all,
            )
