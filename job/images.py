"""Decoding: from the bytes of an image file to pixels, or to the reason why it cannot be used."""

import io
import logging
import re
import struct
import zlib

import cv2
import numpy as np
import numpy.typing as npt
import PIL.ExifTags
import PIL.Image
import PIL.ImageChops
import PIL.ImageFile
import PIL.ImageOps
import PIL.PngImagePlugin

from job import jpeg, limits
from job.errors import one_line

BGR = npt.NDArray[np.uint8]

EXTENSIONS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
        *(".avif", ".jp2", ".j2k"),
    }
)
# Files of cameras that are not read.
CONVERTIBLE = frozenset(
    {".heic", ".heif", ".dng", ".arw", ".cr2", ".cr3", ".nef", ".orf", ".raf", ".rw2", ".mp4", ".mov", ".avi", ".mkv"}
)
# 0.5 GB after decoding. Pillow, too, treats larger images as decompression bombs.
MAX_PIXELS = 178_956_970
MAX_BYTES = 1 << 29
# A progressive JPEG has some ten. Each further scan costs a pass over all pixels, and can be as small as 40 bytes.
MAX_SCANS = 500
MAX_TEXT_BYTES = 1 << 26
THUMBNAIL_SIDE = 128

# Formats that are tried on every file, regardless of its name. Pillow supports more, but some of them start other
# programs (EPS), and others are not what people collect as images, such as spectrograms and cursors.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000", "AVIF")
# What files that are named like images contain instead, by their first bytes.
_OTHER_CONTENTS = (
    (rb"....ftyp(hei|hev|mif1|msf1)", "it is HEIC, which is not supported: convert it to JPEG"),
    (rb"....ftyp(avif|avis)", "it is an AVIF image with a damaged header: copy it again"),
    (rb"....ftyp", "it is a video or a camera raw file: export its images as JPEG"),
    (rb"\xff\xd8\xff", "it is a JPEG that is damaged or of a rare kind, such as 12 bits: save it as 8-bit JPEG"),
    (rb"\x89PNG|RIFF....WEBP|GIF8|BM", "its header is damaged: copy it again"),
    (
        rb"II\*\0|MM\0\*|II\+\0|MM\0\+",
        "it is a TIFF that is damaged or has floating point pixels: save it as 8- or 16-bit RGB",
    ),
    (rb"8BPS", "it is a Photoshop document: export it as JPEG or PNG"),
    (rb"%!PS", "it is PostScript: export it as JPEG or PNG"),
    (rb"%PDF", "it is a PDF: export its pages as JPEG or PNG"),
    (rb"PK\x03\x04", "it is a zip archive: unpack it"),
    (rb"version https://git-lfs", "it is a Git LFS pointer: fetch the file itself with git lfs pull"),
    (rb"\0+\Z", "it contains only zeros, as after an interrupted copy: copy it again"),
    (rb"(\xef\xbb\xbf)?\s*(<\?xml.*)?<svg", "it is SVG, which has no pixels: export it as PNG"),
    (rb"(\xef\xbb\xbf)?\s*<", "it is XML or HTML, perhaps an error page that was saved instead of the image"),
    (rb"(\xef\xbb\xbf|\xff\xfe|\xfe\xff)?[\s\x20-\x7e\0]+\Z", "it is text, perhaps an error message"),
)
# Any further data for libjpeg, without the 0xff of its markers.
_FILLER = bytes(range(1, 255))
_CHUNK_BYTES = 1 << 16
# The passes of an interlaced PNG: first column, first row, and the steps between columns and between rows.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))

# The job decodes in threads of its own; those of OpenCV would only compete with them for the cores.
cv2.setNumThreads(0)
# The row of a failed image has its reason; the libraries need not log it.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
logging.getLogger("PIL").setLevel(logging.CRITICAL)
# Pillow would warn at half of `MAX_PIXELS`.
PIL.Image.MAX_IMAGE_PIXELS = None
# Pillow's own limit of 1 MB for one text or colour profile refuses the files of some cameras and simulators.
PIL.PngImagePlugin.MAX_TEXT_CHUNK = PIL.PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT_BYTES


class ImageError(Exception):
    """An image that cannot be used. The text is the reason in the image's row."""


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
    image = _open(data)
    if image.mode in ("I", "F"):
        kind = "floating point" if image.mode == "F" else "32-bit"
        raise ImageError(f"it has {kind} pixels without a known value range: save it as 8 or 16 bit")
    # OpenCV is faster and rejects truncated images. But it lets libjpeg and libpng print warnings, and ignores the
    # orientation of AVIF. Pillow lets libtiff print warnings.
    is_compressed_tiff = image.format == "TIFF" and image.tile and image.tile[0].codec_name == "libtiff"
    if is_compressed_tiff or image.format in ("WEBP", "BMP", "GIF", "JPEG2000"):
        return _decode_by_opencv(_widen_screen(data, image.size) if image.format == "GIF" else data)
    if image.format in ("JPEG", "MPO") and image.mode != "CMYK":  # whose conversion other libraries round differently
        pixels = jpeg.decode(data, image.size)
        if pixels is not None:
            return _turn(pixels, _read_orientation(image))
    return _decode_by_pillow(data)


