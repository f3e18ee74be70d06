"""The result files of the output: the job replaces and deletes only what it wrote itself.

`.coralpick/files.json` names every result file with the SHA-256 of its content. It is written before the files, with
the digests of both the present and the new content, so that a killed run leaves no file that it does not name. It is
not with the parts, since these may be deleted to start again. A file that it does not name, or whose content has
another digest, belongs to a person:

- below ``exports/`` it stays as it is, with a warning. It may be an annotator's work.
- anywhere else it is moved to ``edited/<digest>/`` first, so that all results are those of one run.

Several processes may write the same results at once: of several shards, two that finish together, or a run and one that
was taken for killed. So each adds to what the ledger says now, and looks into it again before it takes a file for a
person's. A run forgets only what the ledger named when the run began, of files that it has written or deleted since.
What others added meanwhile stays: if they are killed, the next run knows their files.

Two windows are left, since no store can compare, write and move in one step:

- What a process adds to the ledger may be missing there for a while: until its next write, if another read the ledger
  before and wrote it after; from the end of another that began after the addition, until its own end. If another meets
  its file meanwhile, or if it is killed before, the file is taken for a person's: it is kept or moved, not lost.
- An edit between the last look at a file and its replacement is lost. While a file is moved, however large it is, each
  edit before the deletion is seen, and moved as well.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from job.errors import LinkError
from job.names import quantify, shorten
from job.parts import FOLDER
from job.prefetch import prefetch
from job.spool import Spool
from job.storage import Entry, Storage, expect_readable, read_required
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
_BLOCK_BYTES = 1 << 24  # of a large file, which is read by ranges


class OwnedOutput:
    """The output as a `Storage` that touches nobody's files.

    Attributes:
        uri: Place of the output, in the form that is shown.
    """

    def __init__(self, output: Storage) -> None:
        self.uri = output.uri
        self._output = output
        self._digests: _Digests | None = None  # read on first use
        self._at_begin: _Digests = {}
        self._forgotten: dict[str, set[str]] = {}
        self._seen: Entry | None = None  # the ledger when others were last asked for what they added
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
            self._forget(key, self._read_ledger().get(key, []))

    def _write(self, files: Mapping[str, Content], present: Collection[str]) -> None:
        digests = self._read_ledger()
        new = {key: _compute_sha256(data) for key, data in files.items()}
        for key, digest in new.items():
            digests[key] = list(dict.fromkeys([*digests.get(key, []), digest]))
            self._forgotten.get(key, set()).discard(digest)
        self._write_ledger()

        def write(key: str) -> None:
            current = compute_digest(self._output, key) if key in present else None
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
        """Forgets the earlier contents of what this run has written, and names the files of people that it met.

        Raises:
            JobError: If the output cannot be used.
        """
        self._read_ledger()
        for key, digest in self._written.items():
            self._forget(key, [earlier for earlier in self._at_begin.get(key, []) if earlier != digest])
        self._write_ledger()
        if self._kept:
            logger.warning(
                "In %s, %s, without the results of this run. The first is %s. Delete or move what was changed, and run "
                "`select` again to have it written.",
                self.uri,
                describe_kept(len(self._kept)),
                shorten(min(self._kept)),
            )

    def _may_replace(self, key: str, digest: str | None) -> bool:
        """Whether a file may be replaced or deleted. A person's file is kept, or moved if results need its name."""
        if digest is None or self._is_own(key, digest):
            return True
        if key.startswith(_PEOPLE_WORK_IN):
            self._kept.add(key)
            return False
        before, copy = self._output.stat(key), _copy(self._output, key)
        if copy is None or copy.sha256() != digest:  # it has changed since: whose is it now?
            return self._may_replace(key, None if copy is None else copy.sha256())
        moved = self._choose_place(key, digest)
        self._output.write(moved, copy)
        logger.warning("%s/%s was not written by this job, or was changed: it is now %s.", self.uri, key, moved)
        if self._output.stat(key) != before:  # it has changed while it was written, which may take minutes
            return self._may_replace(key, compute_digest(self._output, key))
        self._output.delete(key)  # of a link, the link
        return True

    def _choose_place(self, key: str, digest: str) -> str:
        """Chooses where a file is moved to: one of the same content may lie there, which a person may have changed."""
        folders = (EDITED + digest[:8] + (f"-{number}" if number > 1 else "") for number in itertools.count(1))
        places = (f"{folder}/{key}" for folder in folders)
        return next(place for place in places if compute_digest(self._output, place) in (None, digest))

    def _is_own(self, key: str, digest: str) -> bool:
        """Whether this job wrote a content: what others write is in the ledger before it is in the file."""
        if digest in self._read_ledger().get(key, []):
            return True
        entry = self._output.stat(LEDGER)
        if entry != self._seen:  # not for each of thousands of files that people changed
            self._take_in_others()
            self._seen = entry
        return digest in self._read_ledger().get(key, [])

    def _delete_own(self, key: str) -> None:
        if self._may_replace(key, compute_digest(self._output, key)):
            self._output.delete(key)

    def _read_ledger(self) -> _Digests:
        if self._digests is None:
            self._digests = _parse(read_required(self._output, LEDGER)) if self._output.stat(LEDGER) else {}
            if self._digests is None:
                logger.warning("%s/%s is damaged: existing files are treated as the work of others.", self.uri, LEDGER)
                self._digests = {}
            self._at_begin = dict(self._digests)
        return self._digests

    def _take_in_others(self) -> None:
        """Adds what the ledger says now, except what this run has forgotten itself."""
        digests, others = self._read_ledger(), None
        with expect_readable(self._output, LEDGER), contextlib.suppress(FileNotFoundError):
            others = _parse(self._output.read(LEDGER))
        for key, theirs in (others or {}).items():
            known = dict.fromkeys([*digests.get(key, []), *theirs])
            if left := [digest for digest in known if digest not in self._forgotten.get(key, ())]:
                digests[key] = left

    def _forget(self, key: str, forgotten: Collection[str]) -> None:
        digests = self._read_ledger()
        self._forgotten.setdefault(key, set()).update(forgotten)
        if left := [digest for digest in digests.pop(key, []) if digest not in forgotten]:
            digests[key] = left

    def _write_ledger(self) -> None:
        self._take_in_others()
        self._put(LEDGER, json.dumps(self._digests, indent=0, sort_keys=True).encode())


def compute_digest(output: Storage, key: str) -> str | None:
    """Computes the SHA-256 of a file, block by block; None if it does not exist, or was deleted meanwhile.

    Raises:
        AccessDenied: If the permission to read the file is missing.
        ServiceUnavailable: If it cannot be read.
    """
    digest = hashlib.sha256()
    with expect_readable(output, key), contextlib.suppress(FileNotFoundError):
        for block in _read_blocks(output, key):
            digest.update(block)
        return digest.hexdigest()
    return None


def _copy(output: Storage, key: str) -> Spool | None:
    """Copies a file to a temporary one, block by block; None if it does not exist."""
    copy = Spool()
    with expect_readable(output, key), contextlib.suppress(FileNotFoundError):
        for block in _read_blocks(output, key):
            copy.file.write(block)
        return copy
    return None


def _read_blocks(output: Storage, key: str) -> Iterator[bytes]:
    entry = output.stat(key)
    if entry is None:
        raise FileNotFoundError(errno.ENOENT, "it does not exist", key)
    if entry.size <= _BLOCK_BYTES:
        yield output.read(key)
        return
    for start in range(0, entry.size, _BLOCK_BYTES):
        yield output.read_range(key, start, min(_BLOCK_BYTES, entry.size - start))


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
