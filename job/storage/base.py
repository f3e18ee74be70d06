"""What the job needs from the places that images are read from and results are written to.

A store raises FileNotFoundError for a file that does not exist, PermissionError if the permission to read it is
missing, and another OSError if it cannot be read for a reason of its own. Each of these becomes a row with a reason.
A problem of the whole store is a `JobError` and ends the job.
"""

import errno
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from job.spool import Spool


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a listing.

    Attributes:
        key: Path below the folder, with ``/`` between its elements.
        etag: Text that changes when the content changes; empty if it could not be read.
        size: Bytes.
    """

    key: str
    etag: str
    size: int


Content = bytes | Spool  # of a file to write; a large one is in a temporary file

MD5 = re.compile(r"[0-9a-f]{32}")  # the form of an ETag that is an MD5 digest


def keep_all(key: str) -> bool:
    """Keeps every key of a listing."""
    return True


def refuse_size(size: int, limit: int | None) -> None:
    """Refuses a file that is larger than its reader can use. The size in a list of files may be wrong.

    Args:
        size: Bytes of the file, or the number of bytes that were read of it.
        limit: Most bytes that are used; None for no limit.

    Raises:
        OSError: If the file is larger.
    """
    if limit is not None and size > limit:
        raise OSError(errno.EFBIG, f"its size is above the limit of {limit:,} bytes")


def name_for_keep(key: str, size: int) -> str:
    """The name by which a listing of obstore asks whether to keep a file.

    obstore drops the ``/`` at the end of the empty object that marks a folder. An empty object without an extension is
    taken for such a marker here, so that it is not counted as a file of another kind.
    """
    return key if size or "." in key.rpartition("/")[2] else key + "/"


class Source(Protocol):
    """Files that can be listed and read.

    Attributes:
        uri: Place of the files, in the form that is shown.
    """

    uri: str

    def list(self, prefix: str = "", keep: Callable[[str], bool] = keep_all) -> Iterator[Entry]:
        """Yields files in no particular order, and possibly twice.

        Args:
            prefix: A folder below this one to list instead, ending in ``/``. Keys still begin with it. It need not
                exist.
            keep: Returns whether the file of a key is yielded.

        Raises:
            SettingsError: If the folder or the bucket does not exist.
            AccessDenied: If the permission to list it is missing.
            ServiceUnavailable: If the store cannot be reached.
        """
        ...

    def read(self, key: str, etag: str | None = None) -> bytes:
        """Reads a whole file and checks it against what the store knows of it.

        Args:
            key: The file.
            etag: ETag from the listing; content that has changed since is not returned.

        Raises:
            FileNotFoundError: If the file does not exist.
            PermissionError: If the permission to read the file is missing.
            OSError: If the file cannot be read, or has changed.
            AccessDenied: If the store does not accept the credentials.
            ServiceUnavailable: If the store cannot be reached.
        """
        ...

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Reads `length` bytes from `start` on, unchecked; raises what `read` raises.

        Of a shorter file, it returns the bytes that there are, or raises OSError.
        """
        ...


class Storage(Source, Protocol):
    """A folder, local or in a bucket."""

    def stat(self, key: str) -> Entry | None:
        """Returns the entry of one file, or None if the file does not exist.

        Raises:
            AccessDenied: If the permission to look at the file is missing.
            ServiceUnavailable: If the store cannot be reached.
        """
        ...

    def write(self, key: str, data: Content) -> None:
        """Writes a file whole or not at all: a reader never gets half of it, not even after a crash.

        Raises:
            AccessDenied: If the permission to write the file is missing.
            ServiceUnavailable: If the store cannot be reached.
        """
        ...

    def delete(self, key: str) -> None:
        """Deletes a file; does nothing if it does not exist.

        Raises:
            AccessDenied: If the permission to delete the file is missing.
            ServiceUnavailable: If the store cannot be reached.
        """
        ...
