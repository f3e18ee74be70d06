"""The headers of image files: size and orientation, and the limits that are checked before memory is allocated."""

import io
import logging

import PIL.ExifTags
import PIL.Image
import PIL.ImageFile
import PIL.PngImagePlugin

from job import limits
from job.errors import one_line
from job.images import jpeg
from job.images.formats import describe

# 0.5 GB after decoding. Pillow, too, treats larger images as decompression bombs.
MAX_PIXELS = 178_956_970
# A progressive JPEG has some ten. Each further scan costs a pass over all pixels, and can be as small as 40 bytes.
MAX_SCANS = 500
MAX_TEXT_BYTES = 1 << 26

# Formats that are tried on every file, regardless of its name. Pillow supports more, but some of them start other
# programs (EPS), and others are not what people collect as images, such as spectrograms and cursors.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000", "AVIF")

# The row of a failed image has its reason; the library need not log it.
logging.getLogger("PIL").setLevel(logging.CRITICAL)
# Pillow would warn at half of `MAX_PIXELS`.
PIL.Image.MAX_IMAGE_PIXELS = None
# Pillow's own limit of 1 MB for one text or colour profile refuses the files of some cameras and simulators.
PIL.PngImagePlugin.MAX_TEXT_CHUNK = PIL.PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT_BYTES


class ImageError(Exception):
    """An image that cannot be used. The text is the reason in the image's row."""


def read_size(data: bytes) -> tuple[int, int]:
    """Returns width and height in pixels from the header alone, before memory of that size is allocated.

    Raises:
        ImageError: If the header cannot be read, or gives more than `MAX_PIXELS`.
    """
    with open_header(data) as image:
        return image.size


def read_oriented_size(data: bytes) -> tuple[int, int]:
    """Returns width and height in pixels after the EXIF orientation, as `decode` gives them, from the header alone.

    Raises:
        ImageError: If the header cannot be read, or gives more than `MAX_PIXELS`.
    """
    with open_header(data) as image:
        width, height = image.size
        orientation = read_orientation(image)
    is_turned = orientation in (5, 6, 7, 8) and image.format != "TIFF"  # Pillow turns the size of a TIFF itself
    return (height, width) if is_turned else (width, height)


def open_header(data: bytes) -> PIL.ImageFile.ImageFile:
    """Opens an image without decoding it.

    Raises:
        ImageError: If the header cannot be read, or if the image is above a limit.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        image = PIL.Image.open(io.BytesIO(data), formats=_FORMATS)
    except PIL.UnidentifiedImageError:
        raise ImageError(f"not an image that can be read: {describe(data)}") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plug-ins raise any class of error on damaged headers
        refuse_long_text(error)
        expose_lack_of_memory(error)
        raise ImageError(f"not an image that can be read: its header is damaged ({one_line(error)})") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width}x{height} pixels are more than the limit of {MAX_PIXELS:,}")
    if image.format in ("JPEG", "MPO") and (scans := jpeg.count_scans(data)) > MAX_SCANS:
        raise ImageError(f"its {scans:,} scans are more than the limit of {MAX_SCANS}: decoding it could take hours")
    return image


def read_orientation(image: PIL.Image.Image) -> object:
    """Returns the EXIF orientation: 1 to 8, None without one, anything in damaged files."""
    try:
        return image.getexif().get(PIL.ExifTags.Base.Orientation)
    except MemoryError:
        raise
    except Exception:  # only the EXIF is damaged
        return None


def refuse_long_text(error: Exception) -> None:
    """Raises an ImageError if Pillow refuses texts or a colour profile for their size."""
    if "MAX_TEXT_" in str(error):
        limit = f"{MAX_TEXT_BYTES >> 20} MB"
        raise ImageError(f"its texts or its colour profile are above the limit of {limit}: save it without") from None


def expose_lack_of_memory(error: Exception) -> None:
    """Raises a MemoryError if there is too little memory: then the image may be good, whatever the library says."""
    if limits.lacks_memory(error):
        raise MemoryError from error


def describe_damage(detail: str) -> str:
    """Makes the reason in the row of a damaged image."""
    return f"truncated or damaged: {detail}; copy it again"
