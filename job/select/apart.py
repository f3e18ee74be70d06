"""Picks of one group keep a distance in one number, such as frames of one video in time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

# Positions may be rounded sums: two frames whose times differ by exactly the least distance are far enough apart.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Apart:
    """Which images are too near to a labelled or picked one of the same group.

    Attributes:
        groups: (n,) group of each image, such as a number for each video; negative for an image without one.
        positions: (n,) finite position in the group, such as seconds.
        least: Smallest difference of the positions of two picks of a group, above 0.
    """

    groups: Rows
    positions: npt.NDArray[np.float64]
    least: float

    def find_near(self, row: int) -> Rows:
        """Finds the images of the same group that are nearer than `least`, the image itself among them."""
        order, groups, positions = self._sorted
        if self.groups[row] < 0:
            return np.array([row])
        start, end = np.searchsorted(groups, [self.groups[row], self.groups[row] + 1])
        reach = self.least - _TOLERANCE
        ends = [self.positions[row] - reach, self.positions[row] + reach]
        first, last = start + np.searchsorted(positions[start:end], ends, side="left")
        return order[first : max(last, first)]

    @cached_property
    def _sorted(self) -> tuple[Rows, Rows, npt.NDArray[np.float64]]:
        order = np.lexsort((self.positions, self.groups))
        return order, self.groups[order], self.positions[order]


def find_forbidden(rows: Sequence[int], apart: Apart | None) -> Rows:
    """Labelled or picked images, and those that they keep away, if anything does."""
    if apart is None or not rows:
        return np.asarray(rows, np.int64)
    return np.concatenate([np.asarray(rows, np.int64), *(apart.find_near(row) for row in rows)])


class Forbidden:
    """The rows that become forbidden while images of a shortlist are picked.

    Args:
        allowed: (m,) whether the listed rows may be picked. It is updated in place.
        rows: (m,) the listed rows.
        apart: What else picks keep a distance in; None for nothing.
    """

    def __init__(self, allowed: npt.NDArray[np.bool_], rows: Rows, apart: Apart | None) -> None:
        self._allowed, self._listed, self._apart = allowed, rows, apart
        self._order = np.argsort(rows) if apart is not None else rows
        self._sorted = rows[self._order] if apart is not None else rows
        self._rows: list[Rows] = []

    @property
    def rows(self) -> Rows:
        """The forbidden rows."""
        return np.concatenate([np.empty(0, np.int64), *self._rows])

    def add(self, places: Rows) -> None:
        """Forbids rows at some places of the shortlist."""
        self._allowed[places] = False
        self._rows.append(self._listed[places])

    def add_pick(self, place: int) -> None:
        """Forbids a picked row, and those that it keeps away, whether they are listed or not."""
        self.add(np.array([place]))
        if self._apart is not None:
            near = self._apart.find_near(int(self._listed[place]))
            self._rows.append(near)
            found = np.minimum(np.searchsorted(self._sorted, near), len(self._sorted) - 1)
            self._allowed[self._order[found[self._sorted[found] == near]]] = False
