"""Lightly's format (https://docs.lightly.ai/docs/prediction-format): a folder with a JSON file for each image.

    <task>/schema.json  {"task_type": "object-detection", "categories": [{"id": 0, "name": "person"}]}
    <task>/<path>.json  {"file_name": "sub/a.jpg", "predictions": [
                            {"category_id": 0, "bbox": [left, top, width, height], "score": 0.9, "probabilities": [1]}]}

Probabilities, one for each of the categories in their order, may be missing from all predictions.
`job.exports.lightly_files` writes this format.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from job.errors import SettingsError, Stopped
from job.external import categories
from job.external.annotations import batch_of
from job.external.batch import Batch, Image, Reading, chunks
from job.external.categories import Categories
from job.external.problems import Problems, is_text, parsed, shown
from job.prefetch import prefetch
from job.stopping import MESSAGE
from job.storage import Storage, open_folder, read_required

_SCHEMA, _TASKS = "schema.json", "tasks.json"
_TASK_TYPE = "object-detection"
_SIMULTANEOUS = 32


def task_folder(folder: Storage, stop: threading.Event) -> Storage | None:
    """The folder of a task: the given one, or that of the only task in its tasks.json; None if it is neither.

    Raises:
        SettingsError: tasks.json does not name one task.
    """
    if folder.stat(_SCHEMA) is not None:
        return folder
    if folder.stat(_TASKS) is None:
        return None
    where = f"{folder.uri}/{_TASKS}"
    tasks = parsed(read_required(folder, _TASKS), where)
    if not isinstance(tasks, list) or len(tasks) != 1 or not is_text(tasks[0]):
        raise SettingsError(
            f"CORAL_PREDICTIONS, {where}: its tasks are {shown(tasks)}, and not exactly one: name the folder of a "
            f"task, {folder.uri}/<task>."
        )
    return open_folder(f"{folder.uri}/{tasks[0]}", stop=stop)


def read(
    folder: Storage, classes: tuple[str, ...] | None, stop: threading.Event, note: Callable[[bytes], None]
) -> Reading:
    """Reads the folder of a task.

    Args:
        folder: The folder.
        classes: CORAL_CLASSES.
        stop: When set, no more files are read.
        note: Is told digest and name of each file, in an order that depends on the names alone.

    Raises:
        SettingsError: Something is wrong with it.
        JobError: A file cannot be read.
    """
    where = f"{folder.uri}/{_SCHEMA}"
    if folder.stat(_SCHEMA) is None:
        raise SettingsError(
            f"CORAL_PREDICTIONS, {where}: there is no such file: add it, with task_type and categories."
        )
    data = read_required(folder, _SCHEMA)
    note(_digest(_SCHEMA, data))
    schema = parsed(data, where)
    kind = schema.get("task_type") if isinstance(schema, dict) else None
    if kind != _TASK_TYPE:
        raise SettingsError(
            f"CORAL_PREDICTIONS, {where}: its task_type is {shown(kind)}: give predictions of {_TASK_TYPE}."
        )
    known = categories.read(schema.get("categories"), where, classes)
    return Reading(known.names, _batches(folder, known, stop, note))


def _batches(
    folder: Storage, known: Categories, stop: threading.Event, note: Callable[[bytes], None]
) -> Iterator[Batch]:
    keys = sorted({each.key for each in folder.list(keep=_is_of_an_image)}, key=str.encode)

    def fetch(key: str) -> tuple[str, bytes]:
        if stop.is_set():
            raise Stopped(MESSAGE)
        return key, read_required(folder, key)

    with ThreadPoolExecutor(_SIMULTANEOUS, thread_name_prefix="predictions") as executor:
        for files in chunks(prefetch(executor, fetch, keys, ahead=4 * _SIMULTANEOUS)):
            for key, data in files:
                note(_digest(key, data))
            yield batch_of(_images(folder, files), known)


def _is_of_an_image(key: str) -> bool:
    return key.endswith(".json") and key.rpartition("/")[2] != _SCHEMA


def _digest(key: str, data: bytes) -> bytes:
    return f"{hashlib.sha256(data).hexdigest()}  {key}\n".encode()


def _images(folder: Storage, files: list[tuple[str, bytes]]) -> list[tuple[Image, list[Any]]]:
    problems = Problems()
    found: list[tuple[Image, list[Any]]] = []
    for key, data in files:
        where = f"{folder.uri}/{key}"
        content = parsed(data, where)
        fields = content if isinstance(content, dict) else {}
        name, predictions = fields.get("file_name"), fields.get("predictions")
        if not is_text(name):
            problems.add(where, f"its file_name is {shown(name)}: give the name of the image, relative to CORAL_INPUT.")
        elif not isinstance(predictions, list):
            problems.add(
                where,
                f"image {shown(name)} has {shown(predictions)} for its predictions: give a list, which is empty where "
                "nothing was detected.",
            )
        else:
            found.append((Image(where, name), predictions))
    problems.settle()
    return found
