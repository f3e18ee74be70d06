"""From the bytes of an image file to pixels, or to the reason why not."""

import io
import logging
import re
import struct
import zlib

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageChops
import PIL.ImageFile
import PIL.ImageOps

from job.errors import one_line

BGR = npt.NDArray[np.uint8]

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# 0.5 GB once decoded. It is the size at which Pillow, too, takes an image for a decompression bomb.
MAX_PIXELS = 178_956_970
MAX_BYTES = 1 << 29
THUMBNAIL_SIDE = 128

# What is tried on a file, whatever its name. Pillow knows more, but some of it starts other programs (EPS), and nobody
# means a spectrogram or a cursor when they collect images.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000", "AVIF")
# What else files of images turn out to be, by how they start.
_OTHERS = (
    (rb"....ftyp(hei|hev|mif1|msf1)", "it is HEIC, which is not supported: convert it to JPEG"),
    (rb"....ftyp(avif|avis)", "it is an AVIF image with a damaged header: copy it anew"),
    (rb"....ftyp", "it is a video or a camera's raw file: export its pictures as JPEG"),
    (rb"\xff\xd8\xff", "it is a JPEG, damaged or of a rare kind as with 12 bits: save it as 8-bit JPEG"),
    (rb"\x89PNG|RIFF....WEBP|GIF8|BM", "its header is damaged: copy it anew"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "it is a TIFF, damaged or of floating point numbers: save it as 8 or 16 bit RGB"),
    (rb"8BPS", "it is a Photoshop document: export it as JPEG or PNG"),
    (rb"%!PS", "it is PostScript: export it as JPEG or PNG"),
    (rb"%PDF", "it is a PDF: export its pages as JPEG or PNG"),
    (rb"PK\x03\x04", "it is a zip archive: unpack it"),
    (rb"version https://git-lfs", "it is a pointer of Git LFS: fetch the file itself with git lfs pull"),
    (rb"\0+\Z", "it holds nothing but zeros, as after a copy that was broken off: copy it anew"),
    (rb"(\xef\xbb\xbf)?\s*(<\?xml.*)?<svg", "it is SVG, which holds no pixels: export it as PNG"),
    (rb"(\xef\xbb\xbf)?\s*<", "it is XML or HTML, perhaps an error page that was saved in place of the image"),
    (rb"(\xef\xbb\xbf|\xff\xfe|\xfe\xff)?[\s\x20-\x7e\0]+\Z", "it is text, perhaps an error message"),
)
# Any data for libjpeg to go on with, without its markers' 0xff.
_MORE = bytes(range(1, 255))
_PIECE = 1 << 16
# The passes of an interlaced PNG: first column and row, and the steps.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))

# The job's own threads decode side by side; OpenCV's would only fight them for the cores.
cv2.setNumThreads(0)
# What the libraries would log, a failed image says in its own row.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
logging.getLogger("PIL").setLevel(logging.CRITICAL)
# Pillow would warn at half of our own limit.
PIL.Image.MAX_IMAGE_PIXELS = None


class ImageError(Exception):
    """An image that cannot be used; its text is the reason that goes into the image's row."""


def decode(data: bytes) -> BGR:
    """Decodes an image file, of several pages or frames the first.

    EXIF orientation is applied. Grey, palette and CMYK images become BGR, 16-bit ones are scaled to 8 bit, and an alpha
    channel is dropped, which is how detectron2 reads images too.

    Args:
        data: Content of a JPEG, PNG, WebP, BMP, GIF, TIFF, JPEG 2000 or AVIF file.

    Returns:
        Pixels of shape (height, width, 3), channels in the order blue, green, red.

    Raises:
        ImageError: The data is empty, no image, truncated, damaged, or more than `MAX_PIXELS`.
    """
    image = _open(data)
    if image.mode in ("I", "F"):
        kind = "floating point" if image.mode == "F" else "32-bit"
        raise ImageError(f"its pixels are {kind} numbers, of which nothing says what is white: save it as 8 or 16 bit")
    # OpenCV is the faster and takes no half images, but lets libjpeg and libpng print what they think of a file, and
    # does not turn AVIF. Pillow lets libtiff print.
    compressed_tiff = image.format == "TIFF" and image.tile and image.tile[0].codec_name == "libtiff"
    if compressed_tiff or image.format in ("WEBP", "BMP", "GIF", "JPEG2000"):
        return _by_opencv(data)
    return _by_pillow(data)


def make_thumbnail(image: BGR) -> bytes:
    """Shrinks an image to a long side of at most `THUMBNAIL_SIDE` pixels.

    Args:
        image: Pixels of shape (height, width, 3), BGR.

    Returns:
        A JPEG file.
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
    """Decodes a thumbnail written by `thumbnail` as an RGB image."""
    return PIL.Image.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB")


def read_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels from the header alone, before anything of that size is allocated.

    Raises:
        ImageError: There is no header that can be read, or it tells of more than `MAX_PIXELS`.
    """
    with _open(data) as image:
        return image.size


