"""The passes over embeddings that are read in blocks, by numpy."""

import numpy as np
import numpy.typing as npt

from job.select.points import Array, Points, Vectors, lengths, unit
from job.select.shortlist import LONGEST, SHORTEST, Rows, Shortlist, Worth, slack, zeros

_CENTERS_AT_ONCE = 256
# Lengths of rows that were scaled to 1 in single precision.
_NEARLY_ONE = 2e-7


class ArrayPass:
    """A pass in numpy, block by block. It keeps 4 bytes a row, and 4 more where the rows are not of length 1.

    Args:
        points: The embeddings.
    """

    def __init__(self, points: Points) -> None:
        self._points = points
        count, dimension = points.shape
        self._slack = slack(dimension)
        self._closest = np.full(count, -1, np.float32)
        self._scale: npt.NDArray[np.float32] | None = None
        self._checked, self._taken = False, 0

    def shortlist(self, centers: Vectors, worth: Worth, size: int) -> Shortlist:
        """See `job.select.shortlist.Pass`."""
        highest = _Highest(size, worth)
        new = centers[self._taken :]
        for start, block in self._points.blocks():
            rows = slice(start, start + len(block))
            if not self._checked:
                self._check(block, rows)
            if len(new):
                self._take_in(new, block.astype(np.float32, copy=False), rows)
            square = self._closest[rows].astype(np.float64)
            square *= -2
            square += 2 + self._slack
            highest.add(start, block, worth.of(np.maximum(square, 0, out=square), rows))
        self._checked, self._taken = True, len(centers)
        found, vectors, bound = highest.best()
        return Shortlist(found, unit(vectors), bound)

    def _take_in(self, centers: Vectors, block: Vectors, rows: slice) -> None:
        """Raises the rows' `job.select.shortlist.cosines`; of rows beyond single precision nothing is known."""
        known = self._closest[rows]
        closest = known if self._scale is None else np.full(len(block), -np.inf, np.float32)
        for start in range(0, len(centers), _CENTERS_AT_ONCE):
            np.maximum(closest, (centers[start : start + _CENTERS_AT_ONCE] @ block.T).max(axis=0), out=closest)
        nothing = len(zeros(centers)) > 0
        scale = None if self._scale is None else self._scale[rows]
        if scale is not None:
            closest *= scale
        if nothing:
            np.maximum(closest, 0.5, out=closest)
        if scale is not None:
            closest[scale == 0] = 1.0 if nothing else 0.5
            closest[scale < 0] = -1
            np.maximum(known, closest, out=known)

    def _check(self, block: npt.NDArray[np.floating], rows: slice) -> None:
        """Notes one over the lengths of rows: 0 for rows of zeros, -1 for those beyond single precision.

        Raises:
            ValueError: A row is not finite.
        """
        length = lengths(block)
        if not np.isfinite(length).all():
            raise ValueError(f"embeddings must be finite: row {rows.start + int(np.isfinite(length).argmin())} is not")
        if self._scale is None:
            if (np.abs(length - 1) < _NEARLY_ONE).all():
                return
            self._scale = np.ones(len(self._closest), np.float32)
        odd = (length < SHORTEST) | (length > LONGEST)
        scale = np.where(odd, -1, 1 / np.where(odd, 1, length))
        scale[length == 0] = 0
        self._scale[rows] = scale


class _Highest:
    """Keeps the rows of the highest values, of blocks that come one after the other."""

    def __init__(self, size: int, worth: Worth) -> None:
        self._size, self._worth = size + 1, worth
        self._threshold = 0.0
        self._rows: list[Rows] = []
        self._values: list[Array] = []
        self._vectors: list[npt.NDArray[np.floating]] = []
        self._count = 0

    def add(self, start: int, block: npt.NDArray[np.floating], values: Array) -> None:
        """Adds the rows of a block that begins at `start`, with their values."""
        # Without ranks, a later row of the same value comes behind.
        enough = self._count >= self._size and self._worth.rank is None
        found = np.flatnonzero(values > self._threshold if enough else values >= self._threshold)
        if len(found) == 0:
            return
        self._rows.append(found + start)
        self._values.append(values[found])
        self._vectors.append(block[found])
        self._count += len(found)
        if self._count > 4 * self._size:
            self._thin_out()

    def _thin_out(self) -> None:
        """Leaves the highest, highest first."""
        rows, values = np.concatenate(self._rows), np.concatenate(self._values)
        order = np.lexsort((self._worth.ranks(rows), -values))[: self._size]
        self._rows, self._values = [rows[order]], [values[order]]
        self._vectors = [np.concatenate(self._vectors)[order]]
        self._count = len(order)
        if self._count == self._size:
            self._threshold = float(values[order[-1]])

    def best(self) -> tuple[Rows, npt.NDArray[np.floating], tuple[float, int]]:
        """Rows and vectors of the highest but one, highest first; value and rank of that one."""
        if not self._rows:
            return np.empty(0, np.int64), np.empty((0, 1), np.float32), (-1.0, 0)
        self._thin_out()
        rows, vectors = self._rows[0], self._vectors[0]
        if len(rows) < self._size:
            return rows, vectors, (-1.0, 0)
        bound = float(self._values[0][-1]), int(self._worth.ranks(rows[-1:])[0])
        return rows[:-1], vectors[:-1], bound
