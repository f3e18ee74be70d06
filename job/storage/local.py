"""Folders on this machine."""

import contextlib
import errno
import fcntl
import logging
import os
import re
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from job.errors import AccessDenied, LinkError, ServiceUnavailable, SettingsError
from job.names import quantify
from job.retry import Patience
from job.spool import Spool
from job.storage.base import Content, Entry, keep_all, refuse_size
from job.storage.clutter import is_clutter_folder
from job.storage.local_faults import Faults, explain, is_absent, may_pass

T = TypeVar("T")

logger = logging.getLogger(__name__)

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


class LocalFolder:
    """A local folder; `job.storage.base.Storage` describes the methods.

    Attributes:
        uri: Absolute path of the folder.
    """

    def __init__(
        self,
        path: str,
        *,
        follows_links: bool = True,
        stop: threading.Event | None = None,
        patience: Patience | None = None,
        max_bytes: int | None = None,
    ) -> None:
        """Opens a folder.

        Args:
            path: The folder. It may be a symbolic link itself.
            follows_links: Whether symbolic links below it count as what they lead to. Otherwise they are not listed,
                and `write` and `delete` refuse to go through them.
            stop: When set, waiting for the file system ends.
            patience: How long to try.
            max_bytes: Larger files are not read; None for no limit.
        """
        self._root = Path(os.path.abspath(path))  # noqa: PTH100  # without `..`, but with symbolic links as they are
        self._follows_links = follows_links
        self._max_bytes = max_bytes
        self._faults = Faults(stop or threading.Event(), patience or Patience())
        self._written: set[Path] = set()  # folders
        self.uri = str(self._root)

    def list(self, prefix: str = "", keep: Callable[[str], bool] = keep_all) -> Iterator[Entry]:
        """Yields the files below the folder.

        Folders of clutter are left out; often they cannot be read. Other folders that cannot be read are skipped with a
        warning, unless nothing else was there.
        """
        if not self._is_folder():
            self._check_not_removed()
            raise SettingsError(f"{self._root} is not a folder.")
        if self._find_link(self._root / prefix / "file"):
            return
        seen: set[tuple[int, int]] = set()  # without it, a link to a parent folder would never end
        pending, is_empty = [self._root / prefix], True
        problems: list[str] = []
        repeated: set[Path] = set()
        while pending:
            folder = pending.pop()
            try:
                status = folder.stat()
                identity = status.st_dev, status.st_ino
                if identity in seen:
                    continue
                with os.scandir(folder) as entries:
                    for item in entries:
                        if not self._follows_links and item.is_symlink():
                            continue
                        if _is_folder(item):
                            if not is_clutter_folder(item.name):
                                pending.append(Path(item.path))
                            continue
                        entry = _entry(key, item) if keep(key := self._key(item)) else None
                        is_empty = False
                        if entry:
                            yield entry
                seen.add(identity)
            except PermissionError as error:
                problems.append(f"Cannot read {folder}: {error.strerror}.")
            except (FileNotFoundError, NotADirectoryError):  # deleted since its parent was read
                continue
            except OSError as error:
                if folder in repeated or not may_pass(error):
                    raise explain(error, "read", folder) from None
                self._wait_for(folder)
                repeated.add(folder)
                pending.append(folder)
        if problems and is_empty:
            raise AccessDenied(problems[0])
        if problems:
            logger.warning(
                "%s skipped, since they cannot be read. The first: %s",
                quantify(len(problems), "folder is", "folders are"),
                problems[0],
            )

    def _is_folder(self) -> bool:
        try:
            return self._faults.run(self._root.is_dir)
        except OSError as error:  # such as a missing permission for a folder above it
            raise explain(error, "read", self._root) from None

    def _wait_for(self, folder: Path) -> None:
        """Waits until a folder can be read again."""

        def count() -> int:
            with os.scandir(folder) as entries:
                return sum(1 for _ in entries)

        try:
            self._faults.run(count)
        except OSError as error:
            raise explain(error, "read", folder) from None

    def _check_not_removed(self) -> None:
        """Checks that a folder which was written to is still there.

        Raises:
            ServiceUnavailable: If it is not.
        """
        if self._written and not self._root.exists():
            raise ServiceUnavailable(f"{self._root} was removed while the job ran: run the job again.")

    def _key(self, item: os.DirEntry[str]) -> str:
        # No table can hold a name that is not UTF-8. Escaped it can, and the image fails when it is read.
        return Path(item.path).relative_to(self._root).as_posix().encode("utf-8", "backslashreplace").decode()

    def _path(self, key: str) -> Path:
        if "\0" in key:  # Python would raise a ValueError
            raise FileNotFoundError(errno.ENOENT, "no file can have such a name")
        return self._root / key

    def _find_link(self, path: Path) -> Path | None:
        """Finds the first folder on the way to a file that is a symbolic link and not to be followed."""
        if self._follows_links:
            return None
        folders = reversed(path.parents[: len(path.parts) - len(self._root.parts) - 1])
        return next((folder for folder in folders if folder.is_symlink()), None)

    def _refuse_links(self, path: Path) -> None:
        """Refuses a file that a symbolic link below the folder leads to.

        Raises:
            LinkError: If there is such a link.
        """
        if link := self._find_link(path):
            raise LinkError(
                f"{link} is a symbolic link, and the job does not write through links in CORAL_OUTPUT: move it away."
            )

    def stat(self, key: str) -> Entry | None:
        """Returns the entry of one file."""
        try:
            path = self._path(key)
            status = self._run_read(path.stat)
        except OSError as error:
            if is_absent(error):
                return None
            if may_pass(error):  # of this file alone: it must not vanish, and its read fails
                return Entry(key, "", 0)
            raise explain(error, "read", self._root / key) from None
        return Entry(key, _etag(status), status.st_size) if stat.S_ISREG(status.st_mode) else None

    def read(self, key: str, etag: str | None = None) -> bytes:
        """Reads a whole file."""
        path = self._path(key)

        def read() -> bytes | None:
            with path.open("rb") as file:
                if self._is_changed(file.fileno(), etag):
                    return None
                data = file.read() if self._max_bytes is None else file.read(self._max_bytes + 1)
                return None if self._is_changed(file.fileno(), etag) else data

        data = self._run_read(read)
        if data is None:
            raise OSError(errno.ESTALE, "it has changed since the listing")
        refuse_size(len(data), self._max_bytes)
        return data

    def _is_changed(self, file: int, etag: str | None) -> bool:
        return bool(etag) and _etag(os.fstat(file)) != etag

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Reads a part of a file."""

        def read() -> bytes:
            with (self._root / key).open("rb") as file:
                file.seek(start)
                return file.read(length)

        return self._run_read(read)

    def _run_read(self, read: Callable[[], T]) -> T:
        """Runs a read. Its failure concerns one file alone, unless the folder cannot be read either."""
        try:
            return self._faults.run(read)
        except OSError as error:
            if may_pass(error):
                self._wait_for(self._root)
            raise

    def write(self, key: str, data: Content) -> None:
        """Writes a file whole or not at all."""
        path = self._root / key
        self._refuse_links(path)
        if not self._follows_links and path.is_symlink():
            raise LinkError(f"{path} is a symbolic link, which the job does not replace: move it away.")
        self._check_not_removed()
        try:
            self._faults.run(lambda: self._write(path, data), len(data))
        except OSError as error:
            raise explain(error, "write", path) from error

    def _write(self, path: Path, data: Content, attempts: int = 3) -> None:
        # Another process may write the same file at the same time: each has its own temporary file.
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent not in self._written:
                _remove_abandoned(path.parent)
            with temporary.open("wb") as file:
                _lock(file.fileno())
                for block in data.blocks() if isinstance(data, Spool) else (data,):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
            self._written.add(path.parent)
        except FileNotFoundError:  # another process has just removed the folder or the temporary file
            if attempts == 1:
                raise
            self._write(path, data, attempts - 1)
        except OSError:
            with contextlib.suppress(OSError):  # the first error is the one to report
                temporary.unlink(missing_ok=True)
            raise

    def delete(self, key: str) -> None:
        """Deletes a file; of a symbolic link, the link itself."""
        path = self._root / key
        self._refuse_links(path)
        try:
            self._faults.run(lambda: path.unlink(missing_ok=True))
        except OSError as error:
            raise explain(error, "delete", path) from error


def _lock(file: int) -> bool:
    """Locks a file for this process; returns whether that succeeded. Not all file systems have locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_abandoned(folder: Path) -> None:
    """Deletes the temporary files of processes that were killed: nobody holds their locks any more."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        abandoned = [entry.path for entry in entries if _TEMPORARY.fullmatch(entry.name)]
        for path in abandoned:
            with contextlib.suppress(OSError), Path(path).open("rb+") as file:
                if _lock(file.fileno()):
                    Path(path).unlink()


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a circle of symbolic links
        return False


def _entry(key: str, item: os.DirEntry[str]) -> Entry | None:
    """Returns the entry of a file; None if it is not a file, or was deleted since the folder was read.

    Raises:
        PermissionError: If the folder may be listed, but nothing in it may be looked at.
    """
    try:
        status = item.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            with contextlib.suppress(OSError):  # a broken link is listed, and fails when it is read
                status = item.stat()
    except PermissionError:
        raise
    except FileNotFoundError:
        return None
    except OSError:  # it must not vanish: its read fails
        return Entry(key, "", 0)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        return None
    return Entry(key, _etag(status), status.st_size)


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"
