"""Pascal VOC's format: one XML file an image.

    exports/voc/<file name of the image, with its extension replaced>.xml

``filename`` is the whole file name, and ``path`` says where the image is. Corners are pixels from 0, with fractions, as
labelformat and most tools have them; the original VOC counts whole pixels from 1. ``score`` is not VOC's own, and
readers that do not know it pass it over. Images of unknown size are left out, and so are those whose names XML cannot
hold.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator

from job.exports import paths
from job.exports.detected import ORIENTATION, DetectedImage, Export
from job.exports.xml import can_hold, child, document, held

# labelformat's writer lets a.jpg and a.png share a file, makes no folders, and has no place for scores and URIs.


def files(export: Export) -> Iterator[tuple[str, bytes]]:
    """The file of each image."""
    images = [each for each in export.sized if can_hold(each.name, each.uri)]
    path = paths.of_labels((each.name for each in images), ".xml")
    for image in images:
        yield f"voc/{path[image.name]}", document(_annotation(image, export))


def _annotation(image: DetectedImage, export: Export) -> ET.Element:
    root = ET.Element("annotation")
    child(root, "folder")
    child(root, "filename", image.name)
    child(root, "path", image.uri)
    source = child(root, "source")
    child(source, "database", "coralpick")
    child(source, "annotation", f"{export.model}. {ORIENTATION}")
    size = child(root, "size")
    for tag, value in (("width", image.width), ("height", image.height), ("depth", 3)):
        child(size, tag, value)
    child(root, "segmented", 0)
    for box, score, kind in zip(image.boxes.tolist(), image.scores.tolist(), image.classes.tolist(), strict=True):
        found = child(root, "object")
        child(found, "name", held(export.class_names[kind]))
        child(found, "pose", "Unspecified")
        for tag in ("truncated", "occluded", "difficult"):
            child(found, tag, 0)
        corners = child(found, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            child(corners, tag, value)
        child(found, "score", score)
    return root
