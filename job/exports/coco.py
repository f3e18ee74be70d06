"""COCO's format.

    exports/coco.json       the picks, best first
    predictions/coco.json   all usable images

Annotations have a ``score``. An image without annotations is an image without detections. ``coco_url`` says where the
image is. Width and height are missing if they are unknown. CORAL_PREDICTIONS accepts such a file. In
predictions/coco.json, annotations also have ``probabilities``, in the order of the categories and with the background
last, so that the same scores come out when the file is read.
"""

import functools
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from job.exports.detected import ORIENTATION, DetectedImage, Export
from job.exports.format import Format

_FILE = "coco.json"
# labelformat's writer has no place for URIs, areas and ids of annotations, and needs every image's size.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # json.dumps makes a new one for each annotation


def _render_files(export: Export) -> Iterator[tuple[str, bytes]]:
    entries = (
        make_entry(image.number, image.file_name, image.uri, image.width, image.height) for image in export.images
    )
    yield _FILE, render(export.class_names, export.model, entries, export.images)


def render(
    class_names: Iterable[str], model: str, entries: Iterable[dict[str, Any]], images: Iterable[DetectedImage]
) -> bytes:
    """Renders a whole file, with one image or annotation per line; the arguments are as in `write`."""
    buffer = io.BytesIO()
    write(buffer, class_names, model, entries, map(render_annotations, images))
    return buffer.getvalue()


def write(
    file: BinaryIO,
    class_names: Iterable[str],
    model: str,
    entries: Iterable[dict[str, Any]],
    annotations: Iterable[list[bytes]],
) -> None:
    """Writes a whole file, with one image or annotation per line.

    Args:
        file: The file.
        class_names: Class names by class index.
        model: Name of the detector.
        entries: Entries of the images, made by `make_entry`.
        annotations: For each image, what `render_annotations` returned.
    """
    info = {"description": f"Detections as pre-labels. {ORIENTATION}", "contributor": f"coralpick, {model}"}
    categories = ({"id": number, "name": name} for number, name in enumerate(class_names, start=1))
    numbered = enumerate((rest for of_image in annotations for rest in of_image), start=1)
    file.write(b'{"info":' + _json(info))
    for name, rows in (
        ("categories", map(_json, categories)),
        ("images", map(_json, entries)),
        ("annotations", (b'{"id":%d,%b' % (number, rest) for number, rest in numbered)),
    ):
        file.write(f',\n"{name}":['.encode())
        for number, row in enumerate(rows):
            file.write((b",\n" if number else b"\n") + row)
        file.write(b"]")
    file.write(b"}\n")


def make_entry(number: int, file_name: str, uri: str, width: int, height: int) -> dict[str, Any]:
    """Makes the entry of one image in ``images``; the arguments are as in `DetectedImage`."""
    size = {"width": width, "height": height} if width > 0 and height > 0 else {}
    return {"id": number, "file_name": file_name, "coco_url": uri} | size


def render_annotations(image: DetectedImage) -> list[bytes]:
    """Renders the annotations of an image, each without its beginning: the id, which counts those of all images."""
    columns = (image.boxes[:, :2], image.box_sizes, image.scores, image.classes)
    rendered = []
    for box, (corner, size, score, class_index) in enumerate(
        zip(*(column.tolist() for column in columns), strict=True)
    ):
        annotation = {
            "image_id": image.number,
            "category_id": class_index + 1,
            "bbox": [*corner, *size],
            "area": round(size[0] * size[1], 3),
            "segmentation": [],  # Datumaro, and so CVAT, skips annotations that have none
            "iscrowd": 0,
            "score": score,
        }
        if image.probabilities is not None:
            annotation["probabilities"] = _shorten(image.probabilities[box])
        rendered.append(_json(annotation)[1:])
    return rendered


def _shorten(probabilities: npt.NDArray[np.float16]) -> list[float]:
    """The shortest decimal numbers that give the same values in half precision."""
    table = _list_shortest()
    return [table[bits] for bits in np.clip(np.abs(probabilities), 0, 1).view(np.uint16).tolist()]


@functools.cache
def _list_shortest() -> list[float]:
    """The shortest decimal number for each value from 0 to 1 in half precision, by the bits of that value."""
    last = int(np.ones(1, np.float16).view(np.uint16)[0])
    values = np.arange(last + 1, dtype=np.uint16).view(np.float16)
    return [0, *(float(str(value)) for value in values[1:-1]), 1]


def _json(content: Any) -> bytes:
    return _ENCODER.encode(content).encode()


FORMAT = Format(
    name="coco",
    title="COCO",
    render=_render_files,
    unsized="kept",
    is_xml=False,
    files=(_FILE,),
    image_files=None,
    summary="Each annotation has its `score`, and each image its URI as `coco_url`.",
)
