"""The byte limit of images in preparation."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from job import images, parts
from job.budget import Budget
from job.detect import model
from job.detect.cpu_turns import Turns
from job.detect.prepare import Preparation
from job.prefetch import Workers
from job.storage.local import LocalFolder
from tests.conftest import settings as detector_settings


def test_large_images_wait_for_each_other(
    small_rcnn: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, encoded = cv2.imencode(".png", np.full((4_000, 4_000), 127, np.uint8))
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(encoded.tobytes())
    detector = model.build(detector_settings(model=str(small_rcnn[0]), weights=str(small_rcnn[1])))
    decoding, at_once = [0], []
    real = images.decode

    def counted(data: bytes) -> Any:
        decoding[0] += 1
        at_once.append(decoding[0])
        try:
            return real(data)
        finally:
            decoding[0] -= 1

    monkeypatch.setattr(images, "decode", counted)
    each = 22 * 4_000 * 4_000 + encoded.nbytes
    limit = 2 * each  # one more may be held: the next to be consumed never waits
    preparation = Preparation(LocalFolder(str(tmp_path)), detector, Budget(limit), Turns(on_cpu=True))
    entries = sorted(preparation.source.list(), key=lambda each: each.key)
    with Workers(4) as executor:
        found = list(preparation.prepare(entries, executor, ahead=16))
    assert [image.width for image in found] == [4_000] * 6
    assert 2 * each <= preparation.budget.peak <= limit + each and max(at_once) <= 3


def test_a_file_too_large_to_be_an_image_is_not_read(small_rcnn: tuple[Path, Path], tmp_path: Path) -> None:
    with (tmp_path / "a.tif").open("wb") as file:
        file.truncate(600_000_000)
    detector = model.build(detector_settings(model=str(small_rcnn[0]), weights=str(small_rcnn[1])))
    preparation = Preparation(LocalFolder(str(tmp_path)), detector, Budget(1 << 30), Turns(on_cpu=True))
    with Workers(1) as executor:
        (row,) = preparation.prepare(preparation.source.list(), executor, ahead=1)
    assert isinstance(row, parts.Row) and "600,000,000 bytes is above the limit" in str(row.error)
    assert preparation.budget.peak == 0
