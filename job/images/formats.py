"""The formats of images: the names of their files, and what else files with such names contain."""

import re

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
MAX_BYTES = 1 << 29

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


def describe(data: bytes) -> str:
    """Says what a file that is no image contains instead, and what to do about it."""
    for pattern, reason in _OTHER_CONTENTS:
        if re.match(pattern, data[:1000], re.DOTALL):
            return reason
    return f"it starts with {data[:16]!r}, which no image format does"
