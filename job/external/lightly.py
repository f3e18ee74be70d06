"""Lightly's format (https://docs.lightly.ai/docs/prediction-format): a folder with one JSON file per image.

    <task>/schema.json  {"task_type": "object-detection", "categories": [{"id": 0, "name": "person"}]}
    <task>/<path>.json  {"file_name": "sub/a.jpg", "predictions": [
                            {"category_id": 0, "bbox": [left, top, width, height], "score": 0.9, "probabilities": [1]}]}

Either all predictions have probabilities (one per category, in the order of the categories), or none of them has.
`job.exports.lightly_files` writes this format.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from job.errors import SettingsError, Stopped
from job.external.annotations import make_batch
from job.external.batch import Batch, Image, Reading, iter_chunks
from job.external.categories import Categories, read_categories
from job.external.layouts import CORNER_SIZE
from job.external.problems import Problems, is_text, parse_json, shorten
from job.prefetch import prefetch
from job.stopping import MESSAGE
from job.storage import Storage, open_folder, read_required
from job.storage.clutter import is_clutter

_SCHEMA, _TASKS = "schema.json", "tasks.json"
_TASK_TYPE = "object-detection"
_MAX_CONCURRENT_READS = 32


def find_task_folder(folder: Storage, stop: threading.Event) -> Storage | None:
    """Finds the folder of a task: the given one, or that of the only task in its tasks.json.

    Args:
        folder: Folder that may hold schema.json or tasks.json.
        stop: Ends waiting for a bucket when it is set.

    Returns:
        The folder of the task, or None if the given folder has neither file.

    Raises:
        SettingsError: If tasks.json does not name exactly one task.
    """
    if folder.stat(_SCHEMA) is not None:
        return folder
    if folder.stat(_TASKS) is None:
        return None
    uri = f"{folder.uri}/{_TASKS}"
    tasks = parse_json(read_required(folder, _TASKS), uri)
    if not isinstance(tasks, list) or len(tasks) != 1 or not is_text(tasks[0]):
        raise SettingsError(
            f"CORAL_PREDICTIONS, {uri}: its tasks are {shorten(tasks)}, not exactly one. Give the folder of one task: "
            f"{folder.uri}/<task>."
        )
    return open_folder(f"{folder.uri}/{tasks[0]}", stop=stop)


def read(
    folder: Storage, classes: tuple[str, ...] | None, stop: threading.Event, update_digest: Callable[[bytes], None]
) -> Reading:
    """Reads the folder of a task.

    Args:
        folder: Folder of the task.
        classes: CORAL_CLASSES, by class index.
        stop: Ends the reading when it is set.
        update_digest: Called with the digest and the name of each file, in an order that depends only on the names.

    Raises:
        SettingsError: If a file is missing or invalid.
        JobError: If a file cannot be read.
    """
    uri = f"{folder.uri}/{_SCHEMA}"
    if folder.stat(_SCHEMA) is None:
        raise SettingsError(
            f"CORAL_PREDICTIONS, {uri}: the file does not exist. Add it, with task_type and categories."
        )
    data = read_required(folder, _SCHEMA)
    update_digest(_format_digest(_SCHEMA, data))
    schema = parse_json(data, uri)
    task_type = schema.get("task_type") if isinstance(schema, dict) else None
    if task_type != _TASK_TYPE:
        raise SettingsError(
            f"CORAL_PREDICTIONS, {uri}: its task_type is {shorten(task_type)}. Give predictions of {_TASK_TYPE}."
        )
    categories = read_categories(schema.get("categories"), uri, classes)
    return Reading(categories.names, CORNER_SIZE, _read_batches(folder, categories, stop, update_digest))


def _read_batches(
    folder: Storage, categories: Categories, stop: threading.Event, update_digest: Callable[[bytes], None]
) -> Iterator[Batch]:
    keys = sorted({entry.key for entry in folder.list(keep=_is_prediction_file)}, key=str.encode)

    def fetch(key: str) -> tuple[str, bytes]:
        if stop.is_set():
            raise Stopped(MESSAGE)
        return key, read_required(folder, key)

    with ThreadPoolExecutor(_MAX_CONCURRENT_READS, thread_name_prefix="predictions") as executor:
        for files in iter_chunks(prefetch(executor, fetch, keys, ahead=4 * _MAX_CONCURRENT_READS)):
            for key, data in files:
                update_digest(_format_digest(key, data))
            yield make_batch(_parse_files(folder, files), categories)


def _is_prediction_file(key: str) -> bool:
    return key.endswith(".json") and key.rpartition("/")[2] != _SCHEMA and not is_clutter(key)


def _format_digest(key: str, data: bytes) -> bytes:
    return f"{hashlib.sha256(data).hexdigest()}  {key}\n".encode()


def _parse_files(folder: Storage, files: list[tuple[str, bytes]]) -> list[tuple[Image, list[Any]]]:
    problems = Problems()
    images: list[tuple[Image, list[Any]]] = []
    for key, data in files:
        uri = f"{folder.uri}/{key}"
        content = parse_json(data, uri)
        fields = content if isinstance(content, dict) else {}
        name, predictions = fields.get("file_name"), fields.get("predictions")
        if not is_text(name):
            problems.add(uri, f"its file_name is {shorten(name)}. Give the name of the image, relative to CORAL_INPUT.")
        elif not isinstance(predictions, list):
            problems.add(
                uri,
                f"the predictions of image {shorten(name)} are {shorten(predictions)}. Give a list; leave it empty if "
                "nothing was detected.",
            )
        else:
            images.append((Image(uri, name), predictions))
    problems.raise_if_any()
    return images
