"""The detections as files of LightlyOne's prediction format, so that it, LightlyStudio and labelformat read them.

    .lightly/predictions/tasks.json
    .lightly/predictions/<task>/schema.json
    .lightly/predictions/<task>/<file name of the image, with its extension replaced>.json

Two images whose names differ in their extension alone would share a file there. Then the first of them, bytewise, gets
it, and the other one gets a file with its whole name, ``a.png.json``. Readers find the image by the ``file_name`` in
it.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

from job.exports.lightly import categories, predictions, task_name
from job.names import is_one_line
from job.parts import Provenance, ledger
from job.parts import pool as pools
from job.parts.ledger import Ledger
from job.parts.pool import Detections, Pool
from job.prefetch import prefetch
from job.storage import Storage, read_required

logger = logging.getLogger(__name__)

FOLDER = ".lightly/predictions/"
_SIMULTANEOUS = 32
# Readers take a file of this name for the schema, in whatever folder it lies.
_SCHEMA = "schema.json"
# Below the limits of file systems (255) and of S3 (1024), with room for the folders before and for temporary names.
_LONGEST_ELEMENT, _LONGEST_PATH = 200, 800


def write(output: Storage, pool: Pool) -> None:
    """Writes the files of all usable images that are not there yet, and removes those of images that are gone.

    Predictions of other tasks stay.

    Args:
        output: Folder of the results.
        pool: The images.
    """
    task = task_name(pool.provenance)
    folder = f"{FOLDER}{task}/"
    path = {name: folder + each for name, each in paths(pool.file_names).items()}
    pieces = {
        part: ledger.name_piece(part, [(pool.file_names[row], path[pool.file_names[row]]) for row in rows])
        for part, rows in pool.rows_by_part().items()
    }
    whole = ledger.name_piece(task, sorted(pieces.items()))
    done = Ledger(output, "predictions", [whole, *pieces.values()])
    if whole in done:
        return
    _add_task(output, task)
    output.write(folder + _SCHEMA, _json(schema(pool.provenance)))

    def put(item: tuple[str, Detections]) -> None:
        name, found = item
        output.write(path[name], _json({"file_name": name, "predictions": predictions(found)}))

    left = [row for row, part in enumerate(pool.part) if pieces[part] not in done]
    with ThreadPoolExecutor(_SIMULTANEOUS, thread_name_prefix="predictions") as executor:
        for part, found in pools.detections_by_part(output, pool, left):
            _finish(prefetch(executor, put, found.items(), ahead=4 * _SIMULTANEOUS))
            done.add(pieces[part])
        expected = {folder + _SCHEMA, *path.values()}
        stale = [each.key for each in output.list(folder) if each.key not in expected]
        _finish(prefetch(executor, output.delete, stale, ahead=4 * _SIMULTANEOUS))
    done.add(whole)


def _add_task(output: Storage, task: str) -> None:
    """Adds a task to tasks.json, which may name those of others."""
    key = FOLDER + "tasks.json"
    present: Any = []
    if output.stat(key):
        try:
            present = json.loads(read_required(output, key))
        except ValueError:
            present = None
    if not isinstance(present, list):
        logger.warning("%s/%s is no list of tasks, which nothing could read, and is written anew.", output.uri, key)
        present = []
    if task not in present:
        output.write(key, _json([*present, task]))


def _finish(work: Iterator[None]) -> None:
    for _ in work:
        pass


def schema(provenance: Provenance) -> dict[str, Any]:
    """The content of schema.json."""
    return {"task_type": "object-detection", "categories": categories(provenance)}


def paths(names: Sequence[str]) -> dict[str, str]:
    """Where the predictions on each image go, below the task's folder; no two images share a file.

    Args:
        names: File names of images, sorted bytewise.
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
        while name not in result:  # once, but where an image has a digest for its name
            path = sha256(path.encode()).hexdigest()
            claim(name, path + ".json")
    return result


def _without_extension(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    stem, dot, _ = last.rpartition(".")
    return folder + slash + (stem if dot and stem else last)


def _usable(path: str) -> bool:
    """Whether a path can be a file in every store, inside its folder, that readers take for predictions."""
    elements = path.split("/")
    if any(each.endswith(".json") for each in elements[:-1]):
        return False  # readers would take such a folder for a file
    return (
        len(path.encode()) <= _LONGEST_PATH
        and elements[-1] != _SCHEMA
        and is_one_line(path)
        and all(each not in ("", ".", "..") and len(each.encode()) <= _LONGEST_ELEMENT for each in elements)
    )


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
