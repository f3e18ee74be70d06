"""A list of COCO results, as pycocotools, detectron2 and MMDetection write it, or Ultralytics' predictions.json.

    [{"image_id": 7, "category_id": 1, "bbox": [left, top, width, height], "score": 0.9}]

The list names neither images nor classes. Either a COCO file of the data set does, after a comma:
``CORAL_PREDICTIONS=results.json,instances_val.json``. Or ``file_name``, as in Ultralytics' rows, or else a text as
``image_id`` names an image in CORAL_INPUT, with or without folder and extension, and CORAL_CLASSES names the classes.
Then all images in CORAL_INPUT are images of the list.
"""

from typing import Any

import numpy as np

from job.errors import SettingsError
from job.external import coco
from job.external.annotations import make_batch
from job.external.batch import Image, Reading, iter_chunks
from job.external.categories import Categories
from job.external.input_images import InputImages
from job.external.layouts import CORNER_SIZE
from job.external.problems import Problems, is_text, shorten
from job.inputs.match import compare
from job.names import quantify
from job.storage import Entry, Listing

_DATA_SET = "Give the COCO file of the data set after a comma: CORAL_PREDICTIONS=results.json,instances.json."
_MISSING_COCO_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_COCO_IDS = tuple(number for number in range(1, 91) if number not in _MISSING_COCO_IDS)


def matches(content: Any) -> bool:
    """Whether the content of a JSON file is a list of results."""
    return isinstance(content, list) and all(isinstance(entry, dict) and "image_id" in entry for entry in content)


def read_with_data_set(
    content: list[dict[str, Any]], data_set: dict[str, Any], uri: str, classes: tuple[str, ...] | None
) -> Reading:
    """Reads a list whose images and categories are in a COCO file.

    Args:
        content: Parsed content of the list.
        data_set: Parsed content of the COCO file.
        uri: URIs of both files.
        classes: CORAL_CLASSES, by class index.

    Raises:
        SettingsError: If the content is invalid.
    """
    if any("file_name" in row for row in content):
        content = _set_image_ids(content, data_set, uri)
    return coco.read(data_set | {"annotations": content}, uri, classes)


def _set_image_ids(content: list[dict[str, Any]], data_set: dict[str, Any], uri: str) -> list[dict[str, Any]]:
    """The rows with the image_id of their file_name: Ultralytics makes an image_id of its own from the file name."""
    images = data_set.get("images")
    by_name: dict[str, list[Any]] = {}
    for image in images if isinstance(images, list) else []:
        if isinstance(image, dict) and is_text(name := image.get("file_name")):
            for form in {name, name.rpartition("/")[2]}:
                by_name.setdefault(form, []).append(image.get("id"))
    names = [name for row in content if is_text(name := row.get("file_name"))]
    if any(name not in by_name for name in names):
        listing = Listing.from_entries(Entry(name, "", 0) for name in by_name)
        respelled = compare(uri, names, listing, ".").file_names
        by_name |= {name: by_name[file_name] for name, file_name in respelled.items() if name not in by_name}
    problems = Problems()
    rows = []
    for row in content:
        numbers = by_name.get(row["file_name"], []) if is_text(row.get("file_name")) else []
        if len(numbers) == 1:
            rows.append(row | {"image_id": numbers[0]})
        else:
            count = "more than one image" if numbers else "no image"
            problems.add(uri, f"{count} of the data set has the file_name {shorten(row.get('file_name'))}. Correct it.")
    problems.raise_if_any()
    return rows


