"""Helpers for the tests of external predictions: the same three images in every format."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from job import external
from job.errors import SettingsError
from job.external import Predictions
from job.parts import Row

Json = dict[str, Any]
Change = Callable[[Json], object]

CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 44, "name": "bottle"}]
NAMES = ("person", "bottle", "toothbrush")  # by rising id
BY_NAME = [["person", "toothbrush"], [], ["bottle"]]


def read(uri: Path | str, classes: tuple[str, ...] | None = None, **options: Any) -> Predictions:
    return external.read(str(uri), classes, **{"stop": threading.Event(), **options})


def coco() -> Json:
    """Three images: one with two boxes, one with one, one with none."""
    return {
        "images": [
            {"id": 7, "file_name": "z.jpg", "width": 640, "height": 480},
            {"id": 8, "file_name": "empty.jpg"},
            {"id": "x", "file_name": "sub/ä.jpg", "width": 32, "height": 16.0},
        ],
        "categories": CATEGORIES,
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40.5], "score": 0.25, "id": 1},
            {"image_id": "x", "category_id": 44, "bbox": [-1, 0, 0, 5], "score": 1.0},
            {"image_id": 7, "category_id": 90, "bbox": [0, 0, 1, 1], "score": 0.75, "iscrowd": 0},
        ],
    }


def parquet() -> Json:
    """The images of `coco`."""
    return {
        "file_name": ["z.jpg", "empty.jpg", "sub/ä.jpg"],
        "width": pa.array([640, None, 32]),
        "height": pa.array([480, None, 16]),
        "boxes": [[[10, 20, 40, 60.5], [0.0, 0, 1, 1]], [], [[-1, 0, -1, 5]]],
        "scores": [[0.25, 0.75], [], [1]],
        "classes": [[0, 2], [], [1]],
    }


def in_file(folder: Path, content: Any, name: str = "predictions.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def in_parquet(folder: Path, columns: dict[str, Any], names: list[str] | None = None) -> Path:
    table = pa.table(columns)
    if names is not None:
        table = table.replace_schema_metadata({"class_names": json.dumps(names)})
    path = folder / "predictions.parquet"
    pq.write_table(table, path)
    return path


def in_folder(folder: Path, files: dict[str, Any]) -> Path:
    """A task of Lightly's format."""
    schema = {"task_type": "object-detection", "categories": CATEGORIES}
    for name, content in {"schema.json": schema, **files}.items():
        path = folder / "task" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder / "task"


def of_image(*predictions: Any, name: Any = "a") -> dict[str, Any]:
    return {"file_name": name, "predictions": list(predictions)}


def problems(uri: Path | str, classes: tuple[str, ...] | None = None) -> str:
    """The one problem that there is."""
    with pytest.raises(SettingsError) as caught:
        read(uri, classes)
    assert caught.value.exit_code == 64
    (problem,) = caught.value.problems
    assert problem.startswith("CORAL_PREDICTIONS") and problem.endswith((".", ".json")) and "\n" not in problem
    return problem


def arrays(row: Row) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    assert row.boxes is not None and row.scores is not None
    assert row.classes is not None and row.class_probabilities is not None
    return row.boxes, row.scores, row.classes, row.class_probabilities


def assert_same(one: list[Row], other: list[Row]) -> None:
    assert [(each.file_name, each.width, each.height) for each in one] == [
        (each.file_name, each.width, each.height) for each in other
    ]
    for left, right in zip(one, other, strict=True):
        for a, b in zip(arrays(left), arrays(right), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


def own_coco(count: int = 12) -> Json:
    """Predictions for the images 0.jpg, 1.jpg and so on."""
    rng = np.random.default_rng(0)
    annotations = [
        {"image_id": image, "category_id": int(rng.integers(1, 3)), "bbox": [1, 2, 30, 40], "score": round(score, 3)}
        for image in range(count)
        for score in rng.random(image % 4).tolist()
    ]
    return {
        "images": [{"id": each, "file_name": f"{each}.jpg", "width": 64, "height": 48} for each in range(count)],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "dog"}],
        "annotations": annotations,
    }


def write_own_data(folder: Path) -> dict[str, Any]:
    """Predictions and embeddings of twelve images, and the variables that name them."""
    (folder / "predictions.json").write_text(json.dumps(own_coco()))
    vectors = np.random.default_rng(1).normal(size=(12, 3)).astype(np.float32)
    keys = [f"{each}.jpg" for each in reversed(range(12))]
    table = pa.table({"file_name": keys, "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 3)})
    pq.write_table(table, folder / "embeddings.parquet")
    (folder / "images.txt").write_text("".join(f"{each}\n" for each in keys))  # files that do not exist
    return {
        "CORAL_INPUT": folder / "images.txt",
        "CORAL_OUTPUT": folder / "out",
        "CORAL_PREDICTIONS": folder / "predictions.json",
        "CORAL_EMBEDDING": folder / "embeddings.parquet",
        "CORAL_N_SAMPLES": 4,
    }


def read_picks(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(each) for each in (folder / "out" / "selected.jsonl").read_text().splitlines()]
