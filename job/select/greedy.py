"""The greedy selection: each step picks the image of the largest ``distance ** strength * weight``.

The distance is Euclidean, between embeddings of unit length, to the nearest labelled or already picked image. Picks are
those of the definition carried out in float64, to the last tie, but the embeddings are read a few times rather than
once for a pick (`job.select.shortlist`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from job.select.points import Array, Points, Vectors, distinct, unit
from job.select.shortlist import Pass, Rows, Shortlist, Worth, cosines, slack, zeros

# Rows of a shortlist, as a share of all and within bounds: a longer one saves reads, and its picks take longer.
_SHARE = 1 / 256
_LEAST, _MOST = 1024, 8192
_PAIRS_AT_ONCE = 1 << 20
_VALUES_AT_ONCE = 1 << 22
# Centres that can be the nearest of a vector, up to which differences are quicker than another product.
_FEW = 4


@dataclass(frozen=True)
class Pick:
    """One selected image.

    Attributes:
        index: Its row.
        value: What it was picked for, ``distance ** strength * weight``; the weight where there was no distance yet.
        distance: To the nearest labelled or earlier picked image, 0 to 2; None where there was none.
        nearest: Row of that image; None where there was none.
        balance: Product of the balances in the value; 1 without any.
    """

    index: int
    value: float
    distance: float | None
    nearest: int | None
    balance: float = 1.0


def greedy(
    points: Points, passes: Pass, worth: Worth, count: int, *, labelled: Sequence[int], first: Array | None
) -> list[Pick]:
    """Picks images, best first; fewer than `count` when no image is left that may be picked.

    Args:
        points: (n, d) embeddings, of any length.
        passes: Over the same embeddings; new.
        worth: What an image is worth. Picks are taken off the images that it allows.
        count: How many images to pick.
        labelled: Rows of images that have labels.
        first: (n,) by which the first pick is made where nothing is labelled; None to take the first image.
    """
    count = min(count, points.shape[0])
    centers = _Centers(points.shape[1], len(labelled) + count)
    vectors = unit(points.rows(labelled))
    centers.add(vectors[(kept := distinct(vectors))], [labelled[row] for row in kept])
    worth.allowed[list(labelled)] = False
    picks: list[Pick] = []
    if len(labelled) == 0:
        start = first_pick(worth, first)
        if start is None or count == 0:
            return picks
        picks.append(Pick(*start, None, None))
        worth.allowed[start[0]] = False
        centers.add(unit(points.rows([start[0]])), [start[0]])
    if len(picks) == count:
        passes.shortlist(centers.vectors, worth, 1)  # which looks whether all embeddings are finite
    size = min(_MOST, max(_LEAST, int(points.shape[0] * _SHARE)))
    while len(picks) < count:
        shortlist = passes.shortlist(centers.vectors, worth, size)
        found = _picks(shortlist, worth, centers, count - len(picks))
        picks += found
        if len(shortlist.rows) < size:
            break  # that was all there is
        if not found:
            size *= 8
    return picks


def first_pick(worth: Worth, values: Array | None) -> tuple[int, float] | None:
    """Row and value of the best image where there are no distances yet; None where none may be picked."""
    rows = np.flatnonzero(worth.allowed)
    if len(rows) == 0:
        return None
    here = np.ones(len(rows)) if values is None else values[rows]
    best = np.lexsort((worth.ranks(rows), -here))[0]
    return int(rows[best]), float(here[best])


class _Centers:
    """The labelled and picked images, in that order, but for exact repetitions.

    Attributes:
        vectors: (c, d) of unit length.
        rows: (c,) their rows.
    """

    def __init__(self, dimension: int, room: int) -> None:
        self._vectors = np.empty((room, dimension), np.float32)
        self._rows = np.empty(room, np.int64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def vectors(self) -> Vectors:
        return self._vectors[: self._count]

    @property
    def rows(self) -> Rows:
        return self._rows[: self._count]

    def add(self, vectors: Vectors, rows: Sequence[int]) -> None:
        end = self._count + len(rows)
        self._vectors[self._count : end], self._rows[self._count : end] = vectors, rows
        self._count = end


def _picks(shortlist: Shortlist, worth: Worth, centers: _Centers, count: int) -> list[Pick]:
    """The picks that are sure to be the best of all images, not just of the shortlist."""
    rows, vectors = shortlist.rows, shortlist.vectors
    closest = _closest(vectors, centers.vectors)
    plain = len(zeros(vectors)) == 0
    error = slack(vectors.shape[1])
    ranks = worth.ranks(rows)
    here = replace(worth, weight=None if worth.weight is None else worth.weight[rows], allowed=worth.allowed[rows])
    everything, exact = slice(None), _Exact(vectors)
    picks: list[Pick] = []
    while len(picks) < count and here.allowed.any():
        square = 2 - 2 * closest.astype(np.float64)
        upper = here.of(np.maximum(square + error, 0), everything)
        lower = here.of(np.maximum(square - error, 0), everything)
        if upper.max() < 0:
            break
        contenders = np.flatnonzero((upper >= lower.max()) & (upper >= 0))
        distance, nearest = exact.of(contenders, centers.vectors)
        if (blocked := distance < worth.min_distance).any():
            here.allowed[contenders[blocked]] = False
            worth.allowed[rows[contenders[blocked]]] = False
            continue
        values = distance**worth.strength
        if here.weight is not None:
            values *= here.weight[contenders]
        best = np.lexsort((ranks[contenders], -values))[0]
        row = int(contenders[best])
        bound, rank = shortlist.bound
        if (-values[best], ranks[row]) > (-bound, rank):
            break
        picks.append(Pick(int(rows[row]), float(values[best]), float(distance[best]), int(centers.rows[nearest[best]])))
        here.allowed[row] = worth.allowed[rows[row]] = False
        if distance[best] > 0:
            centers.add(vectors[row : row + 1], rows[row : row + 1].tolist())
            cosine = vectors @ vectors[row] if plain else cosines(vectors, vectors[row : row + 1])[:, 0]
            np.maximum(closest, cosine, out=closest)
    return picks


class _Exact:
    """Exact distances of some vectors to the nearest centre, each worked out once for each centre."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors
        self._distance = np.full(len(vectors), np.inf)
        self._nearest = np.full(len(vectors), -1, np.int64)
        self._seen = np.zeros(len(vectors), np.int64)

    def of(self, rows: Rows, centers: Vectors) -> tuple[Array, Rows]:
        """As `nearest_center`; the centres are those of the call before, and new ones behind them."""
        numbers = self._seen[rows]
        for seen in sorted(set(numbers.tolist()) - {len(centers)}):
            behind = rows[numbers == seen]
            distance, nearest = nearest_center(self._vectors[behind], centers[seen:])
            closer = distance < self._distance[behind]
            self._distance[behind[closer]] = distance[closer]
            self._nearest[behind[closer]] = nearest[closer] + seen
            self._seen[behind] = len(centers)
        return self._distance[rows], self._nearest[rows]


