"""From the bytes of an image file to pixels, or to the reason why not."""

import io

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image

BGR = npt.NDArray[np.uint8]

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
# 0.5 GB once decoded. It is the size at which Pillow, too, takes an image for a decompression bomb.
MAX_PIXELS = 178_956_970
MAX_BYTES = 1 << 29
THUMBNAIL_SIDE = 128

# The job's own threads decode side by side; OpenCV's would only fight them for the cores.
cv2.setNumThreads(0)
# What it would log, a failed image says in its own row.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
# Pillow only reads headers here, and would warn at half of our own limit.
PIL.Image.MAX_IMAGE_PIXELS = None


class ImageError(Exception):
    """An image that cannot be used; its text is the reason that goes into the image's row."""


def decode(data: bytes) -> BGR:
    """Decodes an image file.

    EXIF orientation is applied. Grey, palette and CMYK images become BGR, 16-bit ones are scaled to 8 bit, and an alpha
    channel is dropped, which is how detectron2 reads images too.

    Args:
        data: Content of a JPEG, PNG, WebP, BMP or TIFF file.

    Returns:
        Pixels of shape (height, width, 3), channels in the order blue, green, red.

    Raises:
        ImageError: The data is empty, no image, truncated, damaged, or more than `MAX_PIXELS`.
    """
    dimensions(data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f"OpenCV cannot decode it: {_one_line(error)}") from None
    if image is None:
        raise ImageError(_why_undecodable(data))
    return image  # type: ignore[return-value]  # IMREAD_COLOR always gives uint8


def thumbnail(image: BGR) -> bytes:
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


def dimensions(data: bytes) -> tuple[int, int]:
    """Width and height in pixels from the header alone, before anything of that size is allocated.

    Raises:
        ImageError: There is no header that can be read, or it tells of more than `MAX_PIXELS`.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            width, height = image.size
    except Exception as error:  # Pillow's plug-ins raise what they like on damaged headers
        raise ImageError(f"not an image that can be read: {_what(data, error)}") from None
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}x{height} pixels are more than the limit of {MAX_PIXELS:,}")
    return width, height


def _what(data: bytes, error: Exception) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return f"it starts with {data[:16]!r}"
    return _one_line(error)


def _why_undecodable(data: bytes) -> str:
    """OpenCV only says no; Pillow often knows why."""
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            kind = f"{image.format} of mode {image.mode}"
            image.load()
    except Exception as error:  # as above
        return f"truncated or damaged: {_one_line(error)}"
    return f"truncated, damaged or of a kind that OpenCV cannot decode ({kind})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