def _open(data: bytes) -> PIL.ImageFile.ImageFile:
    if not data:
        raise ImageError("the file is empty")
    try:
        image = PIL.Image.open(io.BytesIO(data), formats=_FORMATS)
    except PIL.UnidentifiedImageError:
        raise ImageError(f"not an image that can be read: {_what(data)}") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plug-ins raise what they like on damaged headers
        raise ImageError(f"not an image that can be read: its header is damaged ({one_line(error)})") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}x{height} pixels are more than the limit of {MAX_PIXELS:,}")
    return image


def _by_opencv(data: bytes) -> BGR:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(_damaged(one_line(error))) from None
    if pixels is None:
        raise ImageError(f"{_damaged('its data cannot be decoded')}, or save it anew, as JPEG or PNG")
    return pixels  # type: ignore[return-value]  # IMREAD_COLOR always gives uint8


def _by_pillow(data: bytes) -> BGR:
    image: PIL.Image.Image = _open(data)
    try:
        if image.format == "PNG":
            _open(data).verify()  # the checksums, which decoding leaves out
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # as in `_open`
        raise ImageError(_damaged(one_line(error))) from None
    try:
        cut = _is_cut(image, data)
    except MemoryError:
        raise
    except Exception as error:  # its structure is not what it should be
        raise ImageError(_damaged(one_line(error))) from None
    if cut:
        raise ImageError(_damaged("its data ends before the last row"))
    try:
        PIL.ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:  # noqa: S110  # only the EXIF is damaged, and by now the pixels are turned if it says how
        pass
    if image.mode.startswith("I;16"):  # convert() would cut off at 255
        return cv2.cvtColor(_grey(image), cv2.COLOR_GRAY2BGR)  # type: ignore[return-value]
    image.info.pop("transparency", None)  # dropped, as alpha is
    if image.mode != "RGB":
        image = image.convert("RGB")  # by the same name, so that the original is freed
    return cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR)  # type: ignore[return-value]


def _grey(image: PIL.Image.Image) -> npt.NDArray[np.uint8]:
    """The 8 upper bits of grey pixels with more; in a TIFF they may be 12, and zero may be white."""
    tags = getattr(image, "tag_v2", {})
    bits, photometric = tags.get(258, (16,))[0], tags.get(262, 1)
    pixels: npt.NDArray[np.uint8] = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    return 255 - pixels if photometric == 0 else pixels


def _is_cut(image: PIL.Image.Image, data: bytes) -> bool:
    """Whether data ended in the middle, but properly, which Pillow takes: what is missing is grey or black then.

    Only pictures that do end in grey or black pay for a closer look.
    """
    width, height = image.size
    if image.format in ("JPEG", "MPO"):
        last = image.crop((width - 1, height - 1, width, height)).tobytes()
        return all(127 <= each <= 128 for each in last) and _wants_more(image, data)
    if image.format == "PNG":
        # Two rows: of an interlaced image every other one comes last.
        return not any(image.crop((0, max(0, height - 2), width, height)).tobytes()) and _is_short(data)
    return False


def _wants_more(image: PIL.Image.Image, data: bytes) -> bool:
    """Whether a JPEG changes with more data before its end marker: that of a whole one is never read."""
    end = _end_of_first(data)
    longer = PIL.Image.open(io.BytesIO(data[:end] + _MORE + data[end:]), formats=["JPEG"])
    try:
        return PIL.ImageChops.difference(image, longer).getbbox(alpha_only=False) is not None
    except OSError:
        return True


def _end_of_first(data: bytes) -> int:
    """Where the end marker of a JPEG is, or of the first picture in the file; those within segments do not count.

    Of a file with something else between its segments, which decoders skip, it is the last one.
    """
    position = 2
    while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] != b"\xda":  # up to the scan
        filling = data[position + 1 : position + 2] == b"\xff"
        position += 1 if filling else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    is_scan = data[position : position + 2] == b"\xff\xda"
    return data.find(b"\xff\xd9", position) if is_scan else data.rfind(b"\xff\xd9")


def _is_short(data: bytes) -> bool:
    """Whether a PNG has less data than rows."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * {2: 3, 4: 2, 6: 4}.get(colour, 1)
    wanted = 0
    for x, y, dx, dy in _ADAM7 if interlaced else [(0, 0, 1, 1)]:
        columns, rows = len(range(x, width, dx)), len(range(y, height, dy))
        wanted += rows * (1 + -(-columns * bits // 8)) if columns else 0
    inflate = zlib.decompressobj()
    position, view = 8, memoryview(data)
    while wanted > 0 and position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length if kind == b"IDAT" else position
        for start in range(position + 8, end, _PIECE):  # small ones, since zlib copies what it leaves over
            rest: bytes | memoryview = view[start : min(start + _PIECE, end)]
            while rest and wanted > 0:
                wanted -= len(inflate.decompress(rest, 1 << 20))
                rest = inflate.unconsumed_tail
        position += 12 + length
    return wanted > 0 and wanted > len(inflate.flush())


def _what(data: bytes) -> str:
    for pattern, reason in _OTHERS:
        if re.match(pattern, data[:1000], re.DOTALL):
            return reason
    return f"it starts with {data[:16]!r}, as no image does"


def _damaged(detail: str) -> str:
    return f"truncated or damaged: {detail}; copy it anew"
