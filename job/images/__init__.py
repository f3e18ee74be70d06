"""Images: from the bytes of a file to pixels, a size and a thumbnail, or to the reason why it cannot be used."""

from job.images.decoding import BGR, count_decoding_bytes, decode
from job.images.formats import CONVERTIBLE, EXTENSIONS, MAX_BYTES
from job.images.headers import MAX_PIXELS, MAX_SCANS, MAX_TEXT_BYTES, ImageError, read_oriented_size, read_size
from job.images.thumbnails import THUMBNAIL_SIDE, make_thumbnail, read_thumbnail

__all__ = [
    "BGR", "CONVERTIBLE", "EXTENSIONS", "MAX_BYTES", "MAX_PIXELS", "MAX_SCANS", "MAX_TEXT_BYTES", "THUMBNAIL_SIDE",
    "ImageError", "count_decoding_bytes", "decode", "make_thumbnail", "read_oriented_size", "read_size",
    "read_thumbnail",
]  # fmt: skip
