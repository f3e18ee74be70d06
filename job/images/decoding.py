"""Decoding: from the bytes of an image file to pixels, or to the reason why it cannot be used."""

import struct

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageOps

from job.errors import one_line
from job.images import jpeg, tiff
from job.images.headers import (
    ImageError,
    describe_damage,
    expose_lack_of_memory,
    open_header,
    read_orientation,
    read_size,
    refuse_long_text,
)
from job.images.truncation import is_cut

BGR = npt.NDArray[np.uint8]

# Peak of decoding, copying and resizing, as measured: 11 for most formats, 15 for progressive JPEG, 21 for JPEG 2000
# with alpha.
_BYTES_PER_PIXEL, _BYTES_PER_PIXEL_OF_JPEG = 22, 11

# The job decodes in threads of its own; those of OpenCV would only compete with them for the cores.
cv2.setNumThreads(0)
# The row of a failed image has its reason; the library need not log it.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def count_decoding_bytes(data: bytes) -> int:
    """Returns the bytes that an image takes while it is decoded, those of its file included, from the header alone.

    Raises:
        ImageError: If the header cannot be read, or gives more than `MAX_PIXELS`.
    """
    width, height = read_size(data)
    bytes_per_pixel = _BYTES_PER_PIXEL_OF_JPEG if jpeg.has_one_scan(data) else _BYTES_PER_PIXEL
    return len(data) + bytes_per_pixel * width * height


def decode(data: bytes) -> BGR:
    """Decodes an image file. If it has several pages or frames, the first is used.

    EXIF orientation is applied. Grey, palette and CMYK images become BGR, 16-bit images are scaled to 8 bits, and an
    alpha channel is dropped, as in detectron2.

    Args:
        data: Content of a JPEG, PNG, WebP, BMP, GIF, TIFF, JPEG 2000 or AVIF file.

    Returns:
        Pixels of shape (height, width, 3), channels in the order blue, green, red.

    Raises:
        ImageError: If the data is empty, truncated, damaged, not an image, or larger than `MAX_PIXELS`.
    """
    image = open_header(data)
    if image.mode in ("I", "F"):
        kind = "floating point" if image.mode == "F" else "32-bit"
        raise ImageError(f"it has {kind} pixels without a known value range: save it as 8 or 16 bit")
    # OpenCV is faster and rejects truncated images. But it lets libjpeg and libpng print warnings, and ignores the
    # orientation of AVIF. It reads more kinds of compressed TIFF than Pillow, but accepts strips that are cut.
    is_compressed_tiff = image.format == "TIFF" and image.tile and image.tile[0].codec_name == "libtiff"
    if is_compressed_tiff and tiff.lacks_data(data):
        raise ImageError(describe_damage("its data ends before the last row"))
    if is_compressed_tiff or image.format in ("WEBP", "BMP", "GIF", "JPEG2000"):
        return _decode_by_opencv(_widen_screen(data, image.size) if image.format == "GIF" else data)
    if image.format in ("JPEG", "MPO") and image.mode != "CMYK":  # whose conversion other libraries round differently
        pixels = jpeg.decode(data, image.size)
        if pixels is not None:
            return _turn(pixels, read_orientation(image))
    return _decode_by_pillow(data)


def _turn(pixels: BGR, orientation: object) -> BGR:
    """Applies an EXIF orientation, as `PIL.ImageOps.exif_transpose` does."""
    if orientation in (5, 6, 7, 8):
        pixels = cv2.transpose(pixels)  # type: ignore[assignment]
    axes = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # 1 swaps left and right, 0 top and bottom, -1 does both
    if orientation in axes:
        pixels = cv2.flip(pixels, axes[orientation])  # type: ignore[assignment]
    return pixels


def _widen_screen(data: bytes, size: tuple[int, int]) -> bytes:
    """Returns a GIF whose screen has the size that Pillow gives it: OpenCV refuses a first frame that is larger."""
    return data[:6] + struct.pack("<HH", *size) + data[10:]


def _decode_by_opencv(data: bytes) -> BGR:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        expose_lack_of_memory(error)
        raise ImageError(describe_damage(one_line(error))) from None
    if pixels is None:
        expose_lack_of_memory(ValueError())  # OpenCV says nothing about it
        raise ImageError(f"{describe_damage('its data cannot be decoded')}, or re-encode it as JPEG or PNG")
    return pixels  # type: ignore[return-value]  # IMREAD_COLOR always gives uint8


def _decode_by_pillow(data: bytes) -> BGR:
    image: PIL.Image.Image = open_header(data)
    try:
        if image.format == "PNG":
            open_header(data).verify()  # checks the checksums, which decoding ignores
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # as in `open_header`
        refuse_long_text(error)
        expose_lack_of_memory(error)
        raise ImageError(describe_damage(one_line(error))) from None
    try:
        cut = is_cut(image, data)
    except MemoryError:
        raise
    except Exception as error:  # its structure is invalid
        expose_lack_of_memory(error)
        raise ImageError(describe_damage(one_line(error))) from None
    if cut:
        raise ImageError(describe_damage("its data ends before the last row"))
    try:
        PIL.ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # noqa: S110  # only the EXIF is damaged, and the orientation, if any, is applied by now
        pass
    if image.mode.startswith("I;16"):  # convert() would clip at 255
        return cv2.cvtColor(_scale_to_8_bits(image), cv2.COLOR_GRAY2BGR)  # type: ignore[return-value]
    image.info.pop("transparency", None)  # dropped, as alpha is
    if image.mode != "RGB":
        image = image.convert("RGB")  # to the same variable, so that the original is freed
    return cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR)  # type: ignore[return-value]


def _scale_to_8_bits(image: PIL.Image.Image) -> npt.NDArray[np.uint8]:
    """Returns the upper 8 bits of grey pixels of 9 to 16 bits. In a TIFF, they may have 12, and zero may be white."""
    tags = getattr(image, "tag_v2", {})
    bits, photometric = tags.get(258, (16,))[0], tags.get(262, 1)
    pixels: npt.NDArray[np.uint8] = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    return 255 - pixels if photometric == 0 else pixels
