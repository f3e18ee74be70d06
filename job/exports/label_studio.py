"""Label Studio: tasks with predictions, and the labelling configuration that they go with.

    exports/label_studio.json
    exports/label_studio.xml

``image`` is where the image is. Label Studio opens s3:// and gs:// where the project has the bucket as its source
storage, and local files only by ``/data/local-files/?d=<path below its document root>``. Boxes are percents of the
image's size; where that is not known there is no prediction. The score of a prediction, by which tasks can be sorted,
is the mean of its boxes' scores.
"""

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

from job.exports.detected import DetectedImage, Export
from job.exports.xml import document, held

_CONTROL, _OBJECT = "label", "image"
_DECIMALS = 6


def files(export: Export) -> Iterator[tuple[str, bytes]]:
    """The tasks and the configuration."""
    tasks = [_task(each, export) for each in export.images]
    yield "label_studio.json", (json.dumps(tasks, ensure_ascii=False, indent=1) + "\n").encode()
    yield "label_studio.xml", document(_configuration(export.class_names))


def _configuration(class_names: tuple[str, ...]) -> ET.Element:
    view = ET.Element("View")
    ET.SubElement(view, "Image", {"name": _OBJECT, "value": "$image"})
    labels = ET.SubElement(view, "RectangleLabels", {"name": _CONTROL, "toName": _OBJECT})
    for name in class_names:
        ET.SubElement(labels, "Label", {"value": held(name)})
    return view


def _task(image: DetectedImage, export: Export) -> dict[str, Any]:
    task: dict[str, Any] = {"data": {"image": image.uri, "file_name": image.name}}
    if not image.has_size:
        return task
    prediction: dict[str, Any] = {"model_version": export.model, "result": _regions(image, export.class_names)}
    if len(image.scores):
        prediction["score"] = round(float(image.scores.mean()), _DECIMALS)
    return task | {"predictions": [prediction]}


def _regions(image: DetectedImage, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    whole = (image.width, image.height)
    corners, sizes = ((100 * each / whole).round(_DECIMALS) for each in (image.boxes[:, :2], image.sizes))
    columns = (corners, sizes, image.scores, image.classes)
    return [
        {
            "id": f"box{number}",
            "type": "rectanglelabels",
            "from_name": _CONTROL,
            "to_name": _OBJECT,
            "original_width": image.width,
            "original_height": image.height,
            "image_rotation": 0,
            "value": {
                **dict(zip(("x", "y", "width", "height"), (*corner, *size), strict=True)),
                "rotation": 0,
                "rectanglelabels": [held(class_names[kind])],
            },
            "score": score,
        }
        for number, (corner, size, score, kind) in enumerate(
            zip(*(each.tolist() for each in columns), strict=True), start=1
        )
    ]
