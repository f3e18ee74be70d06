"""What the job asks of the places that images come from and results go to.

Stores report a file that is not there as FileNotFoundError, one that may not be read as PermissionError, and one that
cannot be had for another reason of its own as OSError: each becomes a row with a reason. What concerns the whole store
is a `JobError` and ends the job.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a listing.

    Attributes:
        key: Path below the folder, with ``/`` between its elements.
        etag: Changes when the content does; empty where the file could not be asked for it.
        size: Bytes.
    """

    key: str
    etag: str
    size: int


MD5 = re.compile(r"[0-9a-f]{32}")  # what an ETag looks like that is one


def keep_all(key: str) -> bool:
    """Keeps every key of a listing."""
    return True


class Source(Protocol):
    """Files that can be listed and read.

    Attributes:
        uri: Where they are, in the form in which it is shown.
    """

    uri: str

    def list(self, prefix: str = "", keep: Callable[[str], bool] = keep_all) -> Iterator[Entry]:
        """Yields files in no particular order, and maybe twice.

        Args:
            prefix: A folder below this one to list instead, ending in ``/``; keys still begin with it. It need not
                exist.
            keep: Says by key which files to yield.

        Raises:
            SettingsError: The folder, or the bucket, does not exist.
            AccessDenied: It may not be listed.
            ServiceUnavailable: It cannot be reached.
        """
        ...

    def read(self, key: str, etag: str | None = None) -> bytes:
        """The whole content of a file, checked against what the store knows of it.

        Args:
            key: The file.
            etag: From its listing; content that has changed since is not returned.

        Raises:
            FileNotFoundError: There is no such file.
            PermissionError: It may not be read.
            OSError: It cannot be read, or has changed.
            AccessDenied: The store does not know the credentials.
            ServiceUnavailable: The store cannot be reached.
        """
        ...


class Storage(Source, Protocol):
    """A folder, local or in a bucket."""

    def stat(self, key: str) -> Entry | None:
        """The entry of one file; None if there is no such file.

        Raises:
            AccessDenied: The store does not tell.
            ServiceUnavailable: It cannot be reached.
        """
        ...

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Some bytes of a file that is known to have them; raises as `read` does."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Writes a file whole or not at all: a reader, or a crash, never sees half of it.

        Raises:
            AccessDenied: It may not be written.
            ServiceUnavailable: The store cannot be reached.
        """
        ...

    def delete(self, key: str) -> None:
        """Removes a file; one that is not there is no error.

        Raises:
            AccessDenied: It may not be removed.
            ServiceUnavailable: The store cannot be reached.
        """
        ...
