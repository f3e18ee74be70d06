"""The folder that images come from and the folder that results go to."""

import contextlib
import os
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from job.errors import AccessDenied, SettingsError


@dataclass(frozen=True)
class Entry:
    """One file of a listing.

    Attributes:
        key: Path below the folder, with ``/`` between its elements.
        etag: Changes when the content does.
        size: Bytes.
    """

    key: str
    etag: str
    size: int


def _is_folder(each: os.DirEntry[str]) -> bool:
    try:
        return each.is_dir()
    except OSError:  # a link that leads round in a circle
        return False


class Folder:
    """A local folder.

    Attributes:
        root: Absolute path of the folder.
    """

    def __init__(self, path: str) -> None:
        self.root = Path(path).absolute()

    def list(self, *, outside: Path | None = None) -> Iterator[Entry]:
        """Yields all files below the folder, in no particular order; symbolic links are followed.

        Args:
            outside: A folder whose content is left out.

        Raises:
            SettingsError: The folder does not exist.
            AccessDenied: It, or a folder in it, may not be read.
        """
        seen: set[tuple[int, int]] = set()  # a link to a folder above would never end
        pending = [self.root]
        while pending:
            folder = pending.pop()
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in seen or folder == outside:
                    continue
                seen.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as entries:
                    for each in entries:
                        if _is_folder(each):
                            pending.append(Path(each.path))
                        elif entry := self._entry(each):
                            yield entry
            except PermissionError as error:
                raise AccessDenied(f"{folder} may not be read: {error.strerror}.") from None
            except (FileNotFoundError, NotADirectoryError):
                if folder == self.root:
                    raise SettingsError(f"{self.root} is not a folder.") from None

    def _entry(self, each: os.DirEntry[str]) -> Entry | None:
        """The entry of a file; None for what is no file, or is gone since the folder was read."""
        try:
            status = each.stat()
        except OSError:
            if not each.is_symlink():
                return None
            status = each.stat(follow_symlinks=False)  # a link to nowhere is listed, and fails when it is read
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            return None
        key = Path(each.path).relative_to(self.root).as_posix()
        # A name that is not UTF-8 fits into no table; escaped it does, and the image fails when it is read.
        key = key.encode("utf-8", "backslashreplace").decode()
        return Entry(key, f"{status.st_mtime_ns:x}-{status.st_size:x}", status.st_size)

    def read(self, key: str) -> bytes:
        """The whole content of a file.

        Raises:
            OSError: It cannot be read.
        """
        return (self.root / key).read_bytes()

    def exists(self, key: str) -> bool:
        """Whether there is such a file."""
        return (self.root / key).is_file()

    def write(self, key: str, data: bytes) -> None:
        """Writes a file whole or not at all: a reader, or a crash, never sees half of it.

        Raises:
            AccessDenied: The folder may not be written.
        """
        path = self.root / key
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
        """Removes a file; one that is not there is no error."""
        (self.root / key).unlink(missing_ok=True)
