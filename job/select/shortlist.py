"""The rows among which the next picks must be, found in one pass over the embeddings.

The value of an image only falls while images are picked, so an earlier value is an upper bound. As long as the best
image of a shortlist has a higher value than the bound of all others, it is the best of all images. So the embeddings
are read once per shortlist, not once per pick.

The pass works with cosines in single precision; `slack` bounds their error. Exact distances decide which images are
picked (`job.select.greedy`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from job.select.points import Array, Vectors

Rows = npt.NDArray[np.int64]

# Squares of shorter or longer vectors underflow or overflow in single precision.
MIN_LENGTH, MAX_LENGTH = 1e-15, 1e15


@dataclass(frozen=True)
class Worth:
    """What rows are worth: ``distance ** strength * weight``, if they may be picked.

    Attributes:
        weight: (n,) weights, not negative; None for 1 everywhere.
        strength: Exponent of the distance, not negative.
        min_distance: Smallest distance to a labelled or picked image at which an image may be picked.
        allowed: (n,) whether an image may be picked. It is updated in place.
        rank: (n,) order among images of equal value, the lowest first; None for the order of the rows.
        first: (n,) values for the first pick if nothing is labelled; None for 1 everywhere.
    """

    weight: Array | None
    strength: float
    min_distance: float
    allowed: npt.NDArray[np.bool_]
    rank: Rows | None = None
    first: Array | None = None

    def evaluate(self, square: Array, rows: slice | Rows) -> Array:
        """Values of some rows.

        Args:
            square: (m,) squared distances of the rows.
            rows: The rows.

        Returns:
            (m,) values; -1 for images that may not be picked.
        """
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

    def choose_first(self) -> tuple[int, float] | None:
        """Row and value of the best image when there are no distances yet; None if no image may be picked."""
        rows = np.flatnonzero(self.allowed)
        if len(rows) == 0:
            return None
        values = np.ones(len(rows)) if self.first is None else self.first[rows]
        highest = np.flatnonzero(values == values.max())
        best = highest[self.get_ranks(rows[highest]).argmin()]
        return int(rows[best]), float(values[best])

    def get_ranks(self, rows: Rows) -> Rows:
        """(m,) ranks of some rows, which break ties between images of equal value."""
        return rows if self.rank is None else self.rank[rows]

    def take(self, rows: Rows) -> "Worth":
        """What some rows are worth, on its own."""
        weight = None if self.weight is None else self.weight[rows]
        return Worth(weight, self.strength, self.min_distance, self.allowed[rows], self.get_ranks(rows))

    def cut(self, start: int, end: int) -> "Worth":
        """What consecutive rows are worth: a view. Without ranks they keep the order that they have."""
        weight = None if self.weight is None else self.weight[start:end]
        rank = None if self.rank is None else self.rank[start:end]
        first = None if self.first is None else self.first[start:end]
        if self.first is self.weight:
            first = weight  # so that it is sent once
        return Worth(weight, self.strength, self.min_distance, self.allowed[start:end], rank, first)


def slack(dimension: int) -> float:
    """Bound on the error of a squared distance that comes from a cosine in single precision.

    A sum of d products of unit vectors has an error of at most about d / 2**24, whatever its order. The same holds for
    a length by which it is divided.
    """
    return 2 * (2 * dimension + 16) * 2.0**-24


def cosines(vectors: Vectors, centers: Vectors) -> Vectors:
    """(m, c) numbers s such that 2 - 2 s is the squared distance, within `slack`.

    For unit vectors, s is their cosine. If one of the two is a vector of zeros, s is 0.5; if both are, s is 1.
    """
    result: Vectors = vectors @ centers.T
    for axis, side in ((1, vectors), (0, centers)):
        if len(zero_rows := find_zero_rows(side)):
            half = np.zeros(len(side), np.float32)
            half[zero_rows] = 0.5
            result += np.expand_dims(half, axis)
    return result


def find_zero_rows(vectors: Vectors) -> Rows:
    """Indices of the rows that are all zeros."""
    candidates = np.flatnonzero(vectors[:, 0] == 0) if vectors.shape[1] else np.arange(len(vectors))
    return candidates[~vectors[candidates].any(axis=1)]


@dataclass(frozen=True)
class Shortlist:
    """The rows with the highest upper bounds, and the bound of all others.

    Attributes:
        rows: (m,) indices of the rows, best first.
        vectors: (m, d) embeddings of the rows, of unit length.
        worth: What the rows are worth, with their ranks.
        upper: (m,) their upper bounds.
        bound: Value and rank of the best other row; (-1, 0) if no other row may be picked.
    """

    rows: Rows
    vectors: Vectors
    worth: Worth
    upper: Array
    bound: tuple[float, int]


class Pass(Protocol):
    """Owns what there is of each row: its embedding, what it is worth, and how near it is to the centers so far.

    Attributes:
        shape: (n, d), the number of embeddings and their dimension.
    """

    shape: tuple[int, int]

    def read(self, rows: Sequence[int]) -> Vectors:
        """Returns the embeddings of some rows, of unit length."""

    def choose_first(self) -> tuple[int, float] | None:
        """Row and value of the best image when there are no distances yet; None if no image may be picked."""

    def shortlist(self, centers: Vectors, forbidden: Rows, size: int) -> Shortlist:
        """Reads all embeddings, and finds the rows with the highest upper bounds.

        Args:
            centers: (c, d) of unit length, those that are new since the last call.
            forbidden: Rows that may not be picked, those that are new since the last call.
            size: Number of rows.

        Raises:
            ValueError: If an embedding is not finite.
        """


@runtime_checkable
class WithPass(Protocol):
    """Embeddings that bring a pass of their own, such as those on another device."""

    def make_pass(self, worth: Worth) -> Pass:
        """Makes a new pass over the embeddings, which are worth this."""
