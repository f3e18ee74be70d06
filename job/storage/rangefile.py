"""A file in a store as a file object, for readers that need only some ranges of it."""

import io
from typing import Any

from job.storage import Storage, expect_readable


class RangeFile(io.RawIOBase):
    """Sends one request per read, for exactly the bytes of that read.

    Args:
        storage: Folder that holds the file.
        key: The file.
        size: Size of the file in bytes.
    """

    def __init__(self, storage: Storage, key: str, size: int) -> None:
        self._storage, self._key, self._size = storage, key, size
        self._position = 0

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Changes the position, as `io.IOBase.seek` does."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        """Returns the position in bytes."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer, or as much of it as the rest of the file; returns the number of bytes."""
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        with expect_readable(self._storage, self._key):
            data = self._storage.read_range(self._key, self._position, length)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
