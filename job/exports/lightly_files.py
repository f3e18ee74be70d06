"""Detections as files of LightlyOne's prediction format, which LightlyOne, LightlyStudio and labelformat can read.

They are for the platform, so a run without a token writes them only if it is asked to.

    .lightly/predictions/tasks.json
    .lightly/predictions/<task>/schema.json
    .lightly/predictions/<task>/<file name of the image, with its extension replaced>.json

Two images whose names differ only in their extension would share a file. Then the first of them, in bytewise order,
gets this file, and the other gets a file with its whole name, ``a.png.json``. Readers identify the image by the
``file_name`` in the file.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

from job import parts
from job.exports.lightly import categories, predictions, task_name
from job.exports.paths import is_below
from job.names import is_one_line
from job.parts import Provenance, ledger
from job.parts.boxes import Detections, detections_by_part
from job.parts.ledger import Ledger
from job.parts.pool import Pool
from job.prefetch import prefetch
from job.storage import Storage, read_required

logger = logging.getLogger(__name__)

FOLDER = ".lightly/predictions/"
_TASKS = FOLDER + "tasks.json"
_OUTDATED = parts.FOLDER + "outdated-predictions.json"
# A file takes some 1.4 ms under the interpreter's lock, so 700 are made per second. With so many threads, a store that
# answers within 10 ms keeps up with that.
_SIMULTANEOUS = 8
# Readers treat a file with this name as the schema, in every folder.
_SCHEMA = "schema.json"
# Bytes below the limits of file systems (255) and of S3 (1024), with room for parent folders and temporary names.
_MAX_ELEMENT_BYTES, _MAX_PATH_BYTES = 200, 800


def write(output: Storage, pool: Pool) -> None:
    """Writes the missing files of all usable images, and deletes the files of images that no longer exist.

    Predictions of other tasks stay unchanged.

    Args:
        output: Folder of the results.
        pool: The images.
    """
    task = task_name(pool.provenance)
    folder = f"{FOLDER}{task}/"
    path = {name: folder + file for name, file in paths(pool.file_names).items()}
    pieces = {
        part: ledger.name_piece(part, [(pool.file_names[row], path[pool.file_names[row]]) for row in rows])
        for part, rows in pool.rows_by_part().items()
    }
    whole = ledger.name_piece(task, sorted(pieces.items()))
    done = Ledger(output, "predictions")
    if whole in done:
        return
    # Before anything is forgotten or written: an interrupted run must not leave a file that no record names.
    outdated = _find_outdated(output, done, {whole, *pieces.values()}) - {folder + _SCHEMA, *path.values()}
    output.write(_OUTDATED, _json(sorted(outdated)))
    done.forget_others([whole, *pieces.values()])
    _add_task(output, task)
    output.write(folder + _SCHEMA, _json(schema(pool.provenance)))

    def put(item: tuple[str, Detections]) -> None:
        name, detections = item
        output.write(path[name], _json({"file_name": name, "predictions": predictions(detections)}))

    remaining = [row for part, rows in pool.rows_by_part().items() if pieces[part] not in done for row in rows.tolist()]
    with ThreadPoolExecutor(_SIMULTANEOUS, thread_name_prefix="predictions") as executor:
        for part, detections_of in detections_by_part(output, pool, remaining):
            names = [path[name] for name in detections_of]
            done.begin(pieces[part], names)
            _finish(prefetch(executor, put, detections_of.items(), ahead=4 * _SIMULTANEOUS))
            done.add(pieces[part], names)
        _finish(prefetch(executor, output.delete, outdated, ahead=4 * _SIMULTANEOUS))
    output.delete(_OUTDATED)
    done.add(whole)


def warn_if_present(output: Storage, provenance: Provenance) -> None:
    """Warns if an earlier run has left files of this detector; for a run that does not write them."""
    folder = f"{FOLDER}{task_name(provenance)}"
    if output.stat(f"{folder}/{_SCHEMA}") is not None:
        logger.warning(
            "%s/%s is of an earlier run and is not updated: delete it, or set CORAL_LIGHTLY_PREDICTIONS=1.",
            output.uri,
            folder,
        )


def _find_outdated(output: Storage, done: Ledger, pieces: set[str]) -> set[str]:
    """Finds the files of pieces that no longer exist, also of those that an interrupted run began or found."""
    outdated = done.names_of_others(pieces)
    if output.stat(_OUTDATED):
        outdated |= set(json.loads(read_required(output, _OUTDATED)))
    return {key for key in outdated if is_below(key, FOLDER)}


def _add_task(output: Storage, task: str) -> None:
    """Adds a task to tasks.json, which may contain tasks of other programs."""
    present: Any = []
    if output.stat(_TASKS):
        try:
            present = json.loads(read_required(output, _TASKS))
        except ValueError:
            present = None
    if not isinstance(present, list):
        logger.warning("%s/%s is not a JSON list of tasks; rewriting it.", output.uri, _TASKS)
        present = []
    if task not in present:
        output.write(_TASKS, _json([*present, task]))


def _finish(work: Iterator[None]) -> None:
    for _ in work:
        pass


def schema(provenance: Provenance) -> dict[str, Any]:
    """The content of schema.json."""
    return {"task_type": "object-detection", "categories": categories(provenance)}


def paths(names: Sequence[str]) -> dict[str, str]:
    """Paths of the files with predictions, below the task's folder; no two images share a file.

    Args:
        names: File names of the images, sorted bytewise.

    Returns:
        File name of the image to path.
    """
    taken: set[str] = set()
    result: dict[str, str] = {}

    def claim(name: str, path: str) -> None:
        if name not in result and path not in taken and _usable(path):
            taken.add(path)
            result[name] = path

    for name in names:
        claim(name, _without_extension(name) + ".json")
    for name in names:
        claim(name, name + ".json")
    for name in names:
        path = name
        while name not in result:  # more than once only if the name of another image is this digest
            path = sha256(path.encode()).hexdigest()
            claim(name, path + ".json")
    return result


def _without_extension(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    stem, dot, _ = last.rpartition(".")
    return folder + slash + (stem if dot and stem else last)


def _usable(path: str) -> bool:
    """Whether a path is a valid file inside its folder, in every store, that readers treat as predictions."""
    elements = path.split("/")
    if any(element.endswith(".json") for element in elements[:-1]):
        return False  # readers would treat such a folder as a file
    return (
        len(path.encode()) <= _MAX_PATH_BYTES
        and elements[-1] != _SCHEMA
        and is_one_line(path)
        and all(element not in ("", ".", "..") and len(element.encode()) <= _MAX_ELEMENT_BYTES for element in elements)
    )


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
