"""Decoding, against Pillow as the independent reader, and every way in which a file can be broken."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from PIL.Image import Image

from job import images
from job.images import ImageError, decode, thumbnail
from tests.conftest import picture

RGB = PIL.Image.fromarray(picture(1, 90, 120)[:, :, ::-1])


def encoded(image: Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> Any:
    oriented = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
    return np.asarray(oriented.convert("RGB"))[:, :, ::-1].astype(int)


def with_alpha() -> Image:
    image = RGB.convert("RGBA")
    image.putalpha(PIL.Image.fromarray(picture(2, 90, 120)[:, :, 0]))
    return image


FILES = {
    "jpeg": encoded(RGB, "JPEG"),
    "jpeg progressive": encoded(RGB, "JPEG", progressive=True),
    "jpeg grey": encoded(RGB.convert("L"), "JPEG"),
    "jpeg cmyk": encoded(RGB.convert("CMYK"), "JPEG"),
    "png": encoded(RGB, "PNG"),
    "png grey": encoded(RGB.convert("L"), "PNG"),
    "png grey alpha": encoded(RGB.convert("LA"), "PNG"),
    "png alpha": encoded(with_alpha(), "PNG"),
    "png palette": encoded(RGB.convert("P"), "PNG"),
    "png palette transparent": encoded(RGB.convert("P"), "PNG", transparency=3),
    "png 1 bit": encoded(RGB.convert("1"), "PNG"),
    "webp": encoded(RGB, "WEBP"),
    "webp alpha": encoded(with_alpha(), "WEBP", lossless=True, exact=True),
    "bmp": encoded(RGB, "BMP"),
    "tiff": encoded(RGB, "TIFF"),
    "tiff lzw": encoded(RGB, "TIFF", compression="tiff_lzw"),
    "tiff cmyk": encoded(RGB.convert("CMYK"), "TIFF"),
}


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_that_pillow_reads(name: str) -> None:
    image = decode(FILES[name])
    assert image.dtype == np.uint8
    expected = by_pillow(FILES[name])
    assert image.shape == expected.shape
    # CMYK to RGB is rounded differently; everything else is exact.
    assert np.abs(image - expected).max() <= (1 if "cmyk" in name else 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = encoded(RGB, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    image = decode(data)
    assert image.shape == ((120, 90, 3) if orientation >= 5 else (90, 120, 3))
    assert (image == by_pillow(data)).all()


@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_16_bit_is_scaled_and_not_cut_off(kind: str) -> None:
    grey = np.linspace(0, 65535, 90 * 120).reshape(90, 120).astype(np.uint16)
    image = decode(cv2.imencode(kind, grey)[1].tobytes())
    assert (image == (grey >> 8)[:, :, None]).all()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_a_failure_and_never_half_an_image(name: str, share: float) -> None:
    with pytest.raises(ImageError):
        decode(FILES[name][: int(len(FILES[name]) * share)])


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has next to no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "not an image"),
        (b"\xff\xd8\xff", "not an image"),
        (bytes(1000), "not an image"),
        (png_header(20_000, 20_000), "20000x20000 pixels are more than the limit"),
        (png_header(100, 100), "truncated"),
        (cv2.imencode(".tiff", np.zeros((9, 9, 3), np.float32))[1].tobytes(), "not an image that can be read"),
    ],
)
def test_the_reason_says_what_is_wrong(data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


def test_a_large_image_below_the_limit_gives_no_warning() -> None:
    # Pillow by itself warns from 89 million pixels on, and warnings are errors here.
    data = cv2.imencode(".png", np.zeros((9_500, 9_500), np.uint8))[1].tobytes()
    assert decode(data).shape == (9_500, 9_500, 3)


@pytest.mark.parametrize(
    ("size", "expected"), [((90, 120), (96, 128)), ((720, 1280), (72, 128)), ((5000, 3), (128, 1)), ((1, 1), (1, 1))]
)
def test_thumbnails_have_a_long_side_of_128(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = picture(3, *size)
    small = np.asarray(images.read_thumbnail(thumbnail(image)))
    if max(size) < 128:
        expected = size
    assert small.shape == (*expected, 3)


def test_a_thumbnail_keeps_its_colours() -> None:
    blue = np.zeros((200, 300, 3), np.uint8)
    blue[:, :, 0] = 255
    assert images.read_thumbnail(thumbnail(blue)).getpixel((5, 5)) == (0, 0, 254)
