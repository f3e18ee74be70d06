"""Embeddings, wherever they lie: in an array, or in a Parquet file that is larger than memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

Array = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

_VALUES_IN_BLOCK = 1 << 19  # 2 MB, which stays in a core's cache with what is worked out from it
_ROWS_FROM_FILE = 1 << 16
_READ_AT_ONCE = 1 << 20


class Points(Protocol):
    """Embeddings that are read in blocks, from the first to the last.

    Attributes:
        shape: (n, d).
    """

    shape: tuple[int, int]

    def blocks(self) -> Iterator[tuple[int, npt.NDArray[np.floating]]]:
        """Yields the first row of each block, and its rows."""

    def rows(self, indices: Sequence[int]) -> npt.NDArray[np.floating]:
        """Some rows, in the order of the indices."""


class ArrayPoints:
    """Embeddings in an array."""

    def __init__(self, embeddings: npt.NDArray[np.floating]) -> None:
        self._embeddings = embeddings
        self.shape: tuple[int, int] = embeddings.shape[0], embeddings.shape[1]

    def blocks(self) -> Iterator[tuple[int, npt.NDArray[np.floating]]]:
        """Yields views of the array."""
        size = max(256, _VALUES_IN_BLOCK // max(1, self.shape[1]))
        for start in range(0, self.shape[0], size):
            yield start, self._embeddings[start : start + size]

    def rows(self, indices: Sequence[int]) -> npt.NDArray[np.floating]:
        """Some rows, in the order of the indices."""
        return self._embeddings[np.asarray(indices, np.int64)]


class ParquetPoints:
    """Embeddings in a Parquet file, of which only a block at a time is in memory.

    Args:
        path: The file.
        column: Its column of vectors, a list of floats of one length.
    """

    def __init__(self, path: Path, column: str = "embedding") -> None:
        self._path, self._column = path, column
        with self._open() as file:
            first = next(file.iter_batches(1, columns=[column]), None)
            dimension = 0 if first is None or len(first) == 0 else len(first.column(0)[0])
            self.shape = (file.metadata.num_rows, dimension)

    def _open(self) -> pq.ParquetFile:
        # By itself, pyarrow would read all row groups ahead, and hold the whole file.
        return pq.ParquetFile(self._path, pre_buffer=False, buffer_size=_READ_AT_ONCE)

    def blocks(self) -> Iterator[tuple[int, npt.NDArray[np.floating]]]:
        """Yields blocks as they come from the file.

        Raises:
            ValueError: A vector is missing, or has another length.
        """
        start = 0
        with self._open() as file:
            for batch in file.iter_batches(_ROWS_FROM_FILE, columns=[self._column]):
                column = batch.column(0)
                values = column.flatten()
                if column.null_count or values.null_count or len(values) != len(column) * self.shape[1]:
                    raise ValueError(f"rows {start} to {start + len(column)} of {self._path} are not all of one length")
                yield start, values.to_numpy().reshape(len(column), self.shape[1])
                start += len(column)

    def rows(self, indices: Sequence[int]) -> npt.NDArray[np.floating]:
        """Some rows, in the order of the indices; reads the whole file."""
        wanted = np.asarray(indices, np.int64)
        found: npt.NDArray[np.floating] = np.empty((len(wanted), self.shape[1]), np.float32)
        for start, block in self.blocks() if len(wanted) else ():
            here = np.flatnonzero((wanted >= start) & (wanted < start + len(block)))
            found = found.astype(block.dtype, copy=False)  # as `blocks` has them, to the last bit
            found[here] = block[wanted[here] - start]
        return found


def lengths(vectors: npt.NDArray[np.floating]) -> Array:
    """(n,) Euclidean lengths, each the same whatever rows stand beside it."""
    exact = vectors.astype(np.float64)  # einsum, left to convert by itself, sums in an order that depends on the row
    result: Array = np.sqrt(np.einsum("ij,ij->i", exact, exact))
    return result


def unit(vectors: npt.NDArray[np.floating]) -> Vectors:
    """Scales rows to Euclidean length 1; a row of zeros stays one."""
    length = lengths(vectors)
    length[length == 0] = 1
    return (vectors / length[:, None]).astype(np.float32)


def distinct(vectors: Vectors) -> npt.NDArray[np.int64]:
    """Rows of the first of each vector, in their order."""
    first: dict[bytes, int] = {}
    for row, vector in enumerate(vectors):
        first.setdefault(vector.tobytes(), row)
    return np.array(list(first.values()), np.int64)
