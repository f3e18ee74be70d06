"""The greedy selection: each step picks the image with the largest ``distance ** strength * weight``.

The distance is Euclidean, between embeddings of unit length, to the nearest labelled or already picked image. The picks
are those of the definition in float64, to the last tie, but the embeddings are read only a few times instead of once
per pick (`job.select.shortlist`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from job.select.apart import Apart, Forbidden, find_forbidden
from job.select.points import Array, Points, Vectors, find_distinct, to_unit_length
from job.select.shortlist import Pass, Rows, Shortlist, cosines, find_zero_rows, slack

# Length of a shortlist as a share of all rows, within limits. A longer one saves reads, but its picks take longer.
_SHORTLIST_SHARE = 1 / 256
_MIN_SHORTLIST, _MAX_SHORTLIST = 1024, 8192
_MAX_PAIRS = 1 << 20
_MAX_VALUES = 1 << 22
# Up to this many centers that may be the nearest, exact differences are faster than another product.
_MAX_EXACT_CENTERS = 4


@dataclass(frozen=True)
class Pick:
    """One selected image.

    Attributes:
        index: Row of the image.
        value: Value it was picked for, ``distance ** strength * weight``; the weight if there was no distance yet.
        distance: Distance to the nearest labelled or earlier picked image, 0 to 2; None if there was none.
        nearest: Row of the nearest labelled or earlier picked image; n + i for the i-th of the images that are labelled
            elsewhere; None if there was none.
        balance: Product of the balances in the value; 1 without balances.
        objects: Value of its objects, before its strength; 1 if objects do not count.
        box: Which of the image's boxes contributes most to that value; None if none does.
        box_distance: Distance of this box to the nearest box of a labelled or earlier picked image, 0 to 2; None if
            there was none.
    """

    index: int
    value: float
    distance: float | None
    nearest: int | None
    balance: float = 1.0
    objects: float = 1.0
    box: int | None = None
    box_distance: float | None = None


def select_greedily(
    embedding_pass: Pass, count: int, *, labelled: Sequence[int], elsewhere: Vectors, apart: Apart | None = None
) -> list[Pick]:
    """Picks images, best first. It holds nothing of all n rows, but only of labelled, picked and listed ones.

    Args:
        embedding_pass: A new pass over n embeddings and what they are worth.
        count: Number of images to pick.
        labelled: Rows of the labelled images.
        elsewhere: (k, d) of unit length, embeddings of labelled images that are not among the n.
        apart: What else picks keep a distance in; None for nothing.

    Returns:
        The picks; fewer than `count` if no more images may be picked.
    """
    num_rows, dimension = embedding_pass.shape
    count = min(count, num_rows)
    centers = Centers(dimension, len(labelled) + len(elsewhere) + count)
    centers.add(*gather_centers(embedding_pass.read(labelled), labelled, elsewhere, num_rows))
    forbidden = find_forbidden(labelled, apart)
    picks: list[Pick] = []
    if len(centers) == 0:
        start = embedding_pass.choose_first()
        if start is None or count == 0:
            return picks
        row, value = start
        picks.append(Pick(index=row, value=value, distance=None, nearest=None))
        forbidden = find_forbidden([row], apart)
        centers.add(embedding_pass.read([row]), [row])
    if len(picks) == count:
        embedding_pass.shortlist(centers.vectors, forbidden, 1)  # checks that all embeddings are finite
    size = min(_MAX_SHORTLIST, max(_MIN_SHORTLIST, int(num_rows * _SHORTLIST_SHARE)))
    num_told = 0
    while len(picks) < count:
        shortlist = embedding_pass.shortlist(centers.vectors[num_told:], forbidden, size)
        num_told = len(centers)
        new_picks, forbidden = _pick_from(shortlist, centers, count - len(picks), apart)
        picks += new_picks
        if len(shortlist.rows) < size:
            break  # the shortlist had every image that may be picked
        if not new_picks:
            size *= 8
    return picks


class Centers:
    """The labelled and picked images, in that order, without exact repetitions.

    Attributes:
        vectors: (c, d) embeddings of unit length.
        rows: (c,) rows of the images.
    """

    def __init__(self, dimension: int, capacity: int) -> None:
        self._vectors = np.empty((capacity, dimension), np.float32)
        self._rows = np.empty(capacity, np.int64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def vectors(self) -> Vectors:
        """(c, d) embeddings of unit length."""
        return self._vectors[: self._count]

    @property
    def rows(self) -> Rows:
        """(c,) rows of the images."""
        return self._rows[: self._count]

    def add(self, vectors: Vectors, rows: Sequence[int] | Rows) -> None:
        """Adds images that are not yet there."""
        end = self._count + len(rows)
        self._vectors[self._count : end], self._rows[self._count : end] = vectors, rows
        self._count = end


def _pick_from(shortlist: Shortlist, centers: Centers, count: int, apart: Apart | None) -> tuple[list[Pick], Rows]:
    """Picks from a shortlist as long as the best row is sure to be the best of all images.

    Returns:
        The picks, and all rows that may not be picked any more.
    """
    rows, vectors, listed = shortlist.rows, shortlist.vectors, shortlist.worth
    closest = max_cosines(vectors, centers.vectors)
    without_zeros = len(find_zero_rows(vectors)) == 0
    error = slack(vectors.shape[1])
    ranks = listed.get_ranks(np.arange(len(rows)))
    everything, exact, forbidden = slice(None), ExactDistances(vectors), Forbidden(listed.allowed, rows, apart)
    picks: list[Pick] = []
    while len(picks) < count and listed.allowed.any():
        square = 2 - 2 * closest.astype(np.float64)
        upper = listed.evaluate(np.maximum(square + error, 0), everything)
        lower = listed.evaluate(np.maximum(square - error, 0), everything)
        if upper.max() < 0:
            break
        contenders = np.flatnonzero((upper >= lower.max()) & (upper >= 0))
        distance, nearest = exact.measure(contenders, centers.vectors)
        if (blocked := distance < listed.min_distance).any():
            forbidden.add(contenders[blocked])
            continue
        values = distance**listed.strength
        if listed.weight is not None:
            values *= listed.weight[contenders]
        best = np.lexsort((ranks[contenders], -values))[0]
        row = int(contenders[best])
        bound, rank = shortlist.bound
        if (-values[best], ranks[row]) > (-bound, rank):
            break
        picks.append(
            Pick(
                index=int(rows[row]),
                value=float(values[best]),
                distance=float(distance[best]),
                nearest=int(centers.rows[nearest[best]]),
            )
        )
        forbidden.add_pick(row)
        if distance[best] > 0:
            centers.add(vectors[row : row + 1], rows[row : row + 1].tolist())
            cosine = vectors @ vectors[row] if without_zeros else cosines(vectors, vectors[row : row + 1])[:, 0]
            np.maximum(closest, cosine, out=closest)
    return picks, forbidden.rows


class ExactDistances:
    """Exact distances of some vectors to the nearest center; each pair is computed at most once."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors
        self._distance = np.full(len(vectors), np.inf)
        self._nearest = np.full(len(vectors), -1, np.int64)
        self._num_compared = np.zeros(len(vectors), np.int64)

    def measure(self, rows: Rows, centers: Vectors) -> tuple[Array, Rows]:
        """Measures distances as `find_nearest_center` does.

        Args:
            rows: (m,) rows of the vectors.
            centers: (c, d) the centers of the previous call, followed by new ones.
        """
        counts = self._num_compared[rows]
        for count in sorted(set(counts.tolist()) - {len(centers)}):
            outdated = rows[counts == count]
            distance, nearest = find_nearest_center(self._vectors[outdated], centers[count:])
            closer = distance < self._distance[outdated]
            self._distance[outdated[closer]] = distance[closer]
            self._nearest[outdated[closer]] = nearest[closer] + count
            self._num_compared[outdated] = len(centers)
        return self._distance[rows], self._nearest[rows]


