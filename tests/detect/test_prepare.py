"""Preparation of images for the detector."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest

from job import parts
from job.detect.budget import Budget
from job.detect.cpu_turns import Turns
from job.detect.model import Detector
from job.detect.prepare import Preparation, to_tensor
from job.storage import Entry
from job.storage.local import LocalFolder
from tests.conftest import picture
from tests.detect.conftest import prepared


def test_an_unusable_file_is_a_row(demo_detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"nothing of the sort")
    source = LocalFolder(str(tmp_path))
    entries = [*source.list(), Entry("gone.jpg", "e", 1), Entry("broken.jpg", "other", 19)]
    row, gone, changed = prepared(entries, source, demo_detector)
    assert isinstance(row, parts.Row) and row.status == "failed" and "not an image" in str(row.error)
    assert isinstance(changed, parts.Row) and changed.status == "unread" and "changed" in str(changed.error)
    assert isinstance(gone, parts.Row) and "deleted" in str(gone.error)


def detector(precision: str, channels: str = "BGR", min_size: int = 80) -> Any:
    return SimpleNamespace(precision=precision, channels=channels, min_size=min_size, max_size=133)


def by_pillow(image: Any, size: tuple[int, int]) -> Any:
    """The resizing of DefaultPredictor, as detectron2 documents it: Pillow, bilinear, width before height."""
    return np.asarray(PIL.Image.fromarray(image).resize(size[::-1], PIL.Image.Resampling.BILINEAR)).transpose(2, 0, 1)


SHAPES = {(180, 240): (80, 107), (45, 60): (80, 107), (72, 128): (75, 133), (720, 1280): (75, 133), (1, 300): (1, 133)}


@pytest.mark.parametrize("channels", ["BGR", "RGB"])
@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_in_fp32_are_those_of_pillow(shape: tuple[int, int], channels: str) -> None:
    image = picture(3, *shape)
    tensor = to_tensor(image, detector("fp32", channels))
    ordered = image if channels == "BGR" else np.ascontiguousarray(image[:, :, ::-1])
    np.testing.assert_array_equal(tensor, by_pillow(ordered, SHAPES[shape]))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("channels", ["BGR", "RGB"])
@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_in_half_precision_are_at_most_one_level_off(
    shape: tuple[int, int], channels: str, precision: str
) -> None:
    image = picture(3, *shape)
    tensor = to_tensor(image, detector(precision, channels))
    ordered = image if channels == "BGR" else np.ascontiguousarray(image[:, :, ::-1])
    moved = np.abs(tensor.numpy().astype(int) - by_pillow(ordered, SHAPES[shape]))
    assert moved.max() <= 1 and moved.mean() < 0.01


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("channels", ["BGR", "RGB"])
@pytest.mark.parametrize("min_size", [0, 80, 72])
def test_the_memory_stays_in_rows_of_pixels(min_size: int, channels: str, precision: str) -> None:
    """Nothing is transposed, which costs as much as the resizing; and an image of the right size is not resized."""
    image = picture(3, 72, 128)
    tensor = to_tensor(image, detector(precision, channels, min_size))
    assert tensor.permute(1, 2, 0).is_contiguous()
    if min_size != 80:
        ordered = image if channels == "BGR" else image[:, :, ::-1]
        np.testing.assert_array_equal(tensor.permute(1, 2, 0), ordered)


@pytest.mark.parametrize(("kind", "bytes_per_pixel"), [("jpg", 11), ("png", 22)])
def test_ordinary_jpegs_are_expected_to_need_half_the_memory(
    kind: str, bytes_per_pixel: int, demo_detector: Detector, tmp_path: Path
) -> None:
    file = tmp_path / f"a.{kind}"
    PIL.Image.fromarray(picture(3, 300, 400)).save(file)
    source, budget = LocalFolder(str(tmp_path)), Budget(1 << 30)
    with ThreadPoolExecutor(1) as executor:
        list(Preparation(source, demo_detector, budget, Turns(True)).prepare(source.list(), executor, ahead=1))
    assert budget.peak == file.stat().st_size + bytes_per_pixel * 300 * 400
