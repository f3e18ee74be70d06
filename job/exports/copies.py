"""Copies of the picks.

    selected/<file name>
    exports/copies.jsonl    file_name and copy of each

Copies of an earlier run are known by that list, and go when their images are no longer picked. Nothing else in the
folder is touched: annotators' tools leave their work beside the images.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from job.errors import one_line
from job.exports import paths
from job.parts.pool import Pool
from job.prefetch import prefetch
from job.storage import Source, Storage, read_required

logger = logging.getLogger(__name__)

FOLDER = "selected/"
LIST = "exports/copies.jsonl"
_SIMULTANEOUS = 16


def copy_selected(output: Storage, source: Source, pool: Pool, picks: Sequence[str]) -> int:
    """Copies the files of the picks, and removes copies of images that are picked no longer.

    A file that is gone, or is not the one that was detected on, is left out with a warning.

    Args:
        output: Folder of the results.
        source: The input.
        pool: The images.
        picks: File names.

    Returns:
        How many were copied.

    Raises:
        JobError: The input or the output cannot be used.
    """
    etag = dict(zip(pool.file_names, pool.etag, strict=True))
    place = {name: FOLDER + path for name, path in paths.of_files(picks).items()}

    def copy(name: str) -> str | None:
        try:
            data = source.read(name, etag[name] or None)
        except OSError as error:
            output.delete(place[name])  # of an earlier run, and perhaps of another content
            return error.strerror or one_line(error)
        output.write(place[name], data)
        return None

    with ThreadPoolExecutor(_SIMULTANEOUS, thread_name_prefix="copies") as executor:
        for _ in prefetch(executor, output.delete, _earlier(output) - set(place.values()), ahead=_SIMULTANEOUS):
            pass
        _write(output, place)  # before the copies, so that those of an interrupted run are known, too
        problems = list(prefetch(executor, copy, picks, ahead=_SIMULTANEOUS))
    failed = {name: problem for name, problem in zip(picks, problems, strict=True) if problem is not None}
    _write(output, {name: place[name] for name in picks if name not in failed})
    if failed:
        name, problem = next(iter(failed.items()))
        logger.warning(
            "%d of %d picks could not be copied to %s/%s. The first is %r: %s.",
            *(len(failed), len(picks), output.uri, FOLDER, name, problem),
        )
    return len(picks) - len(failed)


def _write(output: Storage, place: Mapping[str, str]) -> None:
    rows = ({"file_name": name, "copy": key} for name, key in place.items())
    output.write(LIST, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def _earlier(output: Storage) -> set[str]:
    """The copies of an earlier run."""
    if output.stat(LIST) is None:
        return set()
    try:
        found = {json.loads(line)["copy"] for line in read_required(output, LIST).decode().split("\n") if line}
    except (ValueError, KeyError, TypeError):
        logger.warning("%s/%s cannot be read: copies of an earlier run stay where they are.", output.uri, LIST)
        return set()
    # Whatever the list says, nothing outside the folder is removed.
    return {key for key in found if isinstance(key, str) and paths.is_below(key, FOLDER)}