def _closest(vectors: Vectors, centers: Vectors) -> Vectors:
    """(m,) the largest of the cosines to some centres."""
    closest = np.empty(len(vectors), np.float32)
    step = max(1, _PAIRS_AT_ONCE // len(centers))
    for start in range(0, len(vectors), step):
        closest[start : start + step] = cosines(vectors[start : start + step], centers).max(axis=1)
    return closest


def nearest_center(vectors: Vectors, centers: Vectors) -> tuple[Array, Rows]:
    """Exact distances to the nearest of some centres, by differences in float64.

    Cosines in single precision say which centres can be the nearest; they would lose the distances of near-duplicates
    in rounding.

    Args:
        vectors: (m, d) of unit length.
        centers: (c, d) of unit length, at least one.

    Returns:
        (m,) distances, and (m,) indices of the centres; the first of those at the same distance.
    """
    distance, nearest = np.empty(len(vectors)), np.empty(len(vectors), np.int64)
    error = slack(vectors.shape[1])
    step = max(1, _PAIRS_AT_ONCE // len(centers))
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step]
        cosine = cosines(block, centers)
        possible = cosine >= cosine.max(axis=1, keepdims=True) - error
        many = np.flatnonzero(possible.sum(axis=1) > _FEW)
        possible[many] &= _possible(block[many].astype(np.float64), centers)
        row, center = np.nonzero(possible)
        exact = _distances(block, row, centers, center)
        order = np.lexsort((center, exact, row))
        best = order[np.searchsorted(row, np.arange(len(block)))]  # rows are sorted before and after
        distance[start : start + step], nearest[start : start + step] = exact[best], center[best]
    return distance, nearest


def _possible(vectors: Array, centers: Vectors) -> npt.NDArray[np.bool_]:
    """(m, c) which centres can be the nearest, by products in double precision, which near-duplicates need."""
    exact = centers.astype(np.float64)
    square = np.einsum("ij,ij->i", exact, exact)[None] - 2 * vectors @ exact.T
    error = 16 * (vectors.shape[1] + 8) * 2.0**-53
    result: npt.NDArray[np.bool_] = square <= square.min(axis=1, keepdims=True) + error
    return result


def _distances(vectors: Vectors, rows: Rows, centers: Vectors, columns: Rows) -> Array:
    """Distances between pairs of rows."""
    result = np.empty(len(rows))
    step = max(1, _VALUES_AT_ONCE // max(1, vectors.shape[1]))
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        difference = vectors[rows[some]].astype(np.float64) - centers[columns[some]]
        result[some] = np.einsum("ij,ij->i", difference, difference)
    return np.sqrt(result)


def coverage(points: Points, centers: Sequence[int]) -> tuple[Array, Rows]:
    """(n,) distances to the nearest of some rows, and (n,) which it is; infinite and -1 without any."""
    distance, nearest = np.full(points.shape[0], np.inf), np.full(points.shape[0], -1, np.int64)
    if len(centers) == 0:
        return distance, nearest
    vectors, rows = unit(points.rows(centers)), np.asarray(centers, np.int64)
    kept = distinct(vectors)  # among many of the same, each would be compared with each
    vectors, rows = vectors[kept], rows[kept]
    for start, block in points.blocks():
        distance[start : start + len(block)], index = nearest_center(unit(block), vectors)
        nearest[start : start + len(block)] = rows[index]
    return distance, nearest
