"""Copies of the picked files.

    selected/<file name>
    exports/copies.jsonl    file_name and copy of each pick, and the SHA-256 of the copy

By that list the copies of an earlier run are known. They are removed if their images are no longer picked. A file that
the list does not name, or that has changed since, is never touched: labelling tools save their work next to the images.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from job.errors import LinkError, one_line
from job.exports import paths
from job.names import shorten
from job.parts.owned import describe_kept
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
    etag = {name: pool.etag[row] for name, row in zip(picks, pool.file_names.find(picks), strict=True)}
    copies = {file_name: FOLDER + path for file_name, path in paths.assign_copies(picks).items()}
    present = {entry.key for entry in output.list(FOLDER)}
    earlier = _read_list(output)
    digests = {key: earlier.get(key) for key in copies.values()}
    kept: set[str] = set()

    def delete(key: str) -> None:
        if key in present and _is_own(output, key, earlier):
            output.delete(key)

    def copy(file_name: str) -> str | None:
        key = copies[file_name]
        try:
            data = source.read(file_name, etag[file_name] or None)
        except OSError as error:
            delete(key)  # may be from an earlier run, with other content
            return error.strerror or one_line(error)
        digests[key] = hashlib.sha256(data).hexdigest()
        if key in present and digests[key] == _compute_digest(output, key):
            return None
        try:
            if key not in present or _is_own(output, key, earlier):
                output.write(key, data)
                return None
        except LinkError:
            pass
        kept.add(key)
        return None

    with ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="copies") as executor:
        for _ in prefetch(executor, delete, earlier.keys() - copies.values(), ahead=_MAX_THREADS):
            pass
        # Before the copies, so that the list also has those of an interrupted run.
        _write_list(output, copies, digests)
        problems = list(prefetch(executor, copy, picks, ahead=_MAX_THREADS))
    failed = {name: problem for name, problem in zip(picks, problems, strict=True) if problem is not None}
    _write_list(output, {name: copies[name] for name in picks if name not in failed}, digests)
    if failed:
        file_name, problem = next(iter(failed.items()))
        logger.warning(
            "%d of %d picks could not be copied to %s/%s. The first is %s: %s.",
            len(failed),
            len(picks),
            output.uri,
            FOLDER,
            shorten(file_name),
            problem,
        )
    if kept:
        logger.warning(
            "In %s/%s, %s. The first is %s.",
            output.uri,
            FOLDER,
            describe_kept(len(kept)),
            shorten(min(kept)),
        )
    return len(picks) - len(failed)


def remove_copies(output: Storage) -> None:
    """Removes the copies of an earlier run, for a run that copies nothing.

    Raises:
        JobError: If the output cannot be used.
    """
    earlier = _read_list(output)
    if not earlier:
        return
    present = {entry.key for entry in output.list(FOLDER)}

    def delete(key: str) -> None:
        if key in present and _is_own(output, key, earlier):
            output.delete(key)

    with ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="copies") as executor:
        for _ in prefetch(executor, delete, earlier, ahead=_MAX_THREADS):
            pass
    output.delete(LIST)  # last, so that the next run removes what an interrupted one has left


def _is_own(output: Storage, key: str, earlier: Mapping[str, str | None]) -> bool:
    """Whether a file in the folder is a copy that an earlier run made and nobody has changed."""
    return key in earlier and earlier[key] in (None, _compute_digest(output, key))


def _compute_digest(output: Storage, key: str) -> str:
    return hashlib.sha256(read_required(output, key)).hexdigest()


def _write_list(output: Storage, copies: Mapping[str, str], digests: Mapping[str, str | None]) -> None:
    rows = ({"file_name": file_name, "copy": key, "sha256": digests[key]} for file_name, key in copies.items())
    output.write(LIST, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def _read_list(output: Storage) -> dict[str, str | None]:
    """Reads the digests of the copies of an earlier run, by their keys; None for one that was interrupted."""
    if output.stat(LIST) is None:
        return {}
    try:
        rows = [json.loads(line) for line in read_required(output, LIST).decode().split("\n") if line]
        digests = {row["copy"]: row["sha256"] for row in rows}
    except (ValueError, KeyError, TypeError):
        logger.warning(
            "%s/%s is not a list of copies, so copies of an earlier run are not removed: delete those in %s yourself.",
            output.uri,
            LIST,
            FOLDER,
        )
        return {}
    # Nothing outside the folder is removed, even if the list names it.
    return {key: digest for key, digest in digests.items() if isinstance(key, str) and paths.is_below(key, FOLDER)}
