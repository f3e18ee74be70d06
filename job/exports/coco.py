"""COCO's format.

    exports/coco.json       the picks, best first
    predictions/coco.json   all usable images

Annotations have a ``score``; an image without any is one on which nothing was detected. ``coco_url`` says where the
image is, and width and height are missing where they are not known. CORAL_PREDICTIONS takes such a file.
"""

import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

from job.exports.detected import ORIENTATION, DetectedImage, Export

# labelformat's writer has no place for URIs, areas and ids of annotations, and needs every image's size.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # json.dumps makes a new one for each annotation


def files(export: Export) -> Iterator[tuple[str, bytes]]:
    """The file of the picks."""
    entries = (entry(each.number, each.name, each.uri, each.width, each.height) for each in export.images)
    yield "coco.json", document(export.class_names, export.model, entries, export.images)


def document(
    class_names: Iterable[str], model: str, entries: Iterable[dict[str, Any]], images: Iterable[DetectedImage]
) -> bytes:
    """A whole file, one image or annotation a line.

    Args:
        class_names: By class index.
        model: Names the detector.
        entries: Of the images, by `entry`.
        images: With their annotations; they are asked for one after the other, and not kept.
    """
    info = {"description": f"Detections as pre-labels. {ORIENTATION}", "contributor": f"coralpick, {model}"}
    categories = ({"id": number, "name": name} for number, name in enumerate(class_names, start=1))
    buffer = io.BytesIO()
    buffer.write(b'{"info":' + _json(info))
    for name, rows in (("categories", categories), ("images", entries), ("annotations", _annotations(images))):
        buffer.write(f',\n"{name}":['.encode())
        for number, row in enumerate(rows):
            buffer.write((b",\n" if number else b"\n") + _json(row))
        buffer.write(b"]")
    buffer.write(b"}\n")
    return buffer.getvalue()


def entry(number: int, name: str, uri: str, width: int, height: int) -> dict[str, Any]:
    """What stands in ``images`` for one of them."""
    size = {"width": width, "height": height} if width > 0 and height > 0 else {}
    return {"id": number, "file_name": name, "coco_url": uri} | size


def _annotations(images: Iterable[DetectedImage]) -> Iterator[dict[str, Any]]:
    number = 0
    for image in images:
        columns = (image.boxes[:, :2], image.sizes, image.scores, image.classes)
        for corner, size, score, kind in zip(*(each.tolist() for each in columns), strict=True):
            number += 1
            yield {
                "id": number,
                "image_id": image.number,
                "category_id": kind + 1,
                "bbox": [*corner, *size],
                "area": round(size[0] * size[1], 3),
                "segmentation": [],  # Datumaro, and so CVAT, skips annotations that have none
                "iscrowd": 0,
                "score": score,
            }


def _json(content: Any) -> bytes:
    return _ENCODER.encode(content).encode()
