"""A file of which only the ranges that are needed are read."""

import io
from abc import abstractmethod


class RangedFile(io.RawIOBase):
    """A file that is read from its ranges.

    Args:
        size: Bytes of the file.
    """

    def __init__(self, size: int) -> None:
        self._size, self._position = size, 0

    @abstractmethod
    def read_from(self, start: int, length: int) -> bytes:
        """Returns bytes from `start` on: at least one, at most `length`, which is 1 or more and within the file."""

    def readable(self) -> bool:
        """Returns true."""
        return True

    def seekable(self) -> bool:
        """Returns true."""
        return True

    def tell(self) -> int:
        """Returns the place of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Sets the place of the next read, and returns it."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Reads on: one byte or more, unless the file ends."""
        rest = self._size - self._position
        length = rest if size < 0 else min(size, rest)
        data = self.read_from(self._position, length) if length > 0 else b""
        self._position += len(data)
        return data
