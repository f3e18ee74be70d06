"""The result files of the output: the job replaces and deletes only what it wrote itself.

`.coralpick/files.json` names every result file with the SHA-256 of its content. It is written before the files, with
the digests of both the present and the new content, so that a killed run leaves no file that it does not name. It is
not with the parts, since these may be deleted to start again. A file that it does not name, or whose content has
another digest, belongs to a person:

- below ``exports/`` it stays as it is, with a warning. It may be an annotator's work.
- anywhere else it is moved to ``edited/<digest>/`` first, so that all results are those of one run.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from job.errors import LinkError
from job.names import quantify, shorten
from job.parts import FOLDER
from job.prefetch import prefetch
from job.spool import Spool
from job.storage import Entry, Storage, read_required
from job.storage.base import Content, keep_all
from job.usage import usage

logger = logging.getLogger(__name__)

_Digests = dict[str, list[str]]  # of the contents that the job wrote, by key; outside the class, which has a `list`

LEDGER_FOLDER = ".coralpick/"
LEDGER = LEDGER_FOLDER + "files.json"
EDITED = "edited/"
_PEOPLE_WORK_IN = "exports/"
_HAVE_OWN_LEDGERS = (FOLDER, ".lightly/", "selected/")
_STATUS = "status"  # begins the names of files that are written all the time, and that people only read
_MAX_THREADS = 32
_BLOCK_BYTES = 1 << 24  # of a large file, whose digest is computed by ranges


class OwnedOutput:
    """The output as a `Storage` that touches nobody's files.

    Attributes:
        uri: Place of the output, in the form that is shown.
    """

    def __init__(self, output: Storage) -> None:
        self.uri = output.uri
        self._output = output
        self._digests: _Digests | None = None  # read on first use
        self._written: dict[str, str] = {}
        self._kept: set[str] = set()

    def list(self, prefix: str = "", keep: Callable[[str], bool] = keep_all) -> Iterator[Entry]:
        """Yields files; see `Storage`."""
        return self._output.list(prefix, keep)

    def stat(self, key: str) -> Entry | None:
        """Returns the entry of one file; see `Storage`."""
        return self._output.stat(key)

    def read(self, key: str, etag: str | None = None) -> bytes:
        """Reads a whole file; see `Storage`."""
        return self._output.read(key, etag)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Reads a part of a file; see `Storage`."""
        return self._output.read_range(key, start, length)

    def write(self, key: str, data: Content) -> None:
        """Writes a file, unless it has this content; see `Storage` and, for files of people, the module."""
        if key.startswith(_HAVE_OWN_LEDGERS):
            self._put(key, data)
        else:
            self._write({key: data}, {key} if self._output.stat(key) else ())

    def delete(self, key: str) -> None:
        """Deletes a file; see `Storage` and, for files of people, the module."""
        if key.startswith((*_HAVE_OWN_LEDGERS, _STATUS)):
            self._output.delete(key)
        elif self._output.stat(key) is not None:
            self._delete_own(key)

    def has_written(self, key: str) -> bool:
        """Whether this run or an earlier one wrote, or began to write, a file of this name."""
        return key in self._read_ledger()

    def write_all(self, files: Mapping[str, bytes], folder: str, *, keeps: Collection[str] = ()) -> None:
        """Writes the files of a folder, several at once, and deletes those that an earlier run wrote there.

        Args:
            files: Contents by key, all below the folder.
            folder: The folder, ending in ``/``.
            keeps: Keys below it that are not deleted, since another writer does so.

        Raises:
            JobError: If the output cannot be used.
        """
        stale = [key for key in self._read_ledger() if key.startswith(folder) and key not in {*files, *keeps}]
        present = {entry.key for entry in self._output.list(folder)}
        self._write(files, present)
        with ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="files") as executor:
            for _ in prefetch(executor, self._delete_own, (key for key in stale if key in present), ahead=_MAX_THREADS):
                pass
        for key in stale:
            self._read_ledger().pop(key)

    def _write(self, files: Mapping[str, Content], present: Collection[str]) -> None:
        digests, others = self._read_ledger(), self._read_others()
        new = {key: _compute_sha256(data) for key, data in files.items()}
        for key, digest in new.items():
            digests[key] = list(dict.fromkeys([*digests.get(key, []), *others.get(key, []), digest]))
        self._write_ledger()

        def write(key: str) -> None:
            current = self._compute_digest(key) if key in present else None
            if current == new[key] or not self._may_replace(key, current):
                return
            try:
                self._put(key, files[key])
            except LinkError:
                if not key.startswith(_PEOPLE_WORK_IN):
                    raise
                self._kept.add(key)

        with ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="files") as executor:
            for _ in prefetch(executor, write, files, ahead=_MAX_THREADS):
                pass
        self._written |= new

    def _put(self, key: str, data: Content) -> None:
        self._output.write(key, data)
        usage.add_written(len(data))

    def finish(self) -> None:
        """Forgets the contents that this run has replaced, and names the files of people that it met.

        Raises:
            JobError: If the output cannot be used.
        """
        digests = self._read_ledger()
        digests |= {key: [digest] for key, digest in self._written.items()}
        self._write_ledger()
        if self._kept:
            logger.warning(
                "In %s, %s, without the results of this run. The first is %s. Delete or move what was changed, and run "
                "`select` again to have it written.",
                self.uri,
                describe_kept(len(self._kept)),
                shorten(min(self._kept)),
            )

    def _compute_digest(self, key: str) -> str | None:
        """Computes the digest of a file, block by block; None if it was deleted meanwhile."""
        try:
            entry = self._output.stat(key)
            if entry is None or entry.size <= _BLOCK_BYTES:
                return hashlib.sha256(self._output.read(key)).hexdigest()
            digest = hashlib.sha256()
            for start in range(0, entry.size, _BLOCK_BYTES):
                length = min(_BLOCK_BYTES, entry.size - start)
                digest.update(self._output.read_range(key, start, length))
            return digest.hexdigest()
        except FileNotFoundError:
            return None

    def _may_replace(self, key: str, digest: str | None) -> bool:
        """Whether a file may be replaced or deleted. A person's file is kept, or moved if results need its name."""
        if digest is None or digest in self._read_ledger().get(key, []):
            return True
        if key.startswith(_PEOPLE_WORK_IN):
            self._kept.add(key)
            return False
        moved = f"{EDITED}{digest[:8]}/{key}"
        self._output.write(moved, read_required(self._output, key))
        self._output.delete(key)  # of a link, the link
        logger.warning("%s/%s was not written by this job, or was changed: it is now %s.", self.uri, key, moved)
        return True

    def _delete_own(self, key: str) -> None:
        if self._may_replace(key, self._compute_digest(key)):
            self._output.delete(key)

    def _read_ledger(self) -> _Digests:
        if self._digests is None:
            self._digests = _parse(read_required(self._output, LEDGER)) if self._output.stat(LEDGER) else {}
            if self._digests is None:
                logger.warning("%s/%s is damaged: existing files are treated as the work of others.", self.uri, LEDGER)
                self._digests = {}
        return self._digests

    def _read_others(self) -> _Digests:
        """Reads what the ledger says now: of several shards, two that finish at once may both write the results."""
        try:
            return _parse(self._output.read(LEDGER)) or {}
        except FileNotFoundError:
            return {}

    def _write_ledger(self) -> None:
        self._put(LEDGER, json.dumps(self._digests, indent=0, sort_keys=True).encode())


def _compute_sha256(data: Content) -> str:
    return data.sha256() if isinstance(data, Spool) else hashlib.sha256(data).hexdigest()


def describe_kept(count: int) -> str:
    """Says how many files of people are kept, for a message."""
    return quantify(
        count,
        "file was changed by someone else and stays as it is",
        "files were changed by someone else and stay as they are",
    )


def _parse(data: bytes) -> _Digests | None:
    try:
        content = json.loads(data)
        return {str(key): [str(digest) for digest in digests] for key, digests in content.items()}
    except (ValueError, AttributeError, TypeError):
        return None
