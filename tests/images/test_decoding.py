"""Decoding, against Pillow and OpenCV, of which one is always the other reader, and every way of being broken."""

import io
import itertools
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL.Image import Image

from job import images
from job.images import ImageError, decode, make_thumbnail, read_oriented_size, read_size
from tests.conftest import picture

RGB = PIL.Image.fromarray(picture(1, 90, 120)[:, :, ::-1])


@pytest.fixture(autouse=True)
def _silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No library prints what it thinks of a file, not even from C."""
    yield
    assert capfd.readouterr() == ("", "")


def encoded(image: Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.copy().save(buffer, kind, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> Any:
    oriented = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
    oriented.info.pop("transparency", None)
    return np.asarray(oriented.convert("RGB"))[:, :, ::-1].astype(int)


def by_opencv(data: bytes) -> Any:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image.astype(int)


def with_alpha() -> Image:
    image = RGB.convert("RGBA")
    image.putalpha(PIL.Image.fromarray(picture(2, 90, 120)[:, :, 0]))
    return image


def animated(kind: str, image: Image = RGB, **options: Any) -> bytes:
    """Three pictures in one file."""
    return encoded(image, kind, save_all=True, append_images=[image.rotate(180), image.rotate(90)], **options)


def ycck(image: Image) -> bytes:
    """CMYK as Photoshop stores it: Pillow writes four channels as they are, and the Adobe marker says what they are."""
    luma = 255 - np.asarray(PIL.ImageOps.invert(image).convert("YCbCr"))
    inks = np.dstack([luma, np.zeros(luma.shape[:2], np.uint8)])
    data = encoded(PIL.Image.frombytes("CMYK", image.size, inks.tobytes()), "JPEG")
    transform = data.index(b"Adobe") + 11
    return data[:transform] + b"\2" + data[transform + 1 :]


def png(image: Image, *, interlaced: bool = False, raw: bytes | None = None, extra: bytes = b"") -> bytes:
    """An RGB PNG, of which Pillow writes neither interlaced ones nor broken ones."""
    pixels = np.asarray(image)
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    if raw is None:
        parts = [pixels[y::dy, x::dx] for x, y, dx, dy in (passes if interlaced else [(0, 0, 1, 1)])]
        raw = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    header = struct.pack(">IIBBBBB", *image.size, 8, 2, 0, 0, interlaced)
    data = chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiled_tiff(image: Image, *, deflate: bool, depth: int = 8, tile: int = 32) -> bytes:
    pixels = np.asarray(image).astype(f"<u{depth // 8}") * (257 if depth == 16 else 1)
    tiles = []
    for y, x in itertools.product(range(0, image.height, tile), range(0, image.width, tile)):
        part = pixels[y : y + tile, x : x + tile]
        part = np.pad(part, [(0, tile - part.shape[0]), (0, tile - part.shape[1]), (0, 0)])
        tiles.append(zlib.compress(part.tobytes()) if deflate else part.tobytes())
    sizes = [len(each) for each in tiles]
    offsets = [8 + before for before in itertools.accumulate(sizes, initial=0)]
    tags = [(256, "I", [image.width]), (257, "I", [image.height]), (258, "H", [depth] * 3)]
    tags += [
        (259, "H", [8 if deflate else 1]),
        (262, "H", [2]),
        (277, "H", [3]),
        (322, "I", [tile]),
        (323, "I", [tile]),
    ]
    tags += [(324, "I", offsets[:-1]), (325, "I", sizes)]
    directory, values = b"", b""
    for tag, kind, content in tags:
        value = struct.pack(f"<{len(content)}{kind}", *content).ljust(4, b"\0")
        if len(value) > 4:
            values, value = values + value, struct.pack("<I", offsets[-1] + 2 + 12 * len(tags) + 4 + len(values))
        directory += struct.pack("<HHI", tag, 3 if kind == "H" else 4, len(content)) + value
    body = b"".join(tiles) + struct.pack("<H", len(tags)) + directory + bytes(4) + values
    return b"II*\0" + struct.pack("<I", offsets[-1]) + body


def top_down_bmp(image: Image) -> bytes:
    """Rows from the top, which a negative height says; the width has to be a multiple of 4."""
    pixels = np.asarray(image)[:, :, ::-1].tobytes()
    header = struct.pack("<IiiHHIIiiII", 40, image.width, -image.height, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54) + header + pixels


FILES = {
    "jpeg": encoded(RGB, "JPEG"),
    "jpeg full chroma": encoded(RGB, "JPEG", subsampling=0),
    "jpeg rgb": encoded(RGB, "JPEG", keep_rgb=True),
    "jpeg progressive": encoded(RGB, "JPEG", progressive=True),
    "jpeg restart": encoded(RGB, "JPEG", restart_marker_rows=1),
    "jpeg grey": encoded(RGB.convert("L"), "JPEG"),
    "jpeg cmyk": encoded(RGB.convert("CMYK"), "JPEG"),
    "jpeg ycck": ycck(RGB),
    "jpeg of two pictures": animated("MPO"),
    "png": encoded(RGB, "PNG"),
    "png interlaced": png(RGB, interlaced=True),
    "png animated": animated("PNG"),
    "png grey": encoded(RGB.convert("L"), "PNG"),
    "png grey alpha": encoded(RGB.convert("LA"), "PNG"),
    "png alpha": encoded(with_alpha(), "PNG"),
    "png palette": encoded(RGB.convert("P"), "PNG"),
    "png palette transparent": encoded(RGB.convert("P"), "PNG", transparency=3),
    "png palette alpha": encoded(RGB.convert("P"), "PNG", transparency=bytes(range(256))),
    "png 4 bit palette": encoded(RGB.quantize(16), "PNG", bits=4),
    "png 1 bit": encoded(RGB.convert("1"), "PNG"),
    "webp": encoded(RGB, "WEBP"),
    "webp lossless": encoded(RGB, "WEBP", lossless=True),
    "webp alpha": encoded(with_alpha(), "WEBP", lossless=True, exact=True),
    "webp animated": animated("WEBP", lossless=True),
    "bmp": encoded(RGB, "BMP"),
    "bmp top down": top_down_bmp(RGB),
    "bmp palette": encoded(RGB.convert("P"), "BMP"),
    "bmp alpha": encoded(with_alpha(), "BMP"),
    "gif": encoded(RGB, "GIF"),
    "gif interlaced": encoded(RGB, "GIF", interlace=1),
    "gif animated": animated("GIF"),
    "tiff": encoded(RGB, "TIFF"),
    "tiff lzw": encoded(RGB, "TIFF", compression="tiff_lzw"),
    "tiff deflate": encoded(RGB, "TIFF", compression="tiff_adobe_deflate"),
    "tiff packbits": encoded(RGB, "TIFF", compression="packbits"),
    "tiff jpeg": encoded(RGB, "TIFF", compression="jpeg"),
    "tiff fax": encoded(RGB.convert("1"), "TIFF", compression="group4"),
    "tiff palette": encoded(RGB.convert("P"), "TIFF"),
    "tiff big": encoded(RGB, "TIFF", big_tiff=True),
    "tiff tiles": tiled_tiff(RGB, deflate=False),
    "tiff tiles deflate": tiled_tiff(RGB, deflate=True),
    "tiff 16 bit": tiled_tiff(RGB, deflate=False, depth=16),
    "tiff 16 bit deflate": tiled_tiff(RGB, deflate=True, depth=16),
    "tiff of three pages": animated("TIFF"),
    "tiff cmyk": encoded(RGB.convert("CMYK"), "TIFF"),
    "tiff cmyk lzw": encoded(RGB.convert("CMYK"), "TIFF", compression="tiff_lzw"),
    "jpeg 2000": encoded(RGB, "JPEG2000"),
    "avif": encoded(RGB, "AVIF"),
}
# A cut between two pictures leaves the first.
SEVERAL = {"jpeg of two pictures", "png animated", "gif animated", "tiff of three pages"}


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_that_pillow_and_opencv_read(name: str) -> None:
    image = decode(FILES[name])
    assert image.dtype == np.uint8 and image.flags.writeable and image.flags.c_contiguous
    assert read_size(FILES[name]) == read_oriented_size(FILES[name]) == (120, 90)
    for expected in (by_pillow(FILES[name]), by_opencv(FILES[name])):
        assert image.shape == expected.shape
        # CMYK to RGB is rounded differently; everything else is exact.
        assert np.abs(image - expected).max() <= (1 if "cmyk" in name or "ycck" in name else 0)


LOSSLESS = ["png", "png interlaced", "png alpha", "png animated", "webp lossless", "webp alpha", "webp animated", "bmp"]
LOSSLESS += ["bmp top down", "bmp alpha", "jpeg 2000", *(name for name in FILES if name.startswith("tiff"))]


@pytest.mark.parametrize("name", [each for each in LOSSLESS if each not in ("tiff jpeg", "tiff fax", "tiff palette")])
def test_pixels_are_those_that_were_written(name: str) -> None:
    assert (decode(FILES[name]) == np.asarray(RGB)[:, :, ::-1]).all()


@pytest.mark.parametrize("name", ["jpeg", "jpeg cmyk", "jpeg ycck", "webp", "avif"])
def test_colours_survive_lossy_formats(name: str) -> None:
    assert np.abs(decode(FILES[name]).mean((0, 1)) - np.asarray(RGB)[:, :, ::-1].mean((0, 1))).max() < 3


@pytest.mark.parametrize("size", [(1, 1), (5000, 3), (3, 5000)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_the_smallest_and_the_thinnest(kind: str, size: tuple[int, int]) -> None:
    data = encoded(PIL.Image.fromarray(picture(4, *size)), kind)
    assert decode(data).shape == (*size, 3)
    assert (decode(data) == by_pillow(data)).all()


def test_alpha_is_dropped_from_tiff() -> None:
    assert (decode(encoded(with_alpha(), "TIFF")) == np.asarray(RGB)[:, :, ::-1]).all()


def test_transparent_gifs_keep_what_is_not_transparent() -> None:
    data = encoded(with_alpha(), "GIF")
    opaque = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGBA"))[:, :, 3] == 255
    assert 0.1 < opaque.mean() < 1
    assert (decode(data) == by_pillow(data))[opaque].all()


@pytest.mark.parametrize("name", ["gif", "gif interlaced", "gif animated"])
@pytest.mark.parametrize("screen", [(100, 90), (120, 70), (1, 1), (0, 0)])
def test_a_gif_whose_first_frame_reaches_beyond_its_screen(name: str, screen: tuple[int, int]) -> None:
    data = FILES[name][:6] + struct.pack("<HH", *screen) + FILES[name][10:]
    assert read_size(data) == (120, 90)
    assert (decode(data) == decode(FILES[name])).all()
    if name != "gif animated":
        for share in (0.3, 0.6, 0.9):
            with pytest.raises(ImageError, match="truncated or damaged"):
                decode(data[: int(len(data) * share)])


def compressed_chunk(kind: bytes, size: int) -> bytes:
    content = zlib.compress(bytes(size))
    prefix = {b"zTXt": b"Comment\0\0", b"iTXt": b"Comment\0\1\0\0\0", b"iCCP": b"profile\0\0"}[kind]
    return chunk(kind, prefix + content)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
@pytest.mark.parametrize("behind", [False, True])
def test_a_png_with_a_long_text_or_profile(kind: bytes, behind: bool) -> None:
    def with_chunk(size: int) -> bytes:
        extra = compressed_chunk(kind, size)
        if not behind:
            return png(RGB, extra=extra)
        data = png(RGB)
        return data[:-12] + extra + data[-12:]  # before IEND

    for size in (1 << 20, 3 << 19, 1 << 25):
        assert (decode(with_chunk(size)) == np.asarray(RGB)[:, :, ::-1]).all()
    if kind != b"iCCP" or not behind:
        with pytest.raises(ImageError, match="colour profile are above the limit of 64 MB: save it without"):
            decode(with_chunk((1 << 26) + 1))


def test_a_png_with_many_texts() -> None:
    with pytest.raises(ImageError, match="colour profile are above the limit of 64 MB: save it without"):
        decode(png(RGB, extra=5 * compressed_chunk(b"zTXt", 1 << 24)))


# What is written under each extension; `decode` goes by the content, so each must also be listed.
WRITTEN_AS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".mpo": "MPO", ".png": "PNG", ".webp": "WEBP",
    ".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".avif": "AVIF", ".jp2": "JPEG2000",
    ".j2k": "JPEG2000",
}  # fmt: skip


@pytest.mark.parametrize("extension", sorted(images.EXTENSIONS))
def test_a_real_file_of_each_extension(extension: str, tmp_path: Path) -> None:
    file = tmp_path / f"a{extension}"
    options = {"save_all": True, "append_images": [RGB.rotate(180)]} if extension == ".mpo" else {}
    RGB.save(file, WRITTEN_AS[extension], **options)
    image = decode(file.read_bytes())
    assert image.shape == (90, 120, 3)
    assert np.abs(image.mean((0, 1)) - np.asarray(RGB)[:, :, ::-1].mean((0, 1))).max() < 3


def test_data_behind_the_image_does_no_harm() -> None:
    for name in ("jpeg", "png", "webp", "bmp", "gif", "tiff"):
        for rest in (b"garbage" * 50, bytes(500), FILES["jpeg"]):
            assert (decode(FILES[name] + rest) == decode(FILES[name])).all()


def test_profiles_that_libpng_would_warn_of_do_no_harm() -> None:
    extra = chunk(b"iCCP", b"x\0\0" + zlib.compress(b"junk")) + chunk(b"sRGB", b"\0") + chunk(b"sRGB", b"\0")
    assert (decode(png(RGB, extra=extra)) == np.asarray(RGB)[:, :, ::-1]).all()


def turned(orientation: int, kind: str = "JPEG", image: Image = RGB, **options: Any) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, kind, exif=exif, **options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("AVIF", {}),
    ],
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, options: dict[str, Any], orientation: int) -> None:
    data = turned(orientation, kind, **options)
    image = decode(data)
    assert image.shape == ((120, 90, 3) if orientation >= 5 else (90, 120, 3))
    assert images.read_oriented_size(data) == image.shape[1::-1]
    assert (image == by_pillow(data)).all()
    assert read_oriented_size(data) == (image.shape[1], image.shape[0])
    # By what the standard says of the first row and column, whoever reads it.
    upright = decode(turned(1, kind, **options)).astype(int)
    flips = {
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        6: np.rot90(upright, -1),
        8: np.rot90(upright),
    }
    flips |= {1: upright, 5: upright.swapaxes(0, 1), 7: upright[::-1, ::-1].swapaxes(0, 1)}
    # AVIF is turned before its colours are put together from fewer.
    assert np.abs(image - flips[orientation]).mean() <= (3 if kind == "AVIF" else 0)


@pytest.mark.parametrize("name", ["cmyk", "grey", "palette", "16 bit"])
def test_orientation_of_other_modes(name: str) -> None:
    grey = PIL.Image.fromarray(np.arange(90 * 120, dtype=np.uint16).reshape(90, 120) * 6)
    data = {
        "cmyk": turned(6, image=RGB.convert("CMYK")),
        "grey": turned(6, image=RGB.convert("L")),
        "palette": turned(6, "PNG", RGB.convert("P")),
        "16 bit": turned(6, "PNG", grey),
    }[name]
    assert decode(data).shape == (120, 90, 3)
    assert np.abs(decode(data) - by_opencv(data)).max() <= 1


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0junkjunkjunk", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*" + bytes(90)]
)
def test_damaged_exif_leaves_the_image_as_it_is(exif: bytes) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        assert decode(encoded(RGB, kind, exif=exif)).shape == (90, 120, 3)


@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_16_bit_is_scaled_and_not_cut_off(kind: str) -> None:
    grey = np.linspace(0, 65535, 90 * 120).reshape(90, 120).astype(np.uint16)
    image = decode(cv2.imencode(kind, grey)[1].tobytes())
    assert (image == (grey >> 8)[:, :, None]).all()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_a_failure_and_never_half_an_image(name: str, share: float) -> None:
    cut = FILES[name][: int(len(FILES[name]) * share)]
    if name in SEVERAL:
        decodes_whole_or_not_at_all(cut, decode(FILES[name]))
        return
    with pytest.raises(ImageError, match=r"truncated|damaged|empty|not an image"):
        decode(cut)


def decodes_whole_or_not_at_all(data: bytes, whole: images.BGR) -> None:
    try:
        image = decode(data)
    except ImageError:
        return
    assert image.shape == whole.shape and (image == whole).all()


def padded(mode: str) -> Image:
    """A picture above a band of the grey that libjpeg also puts where data is missing."""
    image = PIL.Image.new("RGB", (120, 128), (128, 128, 128))
    image.paste(RGB)
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_grey_band_is_no_missing_data(mode: str, options: dict[str, Any]) -> None:
    data = encoded(padded(mode), "JPEG", **options)
    for each in (data, data + b"garbage", data + data):
        assert np.abs(decode(each) - by_opencv(data)).max() <= 1


@pytest.mark.parametrize("name", ["jpeg", "jpeg full chroma", "jpeg restart", "jpeg grey", "jpeg cmyk", "jpeg ycck"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_a_truncated_jpeg_that_was_given_an_end(name: str, share: float) -> None:
    with pytest.raises(ImageError, match="its data ends before the last row"):
        decode(FILES[name][: int(len(FILES[name]) * share)] + b"\xff\xd9")


def test_a_truncated_jpeg_with_a_grey_band_that_was_given_an_end() -> None:
    data = encoded(padded("RGB"), "JPEG")
    with pytest.raises(ImageError, match="its data ends before the last row"):
        decode(data[: len(data) // 2] + b"\xff\xd9")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.8])
def test_a_png_whose_data_ends_early_but_properly(interlaced: bool, share: float) -> None:
    whole = png(RGB, interlaced=interlaced)
    start = whole.index(b"IDAT")
    raw = zlib.decompress(whole[start + 4 : -16])
    with pytest.raises(ImageError, match="truncated or damaged"):
        decode(png(RGB, interlaced=interlaced, raw=raw[: int(len(raw) * share)]))


@pytest.mark.parametrize("behind", [b"\n", b"1234567", b"\0" * 20])
def test_a_png_whose_data_ends_early_with_something_behind_it(behind: bytes) -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(RGB)[: RGB.height // 2])
    short = png(RGB, raw=rows)
    with pytest.raises(ImageError, match="truncated or damaged"):
        decode(short + behind)
    whole = encoded(PIL.Image.new("RGB", (50, 40)), "PNG")
    assert not decode(whole + behind).any()


def test_a_cut_jpeg_is_found_before_another_picture() -> None:
    """As in files of several pictures, and with a thumbnail in its EXIF."""
    data = encoded(RGB, "JPEG")
    cut = data[: len(data) // 2] + b"\xff\xd9"
    exif = b"Exif\0\0" + b"MM\0*\0\0\0\x08\0\0\0\0\0\0" + encoded(TINY, "JPEG")
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    for each in (cut, cut[:2] + segment + cut[2:]):
        with pytest.raises(ImageError, match="ends before the last row"):
            decode(each + data)
    assert (decode(data[:2] + segment + data[2:] + data) == decode(data)).all()


@pytest.mark.parametrize(("bits", "white_is_zero", "expected"), [(16, False, 234), (16, True, 21), (12, False, 234)])
def test_grey_tiffs_of_many_bits_are_scaled_and_turned(bits: int, white_is_zero: bool, expected: int) -> None:
    value = 60000 >> (16 - bits)
    row = np.full(64, value, np.uint16)
    raw = row.astype("<u2").tobytes()
    if bits == 12:
        raw = b"".join(bytes([v >> 4, (v & 15) << 4 | v >> 8, v & 255]) for v in row[:32].tolist())
    tags = [(256, len(raw) * 8 // bits), (257, 1), (258, bits), (259, 1), (262, 0 if white_is_zero else 1)]
    tags += [(273, 8), (277, 1), (278, 1), (279, len(raw))]
    directory = len(tags).to_bytes(2, "little") + b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in tags)
    data = b"II*\0" + (8 + len(raw)).to_bytes(4, "little") + raw + directory + bytes(4)
    assert (decode(data) == expected).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_black_png_is_whole(mode: str) -> None:
    for size in ((1, 1), (9, 1), (33, 17)):
        assert not decode(encoded(PIL.Image.new(mode, size), "PNG")).any()
        assert not decode(png(PIL.Image.new("RGB", size), interlaced=True)).any()


@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_a_large_black_png_is_whole(level: int) -> None:
    assert not decode(encoded(PIL.Image.new("RGB", (1200, 1000)), "PNG", compress_level=level)).any()


@pytest.mark.parametrize("where", ["IHDR", "IDAT"])
def test_a_png_with_a_wrong_checksum(where: str) -> None:
    data = png(RGB)
    checksum = {"IHDR": 29, "IDAT": len(data) - 13}[where]
    with pytest.raises(ImageError, match="damaged"):
        decode(data[:checksum] + bytes([data[checksum] ^ 1]) + data[checksum + 1 :])


def test_a_damaged_middle_is_not_printed() -> None:
    # The limit in docs/limits.md: nothing says where in the data a JPEG went wrong.
    data = FILES["jpeg restart"]
    middle = len(data) // 2
    for broken in (data[:middle] + bytes(60) + data[middle + 60 :], data[:middle] + data[middle + 100 :]):
        assert decode(broken).shape == (90, 120, 3)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has next to no data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def claiming(name: str, width: int, height: int) -> bytes:
    """A small file whose header claims another size."""
    data = FILES[name]
    if name == "jpeg":
        at, size = data.index(b"\xff\xc0") + 5, struct.pack(">HH", height, width)
    elif name == "gif":
        at, size = 6, struct.pack("<HH", width, height)
    else:
        at, size = 18, struct.pack("<ii", width, height)
    return data[:at] + size + data[at + len(size) :]


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", FILES["png"])
    return buffer.getvalue()


# Flat and grey: a table of quantities, one of codes for each kind, and one code.
JPEG_12_BIT = bytes.fromhex(
    "ffd8 ffdb0043 00" + 64 * "01" + "ffc1000b 0c 0008 0008 01 011100 ffc40014 00 01" + 15 * "00" + "00"
    "ffc40014 10 01" + 15 * "00" + "00 ffda0008 01 0100 003f00 3f ffd9"
)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "not an image"),
        (b"\xff\xd8\xff", "not an image"),
        (bytes(1000), "not an image"),
        (png_header(20_000, 20_000), "20000x20000 pixels are more than the limit"),
        (png_header(100, 100), "truncated"),
        (png_header(2**31 - 1, 2**31 - 1), "are more than the limit"),
        (claiming("jpeg", 65_500, 65_500), "65500x65500 pixels are more than the limit"),
        (claiming("gif", 65_535, 65_535), "65535x65535 pixels are more than the limit"),
        (claiming("bmp", 50_000, 50_000), "50000x50000 pixels are more than the limit"),
        (claiming("bmp", 5_000, 5_000), "truncated"),
        (claiming("jpeg", 2_000, 2_000), "truncated"),
        (claiming("jpeg", 0, 0), "damaged"),
        (cv2.imencode(".tiff", np.zeros((9, 9, 3), np.float32))[1].tobytes(), "floating point"),
        (cv2.imencode(".tiff", np.zeros((9, 9, 3), np.float64))[1].tobytes(), "floating point"),
        (cv2.imencode(".tiff", np.zeros((9, 9), np.float32))[1].tobytes(), "floating point.* save it as 8 or 16 bit"),
        (encoded(PIL.Image.new("I", (9, 9)), "TIFF"), "32-bit.* save it as 8 or 16 bit"),
        (encoded(RGB, "TIFF", compression="lzma"), "re-encode it"),
        (JPEG_12_BIT, "12 bits"),
        (FILES["avif"][: len(FILES["avif"]) // 2], "AVIF.* damaged"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic\0\0\1\0meta" + bytes(500), "HEIC.* convert it to JPEG"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomiso2" + bytes(100), "video"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "SVG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<!DOCTYPE html><html><body>not found</body></html>", "error page"),
        (b"\xef\xbb\xbf<Error><Code>AccessDenied</Code></Error>", "error page"),
        ("\ufeffa text".encode(), "text"),
        ("a text".encode("utf-16"), "text"),
        (b'{"message": "rate limit exceeded"}', "text"),
        (zipped(), "zip"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "PostScript"),
        (b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(100), "Photoshop"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        (bytes(5000), "zeros"),
        (b"\x93NUMPY\1\0", "it starts with"),
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


TINY = RGB.resize((13, 9))
SMALL_FILES = {
    "jpeg": turned(6, image=TINY),
    "jpeg progressive": encoded(TINY, "JPEG", progressive=True),
    "jpeg restart": encoded(TINY, "JPEG", restart_marker_blocks=1),
    "jpeg ycck": ycck(TINY),
    "png": turned(6, "PNG", TINY),
    "png interlaced": png(TINY, interlaced=True),
    "png palette": encoded(TINY.convert("P"), "PNG", transparency=3),
    "png animated": animated("PNG", TINY),
    "webp": turned(6, "WEBP", TINY),
    "webp animated": animated("WEBP", TINY, lossless=True),
    "bmp": encoded(TINY, "BMP"),
    "gif": animated("GIF", TINY),
    "tiff": turned(6, "TIFF", TINY),
    "tiff lzw": encoded(TINY, "TIFF", compression="tiff_lzw"),
    "tiff jpeg": encoded(TINY, "TIFF", compression="jpeg"),
    "tiff tiles": tiled_tiff(TINY, deflate=True, tile=16),
    "jpeg 2000": encoded(TINY, "JPEG2000"),
    "avif": encoded(TINY, "AVIF"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", SMALL_FILES)
def test_a_file_cut_anywhere_is_whole_or_a_failure(name: str) -> None:
    data = SMALL_FILES[name]
    whole = decode(data)
    for length in range(len(data)):
        decodes_whole_or_not_at_all(data[:length], whole)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(deadline=None)  # a header may ask for large tiles
@given(st.sampled_from(sorted(SMALL_FILES)), st.data())
def test_a_file_with_other_bytes_has_the_size_it_claims_or_is_a_failure(name: str, draw: st.DataObject) -> None:
    data = bytearray(SMALL_FILES[name])
    where = st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255))
    for position, value in draw.draw(st.lists(where, min_size=1, max_size=4)):
        data[position] = value
    try:
        width, height = read_size(bytes(data))
        assume(width * height < 1_000_000)  # claims of 100 million pixels would only take their time
        image = decode(bytes(data))
    except ImageError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert image.shape in ((height, width, 3), (width, height, 3))


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", *(each[:30] for each in SMALL_FILES.values())]))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_bytes_are_a_failure(data: bytes, start: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        decode(start + data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "expected"), [((90, 120), (96, 128)), ((720, 1280), (72, 128)), ((5000, 3), (128, 1)), ((1, 1), (1, 1))]
)
def test_thumbnails_have_a_long_side_of_128(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = picture(3, *size)
    small = np.asarray(images.read_thumbnail(make_thumbnail(image)))
    if max(size) < 128:
        expected = size
    assert small.shape == (*expected, 3)


def test_a_thumbnail_keeps_its_colours() -> None:
    blue = np.zeros((200, 300, 3), np.uint8)
    blue[:, :, 0] = 255
    assert images.read_thumbnail(make_thumbnail(blue)).getpixel((5, 5)) == (0, 0, 254)
