"""Folders on this machine."""

import contextlib
import errno
import logging
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from job.errors import AccessDenied, LinkError, SettingsError
from job.storage.base import Entry, keep_all
from job.storage.clutter import is_clutter_folder

logger = logging.getLogger(__name__)


class LocalFolder:
    """A local folder; `job.storage.base.Storage` describes the methods.

    Attributes:
        uri: Absolute path of the folder.
    """

    def __init__(self, path: str, *, follows_links: bool = True) -> None:
        """Opens a folder.

        Args:
            path: The folder. It may be a symbolic link itself.
            follows_links: Whether symbolic links below it count as what they lead to. Otherwise they are not listed,
                and `write` and `delete` refuse to go through them.
        """
        self._root = Path(os.path.abspath(path))  # noqa: PTH100  # without `..`, but with symbolic links as they are
        self._follows_links = follows_links
        self.uri = str(self._root)

    def list(self, prefix: str = "", keep: Callable[[str], bool] = keep_all) -> Iterator[Entry]:
        """Yields the files below the folder.

        Folders of clutter are left out; often they cannot be read. Other folders that cannot be read are skipped with a
        warning, unless nothing else was there.
        """
        if not self._is_folder():
            raise SettingsError(f"{self._root} is not a folder.")
        if self._find_link(self._root / prefix / "file"):
            return
        seen: set[tuple[int, int]] = set()  # without it, a link to a parent folder would never end
        pending, is_empty = [self._root / prefix], True
        problems: list[str] = []
        while pending:
            folder = pending.pop()
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as entries:
                    for item in entries:
                        if item.is_symlink() and not self._follows_links:
                            continue
                        if _is_folder(item):
                            if not is_clutter_folder(item.name):
                                pending.append(Path(item.path))
                            continue
                        entry = _entry(key, item) if keep(key := self._key(item)) else None
                        is_empty = False
                        if entry:
                            yield entry
            except PermissionError as error:
                problems.append(f"Cannot read {folder}: {error.strerror}.")
            except (FileNotFoundError, NotADirectoryError):  # deleted since its parent was read
                continue
        if problems and is_empty:
            raise AccessDenied(problems[0])
        if problems:
            logger.warning(
                "%d folders are skipped, since they cannot be read. The first: %s", len(problems), problems[0]
            )

    def _is_folder(self) -> bool:
        try:
            return self._root.is_dir()
        except PermissionError as error:  # of a folder above it
            raise AccessDenied(f"Cannot read {self._root}: {error.strerror}.") from None

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
            status = self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise AccessDenied(f"Cannot read {self._root / key}: {error.strerror}.") from None
        return Entry(key, _etag(status), status.st_size) if stat.S_ISREG(status.st_mode) else None

    def read(self, key: str, etag: str | None = None) -> bytes:
        """Reads a whole file."""
        with self._path(key).open("rb") as file:
            data = file.read()
            if etag and _etag(os.fstat(file.fileno())) != etag:
                raise OSError(errno.ESTALE, "it has changed since the listing")
            return data

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Reads a part of a file."""
        with (self._root / key).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def write(self, key: str, data: bytes) -> None:
        """Writes a file whole or not at all."""
        path = self._root / key
        self._refuse_links(path)
        if not self._follows_links and path.is_symlink():
            raise LinkError(f"{path} is a symbolic link, which the job does not replace: move it away.")
        # Another process may write the same file at the same time: each has its own temporary file.
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):  # the first error is the one to report
                temporary.unlink(missing_ok=True)
            raise AccessDenied(f"Cannot write {path}: {error.strerror}.") from error

    def delete(self, key: str) -> None:
        """Deletes a file; of a symbolic link, the link itself."""
        self._refuse_links(self._root / key)
        try:
            (self._root / key).unlink(missing_ok=True)
        except OSError as error:
            raise AccessDenied(f"Cannot delete {self._root / key}: {error.strerror}.") from error


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