def max_cosines(vectors: Vectors, centers: Vectors) -> Vectors:
    """(m,) cosine to the nearest center."""
    closest = np.empty(len(vectors), np.float32)
    step = max(1, _MAX_PAIRS // len(centers))
    for start in range(0, len(vectors), step):
        closest[start : start + step] = cosines(vectors[start : start + step], centers).max(axis=1)
    return closest


def find_nearest_center(vectors: Vectors, centers: Vectors) -> tuple[Array, Rows]:
    """Finds the nearest center of each vector, with exact distances by differences in float64.

    Cosines in single precision decide which centers may be the nearest. They cannot give the distances themselves,
    because those of near-duplicates would be lost in rounding.

    Args:
        vectors: (m, d) of unit length.
        centers: (c, d) of unit length, at least one.

    Returns:
        (m,) distances, and (m,) indices of the centers; of centers at the same distance, the first.
    """
    distance, nearest = np.empty(len(vectors)), np.empty(len(vectors), np.int64)
    error = slack(vectors.shape[1])
    step = max(1, _MAX_PAIRS // len(centers))
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step]
        cosine = cosines(block, centers)
        possible = cosine >= cosine.max(axis=1, keepdims=True) - error
        undecided = np.flatnonzero(possible.sum(axis=1) > _MAX_EXACT_CENTERS)
        possible[undecided] &= _find_possible_centers(block[undecided].astype(np.float64), centers)
        row, center = np.nonzero(possible)
        exact = _pair_distances(block, row, centers, center)
        order = np.lexsort((center, exact, row))
        best = order[np.searchsorted(row, np.arange(len(block)))]  # rows are sorted before and after
        distance[start : start + step], nearest[start : start + step] = exact[best], center[best]
    return distance, nearest


def _find_possible_centers(vectors: Array, centers: Vectors) -> npt.NDArray[np.bool_]:
    """(m, c) whether a center may be the nearest, by products in double precision, which near-duplicates need."""
    exact = centers.astype(np.float64)
    square = np.einsum("ij,ij->i", exact, exact)[None] - 2 * vectors @ exact.T
    error = 16 * (vectors.shape[1] + 8) * 2.0**-53
    result: npt.NDArray[np.bool_] = square <= square.min(axis=1, keepdims=True) + error
    return result


def _pair_distances(vectors: Vectors, rows: Rows, centers: Vectors, columns: Rows) -> Array:
    """(p,) distances between pairs of a vector and a center."""
    result = np.empty(len(rows))
    step = max(1, _MAX_VALUES // max(1, vectors.shape[1]))
    for start in range(0, len(rows), step):
        pairs = slice(start, start + step)
        difference = vectors[rows[pairs]].astype(np.float64) - centers[columns[pairs]]
        result[pairs] = np.einsum("ij,ij->i", difference, difference)
    return np.sqrt(result)


def gather_centers(vectors: Vectors, rows: Sequence[int], elsewhere: Vectors, num_rows: int) -> tuple[Vectors, Rows]:
    """(c, d) distinct vectors of some rows and of images elsewhere, and (c,) their rows, from n on for the latter."""
    every = np.concatenate([vectors, elsewhere])
    their_rows = np.concatenate([np.asarray(rows, np.int64), num_rows + np.arange(len(elsewhere))])
    kept = find_distinct(every)  # otherwise many equal rows would all be compared with each other
    return every[kept], their_rows[kept]


def coverage(points: Points, centers: Sequence[int], elsewhere: Vectors) -> tuple[Array, Rows]:
    """Distance of each embedding to the nearest of some rows, and of images elsewhere.

    Args:
        points: (n, d) embeddings, of any length.
        centers: The rows.
        elsewhere: (k, d) of unit length, embeddings of other images.

    Returns:
        (n,) distances, and (n,) nearest rows, n + i for the i-th image elsewhere; infinity and -1 without centers.
    """
    distance, nearest = np.full(points.shape[0], np.inf), np.full(points.shape[0], -1, np.int64)
    vectors, rows = gather_centers(to_unit_length(points.rows(centers)), centers, elsewhere, points.shape[0])
    if len(rows) == 0:
        return distance, nearest
    for start, block in points.blocks():
        distance[start : start + len(block)], index = find_nearest_center(to_unit_length(block), vectors)
        nearest[start : start + len(block)] = rows[index]
    return distance, nearest
