"""Folders of this machine."""

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from job.errors import AccessDenied, SettingsError
from job.storage.base import Entry, keep_all


class LocalFolder:
    """A local folder; `job.storage.base.Storage` says what its methods do.

    Attributes:
        uri: Absolute path of the folder.
    """

    def __init__(self, path: str) -> None:
        self._root = Path(os.path.abspath(path))  # noqa: PTH100  # without `..`, and without following links
        self.uri = str(self._root)

    def list(self, prefix: str = "", keep: Callable[[str], bool] = keep_all) -> Iterator[Entry]:
        """Yields the files below the folder; symbolic links are followed."""
        if not self._root.is_dir():
            raise SettingsError(f"{self._root} is not a folder.")
        seen: set[tuple[int, int]] = set()  # a link to a folder above would never end
        pending = [self._root / prefix]
        while pending:
            folder = pending.pop()
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as entries:
                    for each in entries:
                        if _is_folder(each):
                            pending.append(Path(each.path))
                        elif keep(key := self._key(each)) and (entry := _entry(key, each)):
                            yield entry
            except PermissionError as error:
                raise AccessDenied(f"{folder} may not be read: {error.strerror}.") from None
            except (FileNotFoundError, NotADirectoryError):  # gone since its parent was read
                continue

    def _key(self, each: os.DirEntry[str]) -> str:
        # A name that is not UTF-8 fits into no table; escaped it does, and the image fails when it is read.
        return Path(each.path).relative_to(self._root).as_posix().encode("utf-8", "backslashreplace").decode()

    def _path(self, key: str) -> Path:
        if "\0" in key:  # which Python refuses in another way
            raise FileNotFoundError(errno.ENOENT, "no file can have such a name")
        return self._root / key

    def stat(self, key: str) -> Entry | None:
        """The entry of one file."""
        try:
            status = self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise AccessDenied(f"{self._root / key} cannot be looked at: {error.strerror}.") from None
        return Entry(key, _etag(status), status.st_size) if stat.S_ISREG(status.st_mode) else None

    def read(self, key: str, etag: str | None = None) -> bytes:
        """The whole content of a file."""
        with self._path(key).open("rb") as file:
            data = file.read()
            if etag and _etag(os.fstat(file.fileno())) != etag:
                raise OSError(errno.ESTALE, "it has changed since the listing")
            return data

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Some bytes of a file."""
        with (self._root / key).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def write(self, key: str, data: bytes) -> None:
        """Writes a file whole or not at all."""
        path = self._root / key
        # Another process may be writing the same file; each has a temporary file of its own.
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                temporary.unlink(missing_ok=True)
            raise AccessDenied(f"{path} cannot be written: {error.strerror}.") from error

    def delete(self, key: str) -> None:
        """Removes a file."""
        try:
            (self._root / key).unlink(missing_ok=True)
        except OSError as error:
            raise AccessDenied(f"{self._root / key} cannot be removed: {error.strerror}.") from error


def _is_folder(each: os.DirEntry[str]) -> bool:
    try:
        return each.is_dir()
    except OSError:  # a link that leads round in a circle
        return False


def _entry(key: str, each: os.DirEntry[str]) -> Entry | None:
    """The entry of a file; None for what is no file, or is gone since the folder was read."""
    try:
        status = each.stat()
    except OSError:
        if not each.is_symlink():
            return None
        try:
            status = each.stat(follow_symlinks=False)  # a link to nowhere is listed, and fails when it is read
        except OSError:
            return None
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        return None
    return Entry(key, _etag(status), status.st_size)


def _etag(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"
