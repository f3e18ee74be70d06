"""The rows that the next picks can be among, found in one pass over the embeddings.

What an image is worth only falls while images are picked. So a value from before is an upper bound, and as long as the
best of a shortlist is worth more than the bound of all others, it is the best of all. The embeddings are read once for
a shortlist, not once for a pick.

The pass works with cosines in single precision, whose error `slack` bounds; what is picked is decided by exact
distances, in `job.select.greedy`.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from job.select.points import Array, Vectors

Rows = npt.NDArray[np.int64]

# Beyond these, squares in single precision overflow or vanish.
SHORTEST, LONGEST = 1e-15, 1e15


@dataclass(frozen=True)
class Worth:
    """What an image is worth: ``distance ** strength * weight``, if it may be picked.

    Attributes:
        weight: (n,) not negative; None for 1 everywhere.
        strength: Exponent of the distance, not negative.
        min_distance: An image nearer than this to a labelled or picked one is worth nothing.
        allowed: (n,) which images may be picked; picks are taken off it.
        rank: (n,) the lower comes first among images of one value; None for the order of the rows.
    """

    weight: Array | None
    strength: float
    min_distance: float
    allowed: npt.NDArray[np.bool_]
    rank: Rows | None = None

    def of(self, square: Array, rows: slice | Rows) -> Array:
        """Values at squared distances; -1 for images that may not be picked."""
        if self.strength == 0:
            values = np.ones_like(square)
        elif self.strength == 1:
            values = np.sqrt(square)
        else:
            values = square ** (self.strength / 2)
        if self.weight is not None:
            values *= self.weight[rows]
        values[~self.allowed[rows]] = -1
        if self.min_distance > 0:
            values[square < self.min_distance**2] = -1
        return values

    def ranks(self, rows: Rows) -> Rows:
        """Who comes first among images of one value."""
        return rows if self.rank is None else self.rank[rows]


def slack(dimension: int) -> float:
    """Bounds the error of a squared distance that comes from a cosine in single precision.

    A sum of d products of unit vectors is off by at most about d / 2**24, whatever its order; so is a length by which
    it is divided.
    """
    return 2 * (2 * dimension + 16) * 2.0**-24


def cosines(vectors: Vectors, centers: Vectors) -> Vectors:
    """(m, c) numbers s with which 2 - 2 s is the squared distance, within `slack`.

    For unit vectors that is their cosine; where one of two is a vector of zeros, one half, and where both are, 1.
    """
    result: Vectors = vectors @ centers.T
    for axis, each in ((1, vectors), (0, centers)):
        if len(nothing := zeros(each)):
            half = np.zeros(len(each), np.float32)
            half[nothing] = 0.5
            result += np.expand_dims(half, axis)
    return result


def zeros(vectors: Vectors) -> Rows:
    """The rows that are all zeros."""
    begin_so = np.flatnonzero(vectors[:, 0] == 0) if vectors.shape[1] else np.arange(len(vectors))
    return begin_so[~vectors[begin_so].any(axis=1)]


@dataclass(frozen=True)
class Shortlist:
    """The rows of the highest bounds, and the bound of all others.

    Attributes:
        rows: (m,) their numbers.
        vectors: (m, d) of unit length.
        bound: Value and rank of the best of all others; (-1, 0) where there is none that may be picked.
    """

    rows: Rows
    vectors: Vectors
    bound: tuple[float, int]


class Pass(Protocol):
    """Goes over the embeddings, and knows how near each is to the centres so far."""

    def shortlist(self, centers: Vectors, worth: Worth, size: int) -> Shortlist:
        """Finds the `size` rows of the highest bounds.

        Args:
            centers: (c, d) of unit length: those of the call before, and new ones behind them.
            worth: The same in every call but for the images that it allows.
            size: How many rows.
        """
