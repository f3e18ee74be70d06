"""Label Studio: tasks with predictions, and the labelling configuration for them.

    exports/label_studio.json
    exports/label_studio.xml

``image`` is the URI of the image. Label Studio opens s3:// and gs:// if the bucket is a source storage of the project,
and local files only as ``/data/local-files/?d=<path below its document root>``: so a path gets this form, for the
document root ``/``. CORAL_IMAGES_AT gives the address for another document root. Boxes are percentages of the image
size. An image of unknown size has no prediction. The score of a prediction, by which tasks can be sorted, is the mean
score of its boxes.
"""

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

from job.exports.detected import DetectedImage, Export
from job.exports.format import Format
from job.exports.xml import replace_forbidden, serialize

_TASKS, _CONFIGURATION = "label_studio.json", "label_studio.xml"
_CONTROL, _OBJECT = "label", "image"
_DECIMALS = 6


def _render_files(export: Export) -> Iterator[tuple[str, bytes]]:
    tasks = [_task(image, export) for image in export.images]
    yield _TASKS, (json.dumps(tasks, ensure_ascii=False, indent=1) + "\n").encode()
    yield _CONFIGURATION, serialize(_configuration(export.class_names))


def _configuration(class_names: tuple[str, ...]) -> ET.Element:
    view = ET.Element("View")
    ET.SubElement(view, "Image", {"name": _OBJECT, "value": "$image"})
    labels = ET.SubElement(view, "RectangleLabels", {"name": _CONTROL, "toName": _OBJECT})
    for name in class_names:
        ET.SubElement(labels, "Label", {"value": replace_forbidden(name)})
    return view


def _task(image: DetectedImage, export: Export) -> dict[str, Any]:
    task: dict[str, Any] = {"data": {"image": export.task_uri_of(image.file_name), "file_name": image.file_name}}
    if not image.has_size:
        return task
    prediction: dict[str, Any] = {"model_version": export.model, "result": _regions(image, export.class_names)}
    if len(image.scores):
        prediction["score"] = round(float(image.scores.mean()), _DECIMALS)
    return task | {"predictions": [prediction]}


def _regions(image: DetectedImage, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    image_size = (image.width, image.height)
    corners, sizes = ((100 * pixels / image_size).round(_DECIMALS) for pixels in (image.boxes[:, :2], image.box_sizes))
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
                "rectanglelabels": [replace_forbidden(class_names[class_index])],
            },
            "score": score,
        }
        for number, (corner, size, score, class_index) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]


FORMAT = Format(
    name="label_studio",
    title="Label Studio",
    render=_render_files,
    unsized="without boxes",
    is_xml=False,
    files=(_TASKS, _CONFIGURATION),
    image_files=None,
    summary="The JSON has the tasks with predictions, the XML the labelling configuration. Local files need "
    "`LOCAL_FILES_SERVING_ENABLED=true` in Label Studio, and its document root `/` or `CORAL_IMAGES_AT`.",
)
