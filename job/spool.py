"""Temporary files: what is too large for memory, until it is part of the output.

They have no name, so they are gone when the process ends, however it ends. They lie in the folder of the variable
TMPDIR, or else in /tmp.
"""

import errno
import hashlib
import io
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from job.errors import ServiceUnavailable

_BLOCK_BYTES = 1 << 20
_BLOCK_VALUES = 1 << 19  # as in `job.select.points`
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _File(io.FileIO):
    """A file whose writes are whole, and whose errors say what to do."""

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        length = len(rest)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            raise _explain(error) from error
        return length

    def __del__(self) -> None:
        self.close()  # and so deletes it


class Spool:
    """Bytes in a temporary file.

    Attributes:
        file: The file, to be written from its beginning to its end.

    Raises:
        ServiceUnavailable: If there is no folder for temporary files, or later if it is full.
    """

    def __init__(self) -> None:
        try:
            with tempfile.TemporaryFile(prefix="coralpick-") as file:
                self.file = _File(os.dup(file.fileno()), "r+b")
        except OSError as error:
            raise _explain(error) from error

    def __len__(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def open(self) -> io.BufferedReader:
        """Opens the content for reading; several readers may be open at once."""
        return io.BufferedReader(_Reader(self), _BLOCK_BYTES)

    def blocks(self) -> Iterator[bytes]:
        """Yields the content in blocks of 1 MiB."""
        for start in range(0, len(self), _BLOCK_BYTES):
            yield os.pread(self.file.fileno(), _BLOCK_BYTES, start)

    def sha256(self) -> str:
        """Computes the digest of the content."""
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()


class _Reader(io.RawIOBase):
    """Reads a spool from a position of its own."""

    def __init__(self, spool: Spool) -> None:
        self._spool, self._position = spool, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._spool)}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = os.preadv(self._spool.file.fileno(), [buffer], self._position)
        self._position += count
        return count


class SpooledBytes(Sequence[bytes]):
    """The bytes of n images in a temporary file, written in any order. Of each image, 16 bytes are in memory.

    Args:
        count: Number of images; each is empty until it is written.

    Raises:
        ServiceUnavailable: If there is no room for the file.
    """

    def __init__(self, count: int) -> None:
        self._spool, self._end = Spool(), 0
        self._starts, self._sizes = np.zeros(count, np.int64), np.zeros(count, np.int64)

    def __len__(self) -> int:
        return len(self._starts)

    def write(self, number: int, data: bytes) -> None:
        """Writes the bytes of an image, each at most once.

        Raises:
            ServiceUnavailable: If the folder for temporary files is full.
        """
        self._starts[number], self._sizes[number] = self._end, len(data)
        self._end += self._spool.file.write(data)

    def __getitem__(self, number: Any) -> Any:
        return os.pread(self._spool.file.fileno(), int(self._sizes[number]), int(self._starts[number]))


class SpooledRows:
    """Rows of numbers in a temporary file: (n, d), of which only blocks are in memory.

    The selection reads them as `job.select.points.Points`. They are read, not mapped: mapped pages would count as
    memory of the process.

    Args:
        shape: (n, d) of the rows; all are 0 until they are written.
        dtype: Type of the numbers.

    Raises:
        ServiceUnavailable: If there is no room for the file.
    """

    def __init__(self, shape: tuple[int, int], dtype: npt.DTypeLike = np.float32) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._row_bytes = shape[1] * self.dtype.itemsize
        self._spool = Spool()
        try:
            self._spool.file.truncate(shape[0] * self._row_bytes)
        except OSError as error:
            raise _explain(error) from error

    def __len__(self) -> int:
        return self.shape[0]

    def write(self, start: int, rows: npt.NDArray[np.generic]) -> None:
        """Writes consecutive rows.

        Args:
            start: Index of the first one.
            rows: (m, d) the rows.
        """
        data = np.ascontiguousarray(rows, self.dtype).data.cast("B") if rows.size else memoryview(b"")
        offset = start * self._row_bytes
        try:
            while data:
                count = os.pwrite(self._spool.file.fileno(), data, offset)
                data, offset = data[count:], offset + count
        except OSError as error:
            raise _explain(error) from error

    def scatter(self, indices: npt.NDArray[np.int64], rows: npt.NDArray[np.generic]) -> None:
        """Writes rows to any places; consecutive ones at once.

        Args:
            indices: (m,) index of each row.
            rows: (m, d) the rows.
        """
        for begin, end in _find_runs(indices):
            self.write(int(indices[begin]), rows[begin:end])

    def read(self, start: int, stop: int) -> npt.NDArray[np.floating]:
        """Reads the rows from `start` to before `stop`."""
        result = np.empty((max(0, min(stop, self.shape[0]) - start), self.shape[1]), self.dtype)
        self._fill(result, start)
        return result

    def blocks(self) -> Iterator[tuple[int, npt.NDArray[np.floating]]]:
        """Yields the index of the first row of each block, and the rows of the block."""
        size = max(256, _BLOCK_VALUES // max(1, self.shape[1]))
        for start in range(0, self.shape[0], size):
            yield start, self.read(start, start + size)

    def rows(self, indices: Sequence[int]) -> npt.NDArray[np.floating]:
        """Returns some rows, in the order of the indices."""
        wanted = np.asarray(indices, np.int64)
        result = np.empty((len(wanted), self.shape[1]), self.dtype)
        for begin, end in _find_runs(wanted):
            self._fill(result[begin:end], int(wanted[begin]))
        return result

    def keep(self, indices: npt.NDArray[np.int64]) -> None:
        """Removes all other rows.

        Args:
            indices: The rows to keep, ascending.
        """
        size = max(256, _BLOCK_VALUES // max(1, self.shape[1]))
        for start in range(0, len(indices), size):  # a row never moves behind one that is still to be read
            self.write(start, self.rows(indices[start : start + size].tolist()))
        self.shape = (len(indices), self.shape[1])
        self._spool.file.truncate(len(indices) * self._row_bytes)

    def _fill(self, result: npt.NDArray[np.generic], start: int) -> None:
        view, offset = (result.data.cast("B") if result.size else memoryview(b"")), start * self._row_bytes
        while view:
            count = os.preadv(self._spool.file.fileno(), [view], offset)
            if count == 0:
                raise IndexError(f"the rows end before row {start + len(result)}")
            view, offset = view[count:], offset + count


def _find_runs(indices: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yields first and end position of each run of consecutive numbers."""
    ends = np.flatnonzero(np.diff(indices) != 1) + 1 if len(indices) else np.empty(0, np.int64)
    bounds = [0, *ends.tolist(), len(indices)] if len(indices) else [0]
    yield from itertools.pairwise(bounds)


def _explain(error: OSError) -> ServiceUnavailable:
    if error.errno in _FULL:
        return ServiceUnavailable(
            f"The folder for temporary files, {tempfile.gettempdir()}, is full: make room, or set TMPDIR to a folder "
            "on a larger disk."
        )
    return ServiceUnavailable(f"Cannot write temporary files: {error.strerror}. Set TMPDIR to a folder for them.")
