"""Fast decoding of JPEG, against Pillow's pixels and its verdict on damaged files."""

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from job import images
from job.images import decoding, jpeg
from tests.conftest import picture

PICTURE = PIL.Image.fromarray(picture(1, 45, 60))
# A 16 x 16 gradient in arithmetic coding, written by cjpeg.
ARITHMETIC = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffdb004300100b0c0e0c0a100e0d0e1211101318281a181616183123251d283a333d3c39"
    "33383740485c4e404457453738506d51575f626768673e4d71797064785c656763ffc9000b080010001001011100ffcc000600101005ffda"
    "0008010100003f00ff00609ac64c43f46aae5c8e56f98e3d0ae15b98d2315b1d4d0d24c23b43f4a4dea8de897bcdc55923ffd9"
)


def encoded(image: PIL.Image.Image = PICTURE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.copy().save(buffer, "JPEG", **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> Any:
    return np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))[:, :, ::-1]


@pytest.fixture(autouse=True)
def _silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No library prints what it thinks of a file, not even from C."""
    yield
    assert capfd.readouterr() == ("", "")


OPTIONS: list[dict[str, Any]] = [
    {},
    *({"subsampling": subsampling} for subsampling in ("4:4:4", "4:2:2", "4:2:0")),
    *({"quality": quality} for quality in (1, 50, 100)),
    {"progressive": True},
    {"progressive": True, "subsampling": "4:4:4"},
    {"optimize": True},
    {"restart_marker_blocks": 1},
    {"keep_rgb": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", [(60, 45), (64, 48), (1, 1), (17, 15), (3, 500), (500, 3)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_those_of_pillow(mode: str, size: tuple[int, int], options: dict[str, Any]) -> None:
    data = encoded(PICTURE.resize(size).convert(mode), **options)
    pixels = jpeg.decode(data, size)
    assert pixels is not None and pixels.flags.writeable and pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, by_pillow(data))


def test_an_ordinary_file_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_decode_by_pillow", lambda _: pytest.fail("it was decoded by Pillow"))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    for options in ({}, {"progressive": True}, {"exif": exif}):
        images.decode(encoded(**options))


def test_arithmetic_coding_is_left_to_pillow() -> None:
    """libjpeg warns of nothing where it ends early, so only the second look of `job.images` finds that."""
    assert jpeg.decode(ARITHMETIC, (16, 16)) is None
    np.testing.assert_array_equal(images.decode(ARITHMETIC), by_pillow(ARITHMETIC))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff",
        b"\xff\xd8" + b"\xff" * 20,
        b"\xff\xd8\xff\xe0\0\0\xff\xe0\0\0\0\0\0\0\0\0",
        bytes(100),
        encoded().replace(b"\xff\xda", b"\xff\xd9"),
        encoded()[:400],
        encoded()[: len(encoded()) // 2],
        encoded()[: len(encoded()) // 2] + b"\xff\xd9",
        encoded()[:2] + b"junk" + encoded()[2:],
    ],
)
def test_anything_unusual_is_left_to_pillow(data: bytes) -> None:
    assert jpeg.decode(data, PICTURE.size) is None


@pytest.mark.parametrize("size", [(59, 45), (60, 44), (61, 45), (60, 46), (45, 60)])
def test_another_size_than_pillow_reads_is_left_to_pillow(size: tuple[int, int]) -> None:
    assert jpeg.decode(encoded(), size) is None


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (encoded(), (30, 20)),
        (encoded()[: len(encoded()) // 2], PICTURE.size),
        (encoded(progressive=True)[:-50], PICTURE.size),
        (encoded()[:200] + b"\xff\xda" + bytes(12), PICTURE.size),
    ],
)
def test_a_refused_file_leaves_no_memory_behind(data: bytes, size: tuple[int, int]) -> None:
    for _ in range(100):
        jpeg.decode(data, size)
    before = resident_bytes()
    for _ in range(3000):
        assert jpeg.decode(data, size) is None
    assert resident_bytes() - before < 2 << 20


def decode_or_reason(data: bytes) -> Any:
    try:
        return images.decode(data).tolist()
    except images.ImageError as error:
        return str(error)


DAMAGED = {
    "baseline": encoded(PICTURE.resize((13, 9))),
    "grey": encoded(PICTURE.resize((13, 9)).convert("L")),
    "grey band": encoded(PIL.Image.new("RGB", (13, 40), (128, 128, 128))),
    "progressive": encoded(PICTURE.resize((13, 9)), progressive=True),
    "restart": encoded(PICTURE.resize((33, 9)), restart_marker_blocks=1),
    "arithmetic": ARITHMETIC,
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("ending", [b"", b"\xff\xd9"])
@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_cut_anywhere_is_judged_as_by_pillow_alone(
    name: str, ending: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = [DAMAGED[name][:length] + ending for length in range(len(DAMAGED[name]) + 1)]
    found = [decode_or_reason(cut) for cut in cuts]
    monkeypatch.setattr(jpeg, "decode", lambda *_: None)
    assert found == [decode_or_reason(cut) for cut in cuts]


@pytest.fixture
def _import_again() -> Iterator[None]:
    jpeg._import_simplejpeg.cache_clear()
    yield
    jpeg._import_simplejpeg.cache_clear()


@pytest.mark.usefixtures("_import_again")
def test_without_simplejpeg_pillow_decodes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    for _ in range(2):
        np.testing.assert_array_equal(images.decode(encoded()), by_pillow(encoded()))
    (message,) = caplog.messages
    assert "with Pillow" in message and "simplejpeg cannot be imported" in message


def test_files_of_one_scan_need_less_memory() -> None:
    assert jpeg.has_one_scan(encoded()) and jpeg.has_one_scan(encoded(PICTURE.convert("CMYK")))
    assert not jpeg.has_one_scan(encoded(progressive=True))
    assert not jpeg.has_one_scan(encoded()[:100])
    assert not jpeg.has_one_scan(b"\x89PNG")
    data = bytearray(encoded())
    data[data.index(b"\xff\xda") + 4] = 1  # only the first of three components, as in the first of several scans
    assert not jpeg.has_one_scan(bytes(data))
