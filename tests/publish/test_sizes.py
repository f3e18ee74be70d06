"""Sizes of picks from the headers of their files: exports are not empty because predictions have no sizes."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from job.parts.pool import Pool
from job.publish.sizes import fill_sizes
from job.storage.local import LocalFolder
from tests.conftest import Job
from tests.external import own_coco, write_own_data


def save(path: Path, size: tuple[int, int], orientation: int = 1) -> None:
    path.parent.mkdir(exist_ok=True)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.new("RGB", size, (90, 60, 30)).save(path, exif=exif)


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """Predictions without sizes; the images are 64x48 pixels, and their files are stored turned."""
    variables = write_own_data(tmp_path) | {"CORAL_INPUT": tmp_path / "in", "CORAL_EXPORT_MIN_SCORE": 0}
    content = own_coco()
    for image in content["images"]:
        del image["width"], image["height"]
        save(tmp_path / "in" / image["file_name"], (48, 64), orientation=6)
    (tmp_path / "predictions.json").write_text(json.dumps(content))
    return variables


def test_predictions_without_sizes_give_full_exports(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    finished = job("select", **given)
    assert finished.returncode == 0, finished.stderr
    assert "unknown width" not in finished.stderr
    folder = tmp_path / "out" / "exports"
    picks = json.loads((folder / "coco.json").read_text())
    assert {(image["width"], image["height"]) for image in picks["images"]} == {(64, 48)}
    boxes = len(picks["annotations"])
    assert boxes > 0
    assert (folder / "cvat.xml").read_text().count("<box ") == boxes
    assert sum(path.read_text().count("<object>") for path in (folder / "voc").glob("*.xml")) == boxes
    lines = [line for path in (folder / "yolo/labels").glob("*.txt") for line in path.read_text().splitlines()]
    assert len(lines) == boxes
    # Left 1, top 2, width 30 and height 40 of 64x48 pixels.
    assert {tuple(line.split()[1:]) for line in lines} == {("0.25000000", "0.45833333", "0.46875000", "0.83333333")}
    tasks = json.loads((folder / "label_studio.json").read_text())
    assert sum(len(task["predictions"][0]["result"]) for task in tasks) == boxes


def test_without_the_files_exports_are_as_before(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    for path in (tmp_path / "in").iterdir():
        path.write_bytes(b"no image")
    finished = job("select", **given)
    assert finished.returncode == 0, finished.stderr
    assert "The size of some picks is unknown, because their files cannot be read" in finished.stderr
    assert "4 of 4 picks have unknown width and height and are left out of yolo, voc, cvat, fiftyone" in finished.stderr


def test_only_the_picks_of_unknown_size_are_read(
    small: tuple[LocalFolder, Pool], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Counting(LocalFolder):
        keys: list[str] = []  # noqa: RUF012

        def read(self, key: str, etag: str | None = None) -> bytes:
            self.keys.append(key)
            return super().read(key)

    pool = small[1]
    size = np.array([[7, 5]] + [[0, 0]] * (len(pool.file_names) - 1), np.int32)
    pool = replace(pool, size=size)
    rows = [0, 1, 3, 4]
    for row in (1, 4):
        path = tmp_path / "in" / pool.file_names[row]
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (30, 20)).save(path, "PNG")
    source = Counting(str(tmp_path / "in"))
    with caplog.at_level(logging.WARNING):
        filled = fill_sizes(pool, rows, source)
    assert filled.size[rows].tolist() == [[7, 5], [30, 20], [0, 0], [30, 20]]
    assert sorted(source.keys) == sorted(pool.file_names[row] for row in (1, 3, 4))
    assert len(caplog.messages) == 1 and repr(pool.file_names[3]) in caplog.messages[0]
    assert fill_sizes(pool, rows, None) is pool
