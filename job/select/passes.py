"""The pass over embeddings that are read in blocks, by numpy."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from job.select.points import Array, Points, Vectors, lengths, to_unit_length
from job.select.shortlist import MAX_LENGTH, MIN_LENGTH, Rows, Shortlist, Worth, find_zero_rows, slack

_MAX_CENTERS = 256
# Largest deviation from 1 of the length of a row that was scaled to length 1 in single precision.
_UNIT_TOLERANCE = 2e-7


class ArrayPass:
    """A pass in numpy, block by block. It keeps 4 bytes per row, and 4 more if the rows are not of unit length.

    Args:
        points: The embeddings.
        worth: What they are worth.
        start: Number of the first row, by which errors count.
    """

    def __init__(self, points: Points, worth: Worth, start: int = 0) -> None:
        self._points, self._worth, self.shape, self._start = points, worth, points.shape, start
        count, dimension = points.shape
        self._slack = slack(dimension)
        self._closest = np.full(count, -1, np.float32)
        self._scale: npt.NDArray[np.float32] | None = None
        self._checked = False

    def read(self, rows: Sequence[int]) -> Vectors:
        """See `job.select.shortlist.Pass`."""
        return to_unit_length(self._points.rows(rows))

    def choose_first(self) -> tuple[int, float] | None:
        """See `job.select.shortlist.Pass`."""
        return self._worth.choose_first()

    def shortlist(self, centers: Vectors, forbidden: Rows, size: int) -> Shortlist:
        """See `job.select.shortlist.Pass`."""
        worth = self._worth
        worth.allowed[forbidden] = False
        highest = _Highest(size, worth)
        for start, block in self._points.blocks():
            rows = slice(start, start + len(block))
            if not self._checked:
                self._check_lengths(block, rows)
            if len(centers):
                self._merge_centers(centers, block.astype(np.float32, copy=False), rows)
            square = self._closest[rows].astype(np.float64)
            square *= -2
            square += 2 + self._slack
            highest.add(start, block, worth.evaluate(np.maximum(square, 0, out=square), rows))
        self._checked = True
        best, upper, vectors, bound = highest.best()
        return Shortlist(best, to_unit_length(vectors), worth.take(best), upper, bound)

    def _merge_centers(self, centers: Vectors, block: Vectors, rows: slice) -> None:
        """Raises the rows' `job.select.shortlist.cosines`; those of rows beyond single precision stay unknown."""
        so_far = self._closest[rows]
        closest = so_far if self._scale is None else np.full(len(block), -np.inf, np.float32)
        for start in range(0, len(centers), _MAX_CENTERS):
            np.maximum(closest, (centers[start : start + _MAX_CENTERS] @ block.T).max(axis=0), out=closest)
        with_zeros = len(find_zero_rows(centers)) > 0
        scale = None if self._scale is None else self._scale[rows]
        if scale is not None:
            closest *= scale
        if with_zeros:
            np.maximum(closest, 0.5, out=closest)
        if scale is not None:
            closest[scale == 0] = 1.0 if with_zeros else 0.5
            closest[scale < 0] = -1
            np.maximum(so_far, closest, out=so_far)

    def _check_lengths(self, block: npt.NDArray[np.floating], rows: slice) -> None:
        """Checks that rows are finite, and keeps the reciprocals of their lengths.

        A row of zeros has 0 instead, and a row beyond single precision -1. If all rows have length 1, nothing is kept.

        Raises:
            ValueError: If a row is not finite.
        """
        length = lengths(block)
        if not np.isfinite(length).all():
            row = self._start + rows.start + int(np.isfinite(length).argmin())
            raise ValueError(f"embeddings must be finite: row {row} is not")
        if self._scale is None:
            if (np.abs(length - 1) < _UNIT_TOLERANCE).all():
                return
            self._scale = np.ones(len(self._closest), np.float32)
        extreme = (length < MIN_LENGTH) | (length > MAX_LENGTH)
        scale = np.where(extreme, -1, 1 / np.where(extreme, 1, length))
        scale[length == 0] = 0
        self._scale[rows] = scale


class _Highest:
    """Keeps the rows with the highest values from consecutive blocks."""

    def __init__(self, size: int, worth: Worth) -> None:
        self._size, self._worth = size + 1, worth
        self._threshold = 0.0
        self._rows: list[Rows] = []
        self._values: list[Array] = []
        self._vectors: list[npt.NDArray[np.floating]] = []
        self._count = 0

    def add(self, start: int, block: npt.NDArray[np.floating], values: Array) -> None:
        """Adds the rows of a block.

        Args:
            start: Index of the first row.
            block: (m, d) embeddings of the rows.
            values: (m,) values of the rows.
        """
        # Without ranks, a later row of equal value comes after the earlier ones, so a full list does not need it.
        strict = self._count >= self._size and self._worth.rank is None
        candidates = np.flatnonzero(values > self._threshold if strict else values >= self._threshold)
        if len(candidates) == 0:
            return
        self._rows.append(candidates + start)
        self._values.append(values[candidates])
        self._vectors.append(block[candidates])
        self._count += len(candidates)
        if self._count > 4 * self._size:
            self._prune()

    def _prune(self) -> None:
        """Keeps only the highest rows, highest first."""
        rows, values = np.concatenate(self._rows), np.concatenate(self._values)
        order = np.lexsort((self._worth.get_ranks(rows), -values))[: self._size]
        self._rows, self._values = [rows[order]], [values[order]]
        self._vectors = [np.concatenate(self._vectors)[order]]
        self._count = len(order)
        if self._count == self._size:
            self._threshold = float(values[order[-1]])

    def best(self) -> tuple[Rows, Array, npt.NDArray[np.floating], tuple[float, int]]:
        """Rows, values and vectors of the `size` highest, highest first; value and rank of the next one."""
        if not self._rows:
            return np.empty(0, np.int64), np.empty(0), np.empty((0, 1), np.float32), (-1.0, 0)
        self._prune()
        rows, values, vectors = self._rows[0], self._values[0], self._vectors[0]
        if len(rows) < self._size:
            return rows, values, vectors, (-1.0, 0)
        bound = float(values[-1]), int(self._worth.get_ranks(rows[-1:])[0])
        return rows[:-1], values[:-1], vectors[:-1], bound