def make_thumbnail(image: BGR) -> bytes:
    """Shrinks an image to a long side of at most `THUMBNAIL_SIDE` pixels.

    Args:
        image: Pixels of shape (height, width, 3), BGR.

    Returns:
        Content of a JPEG file.

    Raises:
        ImageError: If the thumbnail cannot be encoded.
    """
    height, width = image.shape[:2]
    scale = min(1.0, THUMBNAIL_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    encoded, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 90])
    if not encoded:
        raise ImageError("its thumbnail could not be encoded")
    return data.tobytes()


def read_thumbnail(data: bytes) -> PIL.Image.Image:
    """Decodes a thumbnail of `make_thumbnail` as an RGB image."""
    return PIL.Image.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB")


def read_size(data: bytes) -> tuple[int, int]:
    """Returns width and height in pixels from the header alone, before memory of that size is allocated.

    Raises:
        ImageError: If the header cannot be read, or gives more than `MAX_PIXELS`.
    """
    with _open(data) as image:
        return image.size


def read_oriented_size(data: bytes) -> tuple[int, int]:
    """Returns width and height in pixels after the EXIF orientation, as `decode` gives them, from the header alone.

    Raises:
        ImageError: If the header cannot be read, or gives more than `MAX_PIXELS`.
    """
    with _open(data) as image:
        width, height = image.size
        orientation = _read_orientation(image)
    is_turned = orientation in (5, 6, 7, 8) and image.format != "TIFF"  # Pillow turns the size of a TIFF itself
    return (height, width) if is_turned else (width, height)


def _open(data: bytes) -> PIL.ImageFile.ImageFile:
    if not data:
        raise ImageError("the file is empty")
    try:
        image = PIL.Image.open(io.BytesIO(data), formats=_FORMATS)
    except PIL.UnidentifiedImageError:
        raise ImageError(f"not an image that can be read: {_describe(data)}") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plug-ins raise any class of error on damaged headers
        _refuse_long_text(error)
        _expose_lack_of_memory(error)
        raise ImageError(f"not an image that can be read: its header is damaged ({one_line(error)})") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}x{height} pixels are more than the limit of {MAX_PIXELS:,}")
    if image.format in ("JPEG", "MPO") and (scans := jpeg.count_scans(data)) > MAX_SCANS:
        raise ImageError(f"its {scans:,} scans are more than the limit of {MAX_SCANS}: decoding it could take hours")
    return image


def _read_orientation(image: PIL.Image.Image) -> object:
    """Returns the EXIF orientation: 1 to 8, None without one, anything in damaged files."""
    try:
        return image.getexif().get(PIL.ExifTags.Base.Orientation)
    except MemoryError:
        raise
    except Exception:  # only the EXIF is damaged
        return None


def _turn(pixels: BGR, orientation: object) -> BGR:
    """Applies an EXIF orientation, as `PIL.ImageOps.exif_transpose` does."""
    if orientation in (5, 6, 7, 8):
        pixels = cv2.transpose(pixels)  # type: ignore[assignment]
    axes = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # 1 swaps left and right, 0 top and bottom, -1 does both
    if orientation in axes:
        pixels = cv2.flip(pixels, axes[orientation])  # type: ignore[assignment]
    return pixels


def _refuse_long_text(error: Exception) -> None:
    if "MAX_TEXT_" in str(error):
        limit = f"{MAX_TEXT_BYTES >> 20} MB"
        raise ImageError(f"its texts or its colour profile are above the limit of {limit}: save it without") from None


def _expose_lack_of_memory(error: Exception) -> None:
    """Raises a MemoryError if there is too little memory: then the image may be good, whatever the library says."""
    if limits.lacks_memory(error):
        raise MemoryError from error


def _widen_screen(data: bytes, size: tuple[int, int]) -> bytes:
    """Returns a GIF whose screen has the size that Pillow gives it: OpenCV refuses a first frame that is larger."""
    return data[:6] + struct.pack("<HH", *size) + data[10:]


def _decode_by_opencv(data: bytes) -> BGR:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        _expose_lack_of_memory(error)
        raise ImageError(_damaged(one_line(error))) from None
    if pixels is None:
        _expose_lack_of_memory(ValueError())  # OpenCV says nothing about it
        raise ImageError(f"{_damaged('its data cannot be decoded')}, or re-encode it as JPEG or PNG")
    return pixels  # type: ignore[return-value]  # IMREAD_COLOR always gives uint8


def _decode_by_pillow(data: bytes) -> BGR:
    image: PIL.Image.Image = _open(data)
    try:
        if image.format == "PNG":
            _open(data).verify()  # checks the checksums, which decoding ignores
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # as in `_open`
        _refuse_long_text(error)
        _expose_lack_of_memory(error)
        raise ImageError(_damaged(one_line(error))) from None
    try:
        cut = _is_cut(image, data)
    except MemoryError:
        raise
    except Exception as error:  # its structure is invalid
        _expose_lack_of_memory(error)
        raise ImageError(_damaged(one_line(error))) from None
    if cut:
        raise ImageError(_damaged("its data ends before the last row"))
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


def _is_cut(image: PIL.Image.Image, data: bytes) -> bool:
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


def _describe(data: bytes) -> str:
    for pattern, reason in _OTHER_CONTENTS:
        if re.match(pattern, data[:1000], re.DOTALL):
            return reason
    return f"it starts with {data[:16]!r}, which no image format does"


def _damaged(detail: str) -> str:
    return f"truncated or damaged: {detail}; copy it again"
