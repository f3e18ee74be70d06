"""Copies of the picked files.

    selected/<file name>
    exports/copies.jsonl    file_name and copy of each pick

That list identifies the copies of an earlier run, which are removed if their images are no longer picked. Nothing else
in the folder is touched: labelling tools save their work next to the images.
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
_MAX_THREADS = 16


def copy_selected(output: Storage, source: Source, pool: Pool, picks: Sequence[str]) -> int:
    """Copies the picked files, and removes the copies of images that are no longer picked.

    A file that is gone, or has changed since detection, is skipped with a warning.

    Args:
        output: Folder of the results.
        source: The input.
        pool: The images.
        picks: File names of the picks.

    Returns:
        Number of files that were copied.

    Raises:
        JobError: If the input or the output cannot be used.
    """
    etag = dict(zip(pool.file_names, pool.etag, strict=True))
    copies = {file_name: FOLDER + path for file_name, path in paths.assign_copies(picks).items()}

    def copy(file_name: str) -> str | None:
        try:
            data = source.read(file_name, etag[file_name] or None)
        except OSError as error:
            output.delete(copies[file_name])  # may be from an earlier run, with other content
            return error.strerror or one_line(error)
        output.write(copies[file_name], data)
        return None

    with ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="copies") as executor:
        for _ in prefetch(executor, output.delete, _earlier_copies(output) - set(copies.values()), ahead=_MAX_THREADS):
            pass
        _write_list(output, copies)  # before the copies, so that the list also has those of an interrupted run
        problems = list(prefetch(executor, copy, picks, ahead=_MAX_THREADS))
    failed = {name: problem for name, problem in zip(picks, problems, strict=True) if problem is not None}
    _write_list(output, {name: copies[name] for name in picks if name not in failed})
    if failed:
        file_name, problem = next(iter(failed.items()))
        logger.warning(
            "%d of %d picks could not be copied to %s/%s. The first is %r: %s.",
            len(failed),
            len(picks),
            output.uri,
            FOLDER,
            file_name,
            problem,
        )
    return len(picks) - len(failed)


def _write_list(output: Storage, copies: Mapping[str, str]) -> None:
    rows = ({"file_name": file_name, "copy": key} for file_name, key in copies.items())
    output.write(LIST, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def _earlier_copies(output: Storage) -> set[str]:
    if output.stat(LIST) is None:
        return set()
    try:
        keys = {json.loads(line)["copy"] for line in read_required(output, LIST).decode().split("\n") if line}
    except (ValueError, KeyError, TypeError):
        logger.warning(
            "%s/%s is not a list of copies, so copies of an earlier run are not removed: delete those in %s yourself.",
            output.uri,
            LIST,
            FOLDER,
        )
        return set()
    # Nothing outside the folder is removed, even if the list names it.
    return {key for key in keys if isinstance(key, str) and paths.is_below(key, FOLDER)}
