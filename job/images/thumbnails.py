"""Thumbnails, which the parts keep of each image."""

import io

import cv2
import PIL.Image

from job.images.decoding import BGR
from job.images.headers import ImageError

THUMBNAIL_SIDE = 128


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
