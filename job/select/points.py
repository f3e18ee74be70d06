"""Embeddings that are read in blocks, from an array or from a Parquet file that is larger than memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

Array = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

_VALUES_PER_BLOCK = 1 << 19  # 2 MB, which stays in a core's cache together with the results computed from it
_ROWS_PER_READ = 1 << 16
_BUFFER_BYTES = 1 << 20


@runtime_checkable
class Points(Protocol):
    """Embeddings that are read in blocks, from first to last.

    Attributes:
        shape: (n, d), the number of embeddings and their dimension.
    """

    shape: tuple[int, int]

    def blocks(self) -> Iterator[tuple[int, npt.NDArray[np.floating]]]:
        """Yields the index of the first row of each block, and the rows of the block."""

    def rows(self, indices: Sequence[int]) -> npt.NDArray[np.floating]:
        """Returns some rows, in the order of the indices."""


if TYPE_CHECKING:
    import torch

    Embeddings = npt.NDArray[np.floating] | Points | torch.Tensor


class ArrayPoints:
    """Embeddings in an array.

    Args:
        embeddings: (n, d).
    """

    def __init__(self, embeddings: npt.NDArray[np.floating]) -> None:
        self._embeddings = embeddings
        self.shape: tuple[int, int] = embeddings.shape[0], embeddings.shape[1]

    def blocks(self) -> Iterator[tuple[int, npt.NDArray[np.floating]]]:
        """Yields views of the array."""
        size = max(256, _VALUES_PER_BLOCK // max(1, self.shape[1]))
        for start in range(0, self.shape[0], size):
            yield start, self._embeddings[start : start + size]

    def rows(self, indices: Sequence[int]) -> npt.NDArray[np.floating]:
        """Returns some rows, in the order of the indices."""
        return self._embeddings[np.asarray(indices, np.int64)]


class ParquetPoints:
    """Embeddings in a Parquet file, of which only one block at a time is in memory.

    Args:
        path: Path of the file.
        column: Column of the vectors: lists of floats, all of the same length.
    """

    def __init__(self, path: Path, column: str = "embedding") -> None:
        self._path, self._column = path, column
        with self._open() as file:
            first = next(file.iter_batches(1, columns=[column]), None)
            dimension = 0 if first is None or len(first) == 0 else len(first.column(0)[0])
            self.shape = (file.metadata.num_rows, dimension)

    def _open(self) -> pq.ParquetFile:
        # By default, pyarrow reads all row groups ahead and so holds the whole file in memory.
        return pq.ParquetFile(self._path, pre_buffer=False, buffer_size=_BUFFER_BYTES)

    def blocks(self) -> Iterator[tuple[int, npt.NDArray[np.floating]]]:
        """Yields blocks in the order of the file.

        Raises:
            ValueError: If a vector is missing or has another length.
        """
        start = 0
        with self._open() as file:
            for batch in file.iter_batches(_ROWS_PER_READ, columns=[self._column]):
                column = batch.column(0)
                values = column.flatten()
                if column.null_count or values.null_count or len(values) != len(column) * self.shape[1]:
                    raise ValueError(
                        f"rows {start} to {start + len(column)} of {self._path} must all have {self.shape[1]} values"
                    )
                yield start, values.to_numpy().reshape(len(column), self.shape[1])
                start += len(column)

    def rows(self, indices: Sequence[int]) -> npt.NDArray[np.floating]:
        """Returns some rows, in the order of the indices; reads the whole file."""
        wanted = np.asarray(indices, np.int64)
        result: npt.NDArray[np.floating] = np.empty((len(wanted), self.shape[1]), np.float32)
        for start, block in self.blocks() if len(wanted) else ():
            positions = np.flatnonzero((wanted >= start) & (wanted < start + len(block)))
            result = result.astype(block.dtype, copy=False)  # the same values as in `blocks`, to the last bit
            result[positions] = block[wanted[positions] - start]
        return result


def lengths(vectors: npt.NDArray[np.floating]) -> Array:
    """(n,) Euclidean lengths; the length of a row does not depend on the other rows."""
    exact = vectors.astype(np.float64)  # if einsum converts the values itself, the order of its sums depends on the row
    result: Array = np.sqrt(np.einsum("ij,ij->i", exact, exact))
    return result


def to_unit_length(vectors: npt.NDArray[np.floating]) -> Vectors:
    """Scales rows to Euclidean length 1; a row of zeros stays a row of zeros."""
    result = np.empty(vectors.shape, np.float32)
    step = max(1, _VALUES_PER_BLOCK // max(1, vectors.shape[1]))
    for start in range(
        0, len(vectors), step
    ):  # all at once, the values in double precision would take twice the memory
        rows = slice(start, start + step)
        length = lengths(vectors[rows])
        length[length == 0] = 1
        result[rows] = vectors[rows] / length[:, None]
    return result


def find_distinct(vectors: Vectors) -> npt.NDArray[np.int64]:
    """Row of the first occurrence of each distinct vector, in rising order."""
    first: dict[bytes, int] = {}
    for row, vector in enumerate(vectors):
        first.setdefault(vector.tobytes(), row)
    return np.array(list(first.values()), np.int64)
