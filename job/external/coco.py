"""COCO's format: one JSON file with images, categories and annotations, which have scores here.

    {"images": [{"id": 7, "file_name": "a.jpg", "width": 640, "height": 480}],
     "categories": [{"id": 1, "name": "person"}],
     "annotations": [{"image_id": 7, "category_id": 1, "bbox": [left, top, width, height], "score": 0.9}]}

Images without annotations are images on which nothing was detected. All annotations may have ``probabilities`` too, one
for each of the categories, in the order of ``categories``. Width and height may be missing.
"""

from typing import Any

from job.external import categories
from job.external.annotations import batch_of
from job.external.batch import Image, Reading, chunks, image
from job.external.problems import Problems, is_text, shown

_LISTS = {
    "images": "add those that the predictions are about, with id and file_name.",
    "annotations": "add the predictions, with image_id, category_id, bbox and score.",
}
_IDS = (int, str)


def read(content: dict[str, Any], where: str, classes: tuple[str, ...] | None) -> Reading:
    """Reads a file.

    Args:
        content: Of the file.
        where: Its URI.
        classes: CORAL_CLASSES.

    Raises:
        SettingsError: Something is wrong with it.
    """
    problems = Problems()
    for name, advice in _LISTS.items():
        if not isinstance(content.get(name), list):
            problems.add(where, f"it has no list of {name}: {advice}")
    problems.settle()
    known = categories.read(content.get("categories"), where, classes)
    found = _images(content["images"], where)
    _share_out(content["annotations"], found, where)
    return Reading(known.names, (batch_of(each, known) for each in chunks(found.values())))


def _images(images: list[Any], where: str) -> dict[Any, tuple[Image, list[Any]]]:
    """By their ids, and each with a list for its predictions."""
    problems = Problems()
    found: dict[Any, tuple[Image, list[Any]]] = {}
    for each in images:
        name, number = (each.get("file_name"), each.get("id")) if isinstance(each, dict) else (None, None)
        if not is_text(name) or type(number) not in _IDS:
            problems.add(where, f"the image {shown(each)} has no id or no file_name: give it both.")
        elif number in found:
            problems.add(
                where,
                f"image {shown(name)} has the id {shown(number)}, as {found[number][0]} has: give each one of its own.",
            )
        else:
            found[number] = image(where, name, each.get("width"), each.get("height"), problems), []
    problems.settle()
    return found


def _share_out(annotations: list[Any], images: dict[Any, tuple[Image, list[Any]]], where: str) -> None:
    problems = Problems()
    for position, each in enumerate(annotations):
        number = each.get("image_id") if isinstance(each, dict) else None
        if type(number) in _IDS and number in images:
            images[number][1].append(each)
        else:
            problems.add(
                where,
                f"annotation {position} (from 0) has the image_id {shown(number)}, which none of the images has: "
                "correct it, or add the image.",
            )
    problems.settle()
