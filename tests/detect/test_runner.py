"""The map step: which errors end it, and which images are saved."""

import itertools
import threading
from pathlib import Path
from typing import Any

import cv2
import pyarrow.parquet as pq
import pytest
import torch

from job.detect import model, runner
from job.detect.model import Detector
from job.errors import ServiceUnavailable
from job.storage import Listing
from job.storage.base import Content
from job.storage.local import LocalFolder
from tests.conftest import picture, settings


@pytest.mark.parametrize(
    "error", [torch.AcceleratorError("unspecified launch failure"), RuntimeError("CUDNN_STATUS_X")]
)
def test_a_gpu_error_ends_the_run_and_finished_images_are_saved(
    small_rcnn: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    detector = model.build(settings(model=str(small_rcnn[0]), weights=str(small_rcnn[1])))
    forward, calls = detector.model.forward, itertools.count()

    def fail_later(batch: list[Any]) -> Any:
        if next(calls) == 4:
            raise error
        return forward(batch)

    monkeypatch.setattr(detector.model, "forward", fail_later)
    with pytest.raises(ServiceUnavailable, match="GPU error"):
        predict_all(
            detector, [picture(seed, 64, 64) for seed in range(7)], tmp_path, LocalFolder(str(tmp_path / "out"))
        )
    assert keys_in(tmp_path / "out") == ["00.png", "01.png", "02.png", "03.png"]


def predict_all(detector: Detector, images: list[Any], folder: Path, output: LocalFolder) -> None:
    """Runs the map step, in parts of two images."""
    (folder / "in").mkdir(exist_ok=True)
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / "in" / f"{number:02d}.png"), image)
    source = LocalFolder(str(folder / "in"))
    never = threading.Event()
    runner.predict(
        Listing.from_entries(source.list()), source, output, detector, set(), batch_size=1, part_size=2, stop=never
    )


def keys_in(folder: Path) -> list[str]:
    """Returns the images in all parts."""
    return sorted(key for part in folder.glob("parts/part-*") for key in pq.read_table(part)["key"].to_pylist())


class Failing(LocalFolder):
    """A folder whose first write fails."""

    writes = 0

    def write(self, key: str, data: Content) -> None:
        type(self).writes += 1
        if self.writes == 1:
            raise ServiceUnavailable("the store is gone for a moment")
        super().write(key, data)


def test_a_part_that_cannot_be_written_does_not_lose_another(
    small_rcnn: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Failing, "writes", 0)
    detector = model.build(settings(model=str(small_rcnn[0]), weights=str(small_rcnn[1])))
    with pytest.raises(ServiceUnavailable, match="gone for a moment"):
        predict_all(detector, [picture(seed, 64, 64) for seed in range(8)], tmp_path, Failing(str(tmp_path / "out")))
    assert keys_in(tmp_path / "out") == ["02.png", "03.png"]  # made at the same time, and saved


def test_a_library_that_fails_on_an_image_does_not_end_the_job(
    small_rcnn: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = model.build(settings(model=str(small_rcnn[0]), weights=str(small_rcnn[1])))

    def surprise(data: bytes) -> Any:
        raise cv2.error("out of ideas")

    monkeypatch.setattr("job.images.decode", surprise)
    predict_all(detector, [picture(0, 64, 64)], tmp_path, LocalFolder(str(tmp_path / "out")))
    (part,) = (tmp_path / "out").glob("parts/part-*")
    (row,) = pq.read_table(part).to_pylist()
    assert (row["status"], row["error"]) == ("failed", "a library failed to process it (error: out of ideas)")
