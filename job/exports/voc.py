"""Pascal VOC's format: one XML file per image.

    exports/voc/<file name of the image, with its extension replaced>.xml

``filename`` is the whole file name, and ``path`` is the URI of the image. Corners are pixels from 0, with fractions, as
in labelformat and most tools; the original VOC counts whole pixels from 1. ``score`` is not part of VOC, and readers
that do not know it ignore it. Images of unknown size, and images whose names XML cannot represent, are left out.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator

from job.exports import paths
from job.exports.detected import ORIENTATION, DetectedImage, Export
from job.exports.format import Format, ImageFiles
from job.exports.xml import add_child, can_represent, replace_forbidden, serialize

_IMAGE_FILES = ImageFiles("voc/", ".xml")


# labelformat's writer gives a.jpg and a.png the same file, makes no folders, and has no place for scores and URIs.
def _render_files(export: Export) -> Iterator[tuple[str, bytes]]:
    images = [image for image in export.sized_images if can_represent(image.file_name, image.uri)]
    path = paths.assign_labels((image.file_name for image in images), _IMAGE_FILES.suffix)
    for image in images:
        yield _IMAGE_FILES.folder + path[image.file_name], serialize(_annotation(image, export))


def _annotation(image: DetectedImage, export: Export) -> ET.Element:
    root = ET.Element("annotation")
    add_child(root, "folder")
    add_child(root, "filename", image.file_name)
    add_child(root, "path", image.uri)
    source = add_child(root, "source")
    add_child(source, "database", "coralpick")
    add_child(source, "annotation", f"{export.model}. {ORIENTATION}")
    size = add_child(root, "size")
    for tag, value in (("width", image.width), ("height", image.height), ("depth", 3)):
        add_child(size, tag, value)
    add_child(root, "segmented", 0)
    columns = (image.boxes, image.scores, image.classes)
    for box, score, class_index in zip(*(column.tolist() for column in columns), strict=True):
        element = add_child(root, "object")
        add_child(element, "name", replace_forbidden(export.class_names[class_index]))
        add_child(element, "pose", "Unspecified")
        for tag in ("truncated", "occluded", "difficult"):
            add_child(element, tag, 0)
        corners = add_child(element, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            add_child(corners, tag, value)
        add_child(element, "score", score)
    return root


FORMAT = Format(
    name="voc",
    title="Pascal VOC",
    render=_render_files,
    unsized="left out",
    is_xml=True,
    files=(),
    image_files=_IMAGE_FILES,
    summary="One file per image; each object also has its `score`.",
)
