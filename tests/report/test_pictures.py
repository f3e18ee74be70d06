"""Previews of the picks: all of them, whatever the files are, in little memory."""

import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from job import images
from job.parts.pool import Pool
from job.report import pictures
from job.storage.local import LocalFolder
from tests.exports.test_writing import filled

SIDE, COUNT = 500, 12
EACH = 11 * SIDE * SIDE


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """Images of one size, as JPEG files."""
    names = [f"{number:02}.jpg" for number in range(COUNT)]
    (tmp_path / "in").mkdir()
    for number, name in enumerate(names):
        cv2.imwrite(str(tmp_path / "in" / name), np.full((SIDE, SIDE, 3), 20 * number, np.uint8))
    return filled(tmp_path / "out", names)[1]


def read(pool: Pool, folder: Path) -> dict[int, bytes]:
    source = LocalFolder(str(folder))
    etags = {entry.key: entry.etag for entry in source.list()}
    current = Pool(**vars(pool) | {"etag": [etags.get(name, "") for name in pool.file_names]})
    return pictures.read_previews(current, range(COUNT), source, dict.fromkeys(range(COUNT), b"thumbnail"))


@pytest.mark.parametrize(("fit", "at_once"), [(0, {1}), (3, {2, 3, 4}), (100, {5, 6, 7, 8})])
def test_large_images_wait_for_each_other(
    fit: int, at_once: set[int], pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read(pool, tmp_path / "in")
    assert len(set(expected.values())) == COUNT
    decoding = peak = 0
    lock, real = threading.Lock(), images.decode

    def decode(data: bytes) -> Any:
        nonlocal decoding, peak
        with lock:
            decoding += 1
            peak = max(peak, decoding)
        try:
            time.sleep(0.1)
            return real(data)
        finally:
            with lock:
                decoding -= 1

    monkeypatch.setattr(images, "decode", decode)
    monkeypatch.setattr(pictures, "_MAX_BYTES", int((fit + 0.5) * EACH))
    assert read(pool, tmp_path / "in") == expected
    assert peak in at_once


@pytest.mark.parametrize("error", [images.ImageError("cut"), TypeError("odd"), MemoryError()])
def test_an_image_that_cannot_be_decoded_keeps_its_thumbnail(
    error: Exception, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, real = (tmp_path / "in" / "04.jpg").read_bytes(), images.decode

    def decode(data: bytes) -> Any:
        if data == bad:
            raise error
        return real(data)

    monkeypatch.setattr(images, "decode", decode)
    found = read(pool, tmp_path / "in")
    assert [row for row, data in found.items() if data == b"thumbnail"] == [4]
    assert "the report shows their thumbnails: '04.jpg'" in caplog.text
