"""16-bit images of a narrow range: each format, and one warning for a pool."""

import io
import logging
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from job.detect.value_range import RangeCount, has_narrow_range
from job.images import decode
from tests.conftest import Job, demo_variables, picture

GREY = cv2.cvtColor(picture(1, 90, 120), cv2.COLOR_BGR2GRAY).astype(np.uint16)
GREY = ((GREY - GREY.min()) * 255 // (GREY.max() - GREY.min())).astype(np.uint16)  # from 0 to 255


def encoded(pixels: np.ndarray, kind: str, **options: str) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def by_opencv(pixels: np.ndarray, extension: str) -> bytes:
    return cv2.imencode(extension, pixels)[1].tobytes()


FULL, FLIR_14, CAMERA_12 = GREY * 257, GREY * 64, GREY * 16
SEALS = (51241 + GREY / 255 * 940).astype(np.uint16)
CONTENTS = [(FULL, False), (FLIR_14, False), (CAMERA_12, True), (SEALS, True), (np.full_like(FULL, 9), True)]


@pytest.mark.parametrize(("pixels", "expected"), CONTENTS)
def test_each_format(pixels: np.ndarray, expected: bool) -> None:
    files = [encoded(pixels, "PNG"), encoded(pixels, "TIFF"), encoded(pixels, "TIFF", compression="tiff_lzw")]
    files += [encoded(pixels, "JPEG2000"), by_opencv(np.dstack([pixels] * 3), ".png"), by_opencv(pixels, ".tiff")]
    for data in files:
        assert has_narrow_range(data, decode(data)) is expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000", "AVIF"])
def test_images_of_8_bits_have_no_such_range(kind: str) -> None:
    data = encoded(np.zeros((4, 4, 3), np.uint8), kind)
    assert has_narrow_range(data, decode(data)) is None


@pytest.mark.parametrize(
    ("ranges", "warns"),
    [([], False), ([None] * 9, False), ([True, False], False), ([True, True, False, None], True), ([True], True)],
)
def test_one_warning_if_most_are_narrow(
    ranges: list[bool | None], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    count = RangeCount()
    for is_narrow in ranges:
        count.add(is_narrow)
    with caplog.at_level(logging.WARNING):
        count.warn()
    assert len(caplog.messages) == warns
    if warns:
        assert caplog.messages[0].startswith(
            f"{ranges.count(True)} of {len(ranges) - ranges.count(None)} 16-bit images"
        )


def test_a_run_warns(frames: list[Path], job: Job, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.png").write_bytes(encoded(SEALS + np.uint16(number), "PNG"))
    ran = job("predict", **demo_variables(tmp_path / "in", tmp_path / "out"))
    assert ran.returncode == 0
    assert ran.stderr.count("3 of 3 16-bit images use less than 1/16 of the range of their values") == 1