def read(
    content: list[dict[str, Any]], uri: str, classes: tuple[str, ...] | None, images: InputImages | None
) -> Reading:
    """Reads a list whose images are in CORAL_INPUT and whose classes are CORAL_CLASSES.

    Args:
        content: Parsed content of the list.
        uri: URI of the file.
        classes: CORAL_CLASSES, by class index.
        images: The images in CORAL_INPUT.

    Raises:
        SettingsError: If the content is invalid, names neither images nor classes, or names no image in CORAL_INPUT.
    """
    has_file_names = any("file_name" in row for row in content)
    key = "file_name" if has_file_names else "image_id"
    classes, images = _require_names(content, key, uri, classes, images)
    warnings: list[str] = []
    categories = _make_categories(content, classes, uri, warnings, counts_from_1=has_file_names)
    rows: dict[str, tuple[Image, list[Any]]] = {name: (Image(uri, name), []) for name in images.file_names}
    problems = Problems()
    meant_by, _ = images.match(f"CORAL_PREDICTIONS={uri!r}", (row[key] for row in content), warnings)
    for row in content:
        meant = meant_by[row[key]] or [row[key]]
        if len(meant) > 1:
            problems.add(
                uri,
                f"the {key} {shorten(row[key])} may mean {shorten(meant[0])} or {shorten(meant[1])}. Give file names "
                f"relative to CORAL_INPUT. {_DATA_SET}",
            )
        else:
            rows.setdefault(meant[0], (Image(uri, meant[0]), []))[1].append(row)
    problems.raise_if_any()
    batches = (make_batch(chunk, categories) for chunk in iter_chunks(rows.values()))
    return Reading(classes, CORNER_SIZE, batches, warnings=warnings)


def _require_names(
    content: list[dict[str, Any]],
    key: str,
    uri: str,
    classes: tuple[str, ...] | None,
    images: InputImages | None,
) -> tuple[tuple[str, ...], InputImages]:
    unnamed = [row for row in content if not is_text(row.get(key))]
    if images is None or unnamed:
        shown = f", such as {shorten(unnamed[0].get(key))}," if unnamed else ""
        raise SettingsError(
            f"CORAL_PREDICTIONS, {uri}: this is a list of COCO results, whose {key}s{shown} do not name images. "
            f"{_DATA_SET}"
        )
    if classes is None:
        raise SettingsError(
            f"CORAL_PREDICTIONS, {uri}: this is a list of COCO results, which does not name its classes. Set "
            f"CORAL_CLASSES to the names of the classes in their order. Or: {_DATA_SET}"
        )
    return classes, images


def _make_categories(
    content: list[dict[str, Any]], classes: tuple[str, ...], uri: str, warnings: list[str], *, counts_from_1: bool
) -> Categories:
    """Finds out what the category ids are: indices of the classes from 0 or from 1, or the 91 ids of COCO."""
    ids = {number for row in content if type(number := row.get("category_id")) is int}
    from_0 = {number: number for number in range(len(classes))}
    from_1 = {number + 1: number for number in range(len(classes))}
    of_coco = {number: index for index, number in enumerate(_COCO_IDS)} if len(classes) == len(_COCO_IDS) else {}
    from_1_or_coco = [index for index in (from_1, of_coco) if ids <= index.keys()]
    if ids <= from_0.keys() and (0 in ids or not counts_from_1):
        index = from_0
        if ids and 0 not in ids:
            warnings.append(
                f"No box in {uri} has the category_id 0. The ids are taken as indices of CORAL_CLASSES from 0, so that "
                f"{min(ids)} is {shorten(classes[min(ids)])}. If they count from 1, put a class without boxes first in "
                f"CORAL_CLASSES. Or: {_DATA_SET}"
            )
    elif not from_1_or_coco:
        raise SettingsError(
            f"CORAL_PREDICTIONS, {uri}: its category_ids go from {min(ids)} to {max(ids)}, but CORAL_CLASSES has "
            f"{quantify(len(classes), 'name')}. List every class, in the order of the ids. Or: {_DATA_SET}"
        )
    else:
        index = from_1_or_coco[0]
        if any(other[number] != index[number] for other in from_1_or_coco for number in ids):
            raise SettingsError(
                f"CORAL_PREDICTIONS, {uri}: its category_ids may be COCO's 91 ids or numbers from 1 to "
                f"{len(classes)}. {_DATA_SET}"
            )
    return Categories(classes, index, np.arange(len(classes)))
