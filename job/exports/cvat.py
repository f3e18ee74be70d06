"""CVAT for images 1.1: one XML file, to be uploaded as the annotations of a task that has these images.

    exports/cvat.xml
    exports/cvat_labels.json            the labels, for the label constructor of a new task ("Raw")
    exports/cvat_videos/<video>.xml     the picks of a video, see `job.exports.cvat_video`

CVAT finds an image by its name without the extension, or else by its id, its position in the task. CVAT orders images
by name, and so do the ids here. So boxes find their images even in a task of the picks with other image names.
Scores are the attribute ``score`` of the boxes. CVAT ignores it unless the labels of the task have this attribute, as
those in ``meta`` and in ``cvat_labels.json`` do. Images of unknown size, and images whose names XML cannot represent,
are left out.
"""

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from typing import Any

from job.exports import cvat_video
from job.exports.detected import ORIENTATION, DetectedImage, Export
from job.exports.format import Format
from job.exports.xml import add_child, can_represent, replace_forbidden, serialize

_FILE, _LABELS = "cvat.xml", "cvat_labels.json"


# labelformat's writer has no place for scores and ids, and writes to local folders only.
def _render_files(export: Export) -> Iterator[tuple[str, bytes]]:
    root = ET.Element("annotations")
    add_child(root, "version", "1.1")
    root.append(_meta(export, {"size": len(export.images), "mode": "annotation"}))
    for number, image in enumerate(sorted(export.images, key=lambda image: image.file_name.encode())):
        if image.has_size and can_represent(image.file_name):
            root.append(_image(number, image, export.class_names))
    yield _FILE, serialize(root)
    labels = [_label(name) for name in export.class_names]
    yield _LABELS, (json.dumps(labels, ensure_ascii=False, indent=1) + "\n").encode()
    yield from cvat_video.render(export, lambda task: _meta(export, task))


def _label(name: str) -> dict[str, Any]:
    """A label for CVAT's label constructor, which wants at least one value even of a text attribute."""
    score = {"name": "score", "mutable": False, "input_type": "text", "default_value": "", "values": [""]}
    return {"name": replace_forbidden(name), "attributes": [score]}


def _meta(export: Export, of_task: Mapping[str, object]) -> ET.Element:
    meta = ET.Element("meta")
    task = add_child(meta, "task")
    for tag, value in {"name": export.model, **of_task}.items():
        add_child(task, tag, value)
    labels = add_child(task, "labels")
    for name in export.class_names:
        label = add_child(labels, "label")
        add_child(label, "name", replace_forbidden(name))
        score = add_child(add_child(label, "attributes"), "attribute")
        for tag, value in (("name", "score"), ("mutable", False), ("input_type", "text")):
            add_child(score, tag, value)
        add_child(score, "default_value")
        add_child(score, "values")
    add_child(meta, "note", ORIENTATION)
    return meta


def _image(number: int, image: DetectedImage, class_names: tuple[str, ...]) -> ET.Element:
    size = {"width": str(image.width), "height": str(image.height)}
    root = ET.Element("image", {"id": str(number), "name": image.file_name, **size})
    columns = (image.boxes, image.scores, image.classes)
    for box, score, class_index in zip(*(column.tolist() for column in columns), strict=True):
        label = replace_forbidden(class_names[class_index])
        corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), map(str, box), strict=True))
        attributes = {"label": label, "source": "auto", "occluded": "0", **corners, "z_order": "0"}
        add_child(ET.SubElement(root, "box", attributes), "attribute", score).set("name", "score")
    return root


FORMAT = Format(
    name="cvat",
    title="CVAT for images 1.1",
    render=_render_files,
    unsized="left out",
    is_xml=True,
    files=(_FILE, _LABELS),
    image_files=cvat_video.FILES,
    summary="Create a task with these images, and paste the JSON into its label constructor (Raw). Then upload the XML "
    "as annotations. For tasks of videos, see labelling-tools.md.",
)
