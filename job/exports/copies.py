"""Copies of the picked files.

    selected/<file name>
    exports/copies.jsonl    file_name and copy of each pick, and the SHA-256 of the copy

By that list the copies of an earlier run are known. They are removed if their images are no longer picked. A file that
the list does not name, or that has changed since, is never touched: labelling tools save their work next to the images.

The list is written before the copies, when digests of new ones are not known yet, and again after them. So a run that
was killed between leaves copies whose digest is missing or that of an earlier content: such a file is a copy only if
it has the content of the image.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from job.budget import Hold, prefetch_within
from job.errors import LinkError, one_line
from job.exports import paths
from job.names import is_text, shorten
from job.parts.owned import compute_digest, describe_kept
from job.parts.pool import Pool
from job.storage import Source, Storage, read_required

logger = logging.getLogger(__name__)

FOLDER = "selected/"
LIST = "exports/copies.jsonl"
_MAX_THREADS = 16
_MAX_BYTES = 1 << 29  # of images that are in memory at once; a larger one is alone


@dataclass(frozen=True)
class _Listed:
    """A copy of an earlier run; it has no digest if that run was killed before it wrote the list again."""

    file_name: str
    sha256: str | None


class _Copies:
    """The folder as it was before, and what becomes of the files in it."""

    def __init__(self, output: Storage, source: Source | None, pool: Pool) -> None:
        self._output, self._source, self._pool = output, source, pool
        # Before the list: another process of the same run adds to it before it makes a copy.
        self.present = {entry.key for entry in output.list(FOLDER)}
        self.earlier = _read_list(output)
        names = [listed.file_name for listed in self.earlier.values()]
        self._row = dict(zip(names, pool.file_names.find(names).tolist(), strict=True))
        self.kept: set[str] = set()

    def write(self, key: str, data: bytes, digest: str) -> None:
        """Makes a copy, unless it is there, or somebody else's file is."""
        found = self._find(key)
        if found == digest:
            return
        if found is not None and not self._is_listed(key, found):
            self.kept.add(key)
            return
        try:
            self._output.write(key, data)
        except LinkError:
            self.kept.add(key)

    def delete(self, key: str, *, compares: bool = True) -> None:
        """Deletes a copy; keeps somebody else's file.

        Args:
            key: The copy.
            compares: Whether to read its image, if the list does not show that it is one.
        """
        found = self._find(key)
        if found is None:
            return
        if self._is_listed(key, found) or (compares and found == self._read_image(key)):
            self._output.delete(key)
        else:
            self.kept.add(key)

    def delete_all(self, keys: Iterable[str]) -> None:
        """Deletes copies, several at once."""

        def delete(key: str, hold: Hold) -> None:
            row = self._row[self.earlier[key].file_name]
            hold(0 if row < 0 else self._pool.count_file_bytes(row))
            self.delete(key)

        with ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="copies") as executor:
            for _ in prefetch_within(_MAX_BYTES, executor, delete, keys, ahead=_MAX_THREADS):
                pass

    def warn(self) -> None:
        """Names a file that was kept."""
        if self.kept:
            logger.warning(
                "In %s/%s, %s. The first is %s.",
                self._output.uri,
                FOLDER,
                describe_kept(len(self.kept)),
                shorten(min(self.kept)),
            )

    def _find(self, key: str) -> str | None:
        """The digest of what lies at the place of a copy."""
        return compute_digest(self._output, key) if key in self.present else None

    def _is_listed(self, key: str, digest: str) -> bool:
        return key in self.earlier and self.earlier[key].sha256 == digest

    def _read_image(self, key: str) -> str | None:
        """The digest of the image of an earlier copy; None if it is not among the images, or cannot be read."""
        file_name = self.earlier[key].file_name
        row = self._row[file_name]
        if row < 0 or self._source is None:
            return None
        try:
            return hashlib.sha256(self._source.read(file_name, self._pool.etag[row] or None)).hexdigest()
        except OSError:  # then nothing proves that it is a copy
            return None


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
    row_of = dict(zip(picks, pool.file_names.find(picks).tolist(), strict=True))
    keys = {file_name: FOLDER + path for file_name, path in paths.assign_copies(picks).items()}
    copies = _Copies(output, source, pool)
    earlier = copies.earlier
    digests = {key: earlier[key].sha256 if key in earlier else None for key in keys.values()}

    def copy(file_name: str, hold: Hold) -> str | None:
        key, row = keys[file_name], row_of[file_name]
        hold(pool.count_file_bytes(row))
        try:
            data = source.read(file_name, pool.etag[row] or None)
        except OSError as error:
            copies.delete(key, compares=False)  # may be from an earlier run, with other content
            return error.strerror or one_line(error)
        digest = digests[key] = hashlib.sha256(data).hexdigest()
        copies.write(key, data, digest)
        return None

    copies.delete_all(earlier.keys() - keys.values())
    # Before the copies, so that the list also has those of an interrupted run, but not the files of others.
    own = {name: key for name, key in keys.items() if key in earlier or key not in copies.present}
    _write_list(output, own, digests)
    with ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="copies") as executor:
        problems = list(prefetch_within(_MAX_BYTES, executor, copy, picks, ahead=_MAX_THREADS))
    failed = {name: problem for name, problem in zip(picks, problems, strict=True) if problem is not None}
    _write_list(output, {name: keys[name] for name in picks if name not in failed}, digests)
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
    copies.warn()
    return len(picks) - len(failed)


def remove_copies(output: Storage, source: Source | None, pool: Pool) -> None:
    """Removes the copies of an earlier run, for a run that copies nothing.

    Args:
        output: Folder of the results.
        source: The input; None if it cannot be read.
        pool: The images.

    Raises:
        JobError: If the input or the output cannot be used.
    """
    if output.stat(LIST) is None:
        return
    copies = _Copies(output, source, pool)
    copies.delete_all(copies.earlier)
    copies.warn()
    if copies.earlier:
        output.delete(LIST)  # last, so that the next run removes what an interrupted one has left


def _write_list(output: Storage, copies: Mapping[str, str], digests: Mapping[str, str | None]) -> None:
    rows = ({"file_name": file_name, "copy": key, "sha256": digests[key]} for file_name, key in copies.items())
    output.write(LIST, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def _read_list(output: Storage) -> dict[str, _Listed]:
    """Reads the copies of an earlier run, by their keys."""
    if output.stat(LIST) is None:
        return {}
    try:
        rows = [json.loads(line) for line in read_required(output, LIST).decode().split("\n") if line]
        names = [row["file_name"] if is_text(row["file_name"]) else "" for row in rows]
        listed = {row["copy"]: _Listed(name, row["sha256"]) for name, row in zip(names, rows, strict=True)}
    except (ValueError, KeyError, TypeError):
        logger.warning(
            "%s/%s is not a list of copies, so copies of an earlier run are not removed: delete those in %s yourself.",
            output.uri,
            LIST,
            FOLDER,
        )
        return {}
    # Nothing outside the folder is removed, even if the list names it.
    return {key: copy for key, copy in listed.items() if isinstance(key, str) and paths.is_below(key, FOLDER)}
