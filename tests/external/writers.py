"""The same detections in every format that CORAL_PREDICTIONS takes, written as the tools of that format write it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from posixpath import basename, splitext
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from job import parts
from job.parts import Provenance, Row, listings
from job.shards import Shard
from job.storage import Entry, Listing
from job.storage.local import LocalFolder


@dataclass(frozen=True)
class Detected:
    """An image with its detections.

    Attributes:
        file_name: File name.
        width: Width in pixels.
        height: Height in pixels.
        boxes: (n, 4) left, top, right, bottom.
        scores: (n,) confidences.
        classes: (n,) class indices.
        probabilities: (n, classes + 1) class probabilities, the background last; None to leave them out.
    """

    file_name: str
    width: int
    height: int
    boxes: Any
    scores: Any
    classes: Any
    probabilities: Any = None

    def rename(self, file_name: str) -> "Detected":
        return replace(self, file_name=file_name)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The fields that COCO's format and those derived from it give to each box."""
        sizes = np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1).round(3)
        rows = [
            {"category_id": number, "bbox": box, "score": score}
            for number, box, score in zip(self.classes.tolist(), sizes.tolist(), self.scores.tolist(), strict=True)
        ]
        if self.probabilities is not None:
            for row, probabilities in zip(rows, self.probabilities.tolist(), strict=True):
                row["probabilities"] = probabilities
        return rows


Written = tuple[str, tuple[str, ...] | None]
Writer = Callable[[Path, Sequence[Detected], tuple[str, ...]], Written]


def write_json(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def _data_set(images: Sequence[Detected], classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "images": [
            {"id": number, "file_name": image.file_name, "width": image.width, "height": image.height}
            for number, image in enumerate(images)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes)],
    }


def coco(folder: Path, images: Sequence[Detected], classes: tuple[str, ...]) -> Written:
    annotations = [{"image_id": number} | row for number, image in enumerate(images) for row in image.rows]
    return write_json(folder / "coco.json", _data_set(images, classes) | {"annotations": annotations}), None


def results(folder: Path, images: Sequence[Detected], classes: tuple[str, ...]) -> Written:
    """A list of results with its data set."""
    rows = [{"image_id": number} | row for number, image in enumerate(images) for row in image.rows]
    one = write_json(folder / "results.json", rows)
    return f"{one},{write_json(folder / 'instances.json', _data_set(images, classes))}", None


def named_results(folder: Path, images: Sequence[Detected], classes: tuple[str, ...]) -> Written:
    """A list of results whose ids are file names."""
    rows = [{"image_id": image.file_name} | row for image in images for row in image.rows]
    return write_json(folder / "results.json", rows), classes


def ultralytics(folder: Path, images: Sequence[Detected], classes: tuple[str, ...]) -> Written:
    """predictions.json; Ultralytics writes no class probabilities."""

    def number(image: Detected) -> int | str:
        stem = splitext(basename(image.file_name))[0]
        return int(stem) if stem.isnumeric() else stem

    rows = [
        {
            "image_id": number(image),
            "file_name": image.file_name,
            "category_id": row["category_id"] + 1,
            "bbox": row["bbox"],
            "score": round(row["score"], 5),
        }
        for image in images
        for row in image.rows
    ]
    return write_json(folder / "predictions.json", rows), classes


def yolo(folder: Path, images: Sequence[Detected], classes: tuple[str, ...]) -> Written:
    """labels/*.txt; Ultralytics writes six digits, and no file for an image without boxes."""
    for image in images:
        size = np.array([image.width, image.height])
        lines = []
        for box, score, number in zip(image.boxes, image.scores, image.classes, strict=True):
            center, sides = (box[:2] + box[2:]) / 2 / size, (box[2:] - box[:2]) / size
            lines.append(" ".join(f"{value:.6g}" for value in (number, *center, *sides, score)) + "\n")
        path = folder / "labels" / f"{splitext(image.file_name)[0]}.txt"
        if lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines))
    return str(folder), classes


def lightly(folder: Path, images: Sequence[Detected], classes: tuple[str, ...]) -> Written:
    """A folder in Lightly's format, with the background as one more probability, as the job accepts it."""
    schema = {
        "task_type": "object-detection",
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes)],
    }
    write_json(folder / "task/schema.json", schema)
    for number, image in enumerate(images):
        write_json(folder / f"task/{number}.json", {"file_name": image.file_name, "predictions": image.rows})
    return str(folder / "task"), None


def parquet(folder: Path, images: Sequence[Detected], classes: tuple[str, ...]) -> Written:
    columns = {
        "file_name": [image.file_name for image in images],
        "width": [image.width for image in images],
        "height": [image.height for image in images],
        "boxes": pa.array([image.boxes.tolist() for image in images], pa.list_(pa.list_(pa.float32()))),
        "scores": pa.array([image.scores.tolist() for image in images], pa.list_(pa.float32())),
        "classes": pa.array([image.classes.tolist() for image in images], pa.list_(pa.int32())),
    }
    if all(image.probabilities is not None for image in images):
        columns["class_probabilities"] = [image.probabilities.tolist() for image in images]
    table = pa.table(columns).replace_schema_metadata({"class_names": json.dumps(classes)})
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "predictions.parquet")
    return str(folder / "predictions.parquet"), None


def output(folder: Path, images: Sequence[Detected], classes: tuple[str, ...]) -> Written:
    """The parts and the listing of an earlier run."""
    probabilities = "synthetic" if any(image.probabilities is None for image in images) else "softmax"
    rows = []
    for image in images:
        distribution = image.probabilities
        if distribution is None:
            distribution = np.zeros((len(image.scores), len(classes) + 1))
            distribution[np.arange(len(image.scores)), image.classes] = image.scores
            distribution[:, -1] = 1 - image.scores
        rows.append(
            Row(
                file_name=image.file_name,
                etag="1",
                byte_size=1,
                status="ok",
                width=image.width,
                height=image.height,
                boxes=image.boxes.astype(np.float32),
                scores=image.scores.astype(np.float32),
                classes=image.classes.astype(np.int32),
                class_probabilities=distribution.astype(np.float16),
                thumbnail=b"",
            )
        )
    store = LocalFolder(str(folder / "out"))
    parts.write(store, rows, Provenance("c", "w", "p", probabilities, classes))
    listed = (Entry(row.file_name, row.etag, row.byte_size) for row in rows)
    listings.finish(store, Shard(0, 1), Listing.from_entries(listed))
    return str(folder / "out"), None


WITH_PROBABILITIES: dict[str, Writer] = {
    "coco": coco,
    "results": results,
    "named results": named_results,
    "lightly": lightly,
    "parquet": parquet,
    "output": output,
}
WRITERS: dict[str, Writer] = WITH_PROBABILITIES | {"ultralytics": ultralytics, "yolo": yolo}
