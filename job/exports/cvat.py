"""CVAT for images 1.1: one XML file, to be uploaded as annotations of a task that has these images.

    exports/cvat.xml

CVAT finds an image by its name without the extension, or else by its id, its place in the task. Ids are places in the
order of names, which is CVAT's own: so boxes find their images even in a task of the picks that calls them otherwise.
Scores are an attribute of the boxes, ``score``; CVAT passes it over unless the labels of the task have it, as those in
``meta`` do. Images of unknown size are left out, and so are those whose names XML cannot hold.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator

from job.exports.detected import ORIENTATION, DetectedImage, Export
from job.exports.xml import can_hold, child, document, held

# labelformat's writer has no place for scores and ids, and writes to local folders only.


def files(export: Export) -> Iterator[tuple[str, bytes]]:
    """The file."""
    root = ET.Element("annotations")
    child(root, "version", "1.1")
    root.append(_meta(export))
    for number, image in enumerate(sorted(export.images, key=lambda each: each.name.encode())):
        if image.has_size and can_hold(image.name):
            root.append(_image(number, image, export.class_names))
    yield "cvat.xml", document(root)


def _meta(export: Export) -> ET.Element:
    meta = ET.Element("meta")
    task = child(meta, "task")
    child(task, "name", export.model)
    child(task, "size", len(export.images))
    child(task, "mode", "annotation")
    labels = child(task, "labels")
    for name in export.class_names:
        label = child(labels, "label")
        child(label, "name", held(name))
        score = child(child(label, "attributes"), "attribute")
        for tag, value in (("name", "score"), ("mutable", False), ("input_type", "text")):
            child(score, tag, value)
        child(score, "default_value")
        child(score, "values")
    child(meta, "note", ORIENTATION)
    return meta


def _image(number: int, image: DetectedImage, class_names: tuple[str, ...]) -> ET.Element:
    size = {"width": str(image.width), "height": str(image.height)}
    root = ET.Element("image", {"id": str(number), "name": image.name, **size})
    for box, score, kind in zip(image.boxes.tolist(), image.scores.tolist(), image.classes.tolist(), strict=True):
        corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), map(str, box), strict=True))
        about = {"label": held(class_names[kind]), "source": "auto", "occluded": "0", **corners, "z_order": "0"}
        child(ET.SubElement(root, "box", about), "attribute", score).set("name", "score")
    return root
