"""COCO's format: one JSON file with images, categories and annotations, which have scores here.

    {"images": [{"id": 7, "file_name": "a.jpg", "width": 640, "height": 480}],
     "categories": [{"id": 1, "name": "person"}],
     "annotations": [{"image_id": 7, "category_id": 1, "bbox": [left, top, width, height], "score": 0.9}]}

Images without annotations are images without detections. Annotations may also have ``probabilities``, either all of
them or none: one number per category, in the order of ``categories``. One more number, for the background, may follow;
then the numbers sum to 1 and are used as they are. Width and height are optional.
"""

from typing import Any

from job.external.annotations import make_batch
from job.external.batch import Image, Reading, iter_chunks, parse_image
from job.external.categories import read_categories
from job.external.layouts import CORNER_SIZE
from job.external.problems import Problems, is_text, shorten

_REQUIRED_LISTS = {
    "images": "the id and the file_name of every image",
    "annotations": "the image_id, category_id, bbox and score of every box",
}
_ID_TYPES = (int, str)


def read(content: dict[str, Any], uri: str, classes: tuple[str, ...] | None) -> Reading:
    """Reads a COCO file.

    Args:
        content: Parsed content of the file.
        uri: URI of the file.
        classes: CORAL_CLASSES, by class index.

    Raises:
        SettingsError: If the content is invalid.
    """
    problems = Problems()
    for name, entries in _REQUIRED_LISTS.items():
        if not isinstance(content.get(name), list):
            problems.add(uri, f"there is no list of {name}. Add one, with {entries}.")
    problems.raise_if_any()
    categories = read_categories(content.get("categories"), uri, classes)
    images = _read_images(content["images"], uri)
    _assign_annotations(content["annotations"], images, uri)
    batches = (make_batch(chunk, categories) for chunk in iter_chunks(images.values()))
    return Reading(categories.names, CORNER_SIZE, batches)


def _read_images(entries: list[Any], uri: str) -> dict[Any, tuple[Image, list[Any]]]:
    """Images by id, each with an empty list for its predictions."""
    problems = Problems()
    images: dict[Any, tuple[Image, list[Any]]] = {}
    for entry in entries:
        name, number = (entry.get("file_name"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        if not is_text(name) or type(number) not in _ID_TYPES:
            problems.add(uri, f"the image {shorten(entry)} has no id or no file_name. Give it both.")
        elif number in images:
            problems.add(
                uri,
                f"image {shorten(name)} has the same id as {images[number][0]}: {shorten(number)}. "
                "Give every image its own id.",
            )
        else:
            images[number] = parse_image(uri, name, entry.get("width"), entry.get("height"), problems), []
    problems.raise_if_any()
    return images


def _assign_annotations(annotations: list[Any], images: dict[Any, tuple[Image, list[Any]]], uri: str) -> None:
    problems = Problems()
    for position, annotation in enumerate(annotations):
        number = annotation.get("image_id") if isinstance(annotation, dict) else None
        if type(number) in _ID_TYPES and number in images:
            images[number][1].append(annotation)
        else:
            problems.add(
                uri,
                f"annotation {position} (counted from 0) has the image_id {shorten(number)}, which no image has. "
                "Correct it, or add the image.",
            )
    problems.raise_if_any()
