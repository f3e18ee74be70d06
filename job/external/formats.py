"""Which format the predictions at a URI have; the module of that format reads them."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from job.errors import SettingsError
from job.external import coco, earlier, lightly, other_formats, parquet, results, yolo_labels
from job.external.batch import Reading
from job.external.input_images import InputImages
from job.external.problems import parse_json, shorten
from job.storage import Storage, open_location, read_required
from job.uris import Location, redact

_FORMATS = (
    "The supported formats are a COCO JSON file (an object with images, categories and annotations), a list of COCO "
    "results, Ultralytics' predictions.json, a folder in Lightly's format (of one task, with schema.json, or "
    ".lightly/predictions, with tasks.json), a folder of YOLO labels with confidences, an earlier CORAL_OUTPUT, and a "
    "Parquet file (with the columns file_name, boxes, scores and classes)."
)


@dataclass(frozen=True)
class Context:
    """What the readers need besides the predictions.

    Attributes:
        classes: CORAL_CLASSES, by class index.
        images: The images in CORAL_INPUT; None if there are none to look at.
        stop: Ends the reading when it is set.
        update_digest: Called with everything that the predictions depend on.
    """

    classes: tuple[str, ...] | None
    images: InputImages | None
    stop: threading.Event
    update_digest: Callable[[bytes], None]


def open_predictions(uri: str, context: Context) -> Reading | earlier.Output:
    """Opens predictions: those that must be read and checked, or the output of an earlier run.

    Args:
        uri: Path or bucket URI of a file or a folder; or a list of COCO results and its data set, with a comma between.
        context: What the readers need besides.

    Raises:
        SettingsError: If the format is not supported, or the content is invalid.
        JobError: If a file cannot be read.
    """
    location = _parse(uri, uri)
    if (data := _read_if_file(location, context.stop)) is not None:
        context.update_digest(data)
        return _read_file(data, location.normalized, context)
    one, comma, other = uri.partition(",")
    pair = [_parse(part, uri) for part in (one, other)] if one and other else []
    contents = [_read_if_file(part, context.stop) for part in pair]
    if comma and any(data is not None for data in contents):
        return _read_pair(pair, contents, context)
    return _read_folder(location, context)


def _parse(uri: str, whole: str) -> Location:
    try:
        return Location.parse(uri)
    except ValueError as error:
        shown = ",".join(map(redact, whole.split(",")))
        raise SettingsError(f"CORAL_PREDICTIONS={shown!r} {error}.") from None


def _read_if_file(location: Location, stop: threading.Event) -> bytes | None:
    parent_location, name = location.split()
    if not name:
        return None
    parent = open_location(parent_location, stop=stop)
    return read_required(parent, name) if parent.stat(name) is not None else None


def _read_file(data: bytes, uri: str, context: Context) -> Reading:
    if data.startswith(b"PAR1"):
        return parquet.read(data, uri, context.classes)
    try:
        content: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        known = other_formats.describe_bytes(data)
        problem = f"looks like {known}" if known else f"is neither Parquet nor JSON ({error})"
        raise _unsupported(uri, problem) from None
    if results.matches(content):
        return results.read(content, uri, context.classes, context.images)
    if (known := other_formats.describe_json(content)) is not None:
        raise _unsupported(uri, f"looks like {known}")
    if isinstance(content, dict) and not content.keys().isdisjoint(("images", "annotations")):
        return coco.read(content, uri, context.classes)
    raise _unsupported(uri, f"is JSON with other content: {shorten(content)}")


def _read_pair(locations: list[Location], contents: list[bytes | None], context: Context) -> Reading:
    """Reads a list of COCO results and the COCO file of its data set, in either order."""
    parsed: list[Any] = []
    for location, data in zip(locations, contents, strict=True):
        if data is None:
            raise SettingsError(f"CORAL_PREDICTIONS, {location.normalized}: the file does not exist.")
        context.update_digest(data)
        parsed.append(parse_json(data, location.normalized))
    if results.matches(parsed[1]):
        parsed.reverse()
    rows, data_set = parsed
    uris = " and ".join(location.normalized for location in locations)
    if not results.matches(rows) or not isinstance(data_set, dict) or "images" not in data_set:
        raise SettingsError(
            f"CORAL_PREDICTIONS, {uris}: two files must be a list of COCO results and the COCO file of its data set, "
            "with images and categories."
        )
    return results.read_with_data_set(rows, data_set, uris, context.classes)


def _read_folder(location: Location, context: Context) -> Reading | earlier.Output:
    uri, folder = location.normalized, open_location(location, stop=context.stop)
    if (task_folder := lightly.find_task_folder(folder, context.stop)) is not None:
        return lightly.read(task_folder, context.classes, context.stop, context.update_digest)
    first = _find_any_file(uri, folder)
    if earlier.matches(folder):
        return earlier.Output(folder)
    if labels := yolo_labels.list_files(folder):
        return yolo_labels.read(folder, labels, context.classes, context.images, context.stop, context.update_digest)
    if first is None:
        raise _unsupported(uri, "is neither a file nor a folder of files")
    raise _unsupported(uri, "is a folder with neither schema.json nor tasks.json, without parts and without .txt files")


def _find_any_file(uri: str, folder: Storage) -> str | None:
    try:
        entry = next(folder.list(), None)
    except SettingsError as error:
        raise SettingsError(f"CORAL_PREDICTIONS={uri!r} does not exist: {error}") from None
    return entry.key if entry else None


def _unsupported(uri: str, problem: str) -> SettingsError:
    return SettingsError(f"CORAL_PREDICTIONS={uri!r} {problem}. {_FORMATS}")
