"""How redundant a pool is, and how many random images would show as much of it as the picks.

Two images show the same view if their distance is at most 0.4 times the median distance of two images of the pool. So
the measure adapts to the embedding. An image counts 1 / k if k images show its view, itself included: the sum over the
pool is the number of its views. The coverage is the share of the views that a labelled or picked image shows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from job.select import checks
from job.select.engine import as_points
from job.select.points import Array, Vectors, to_unit_length
from job.select.shortlist import cosines

if TYPE_CHECKING:
    from job.select.points import Embeddings

# On frames of video, the number of random images that show as many scenes as the picks agrees best with the truth at
# this radius: 211 by coverage, 205 by counting scenes (benchmarks.street, pool "video", seed 700).
VIEW_RADIUS = 0.4
# Images whose view is looked for in the whole pool, evenly spread: fewer in a large pool, to bound the time.
_MAX_QUERIES, _MIN_QUERIES = 1000, 200
_MAX_PRODUCTS = 1 << 38
_ROUNDING = 1e-6
# Up to this many times the picks, the curve also shows random images alone.
_CURVE_REACH = 4
_CURVE_STEPS = 12


@dataclass(frozen=True)
class Views:
    """What a pool shows, and what the picks show of it.

    Attributes:
        images: Number of images of the pool.
        views: Estimated number of its views, 1 to `images`.
        coverage: Share of the views that the labelled images and the picks show, 0 to 1.
        random_images: Number of random images besides the labelled ones that show as many views as the picks, on
            average; at most as many as there are without labels.
        curve: For a number of images: coverage by so many picks, best first, and by as many random images. Beyond the
            number of picks, their coverage is None.
    """

    images: int
    views: float
    coverage: float
    random_images: int
    curve: list[tuple[int, float | None, float]]


def measure_views(
    embeddings: "Embeddings",
    picks: Sequence[int],
    labelled: Sequence[int] = (),
    labelled_elsewhere: npt.NDArray[np.floating] | None = None,
) -> Views:
    """Measures what a pool shows, on up to 1,000 of its images.

    Random images need no draws: the chance that none of m images of N shows a view which k of them show is
    C(N - k, m) / C(N, m).

    Args:
        embeddings: As for `job.select.select`, at least one row.
        picks: Rows of the picks, best first.
        labelled: Rows of the labelled images.
        labelled_elsewhere: As for `job.select.select`.
    """
    points = as_points(embeddings)
    count, dimension = points.shape
    elsewhere = checks.check_elsewhere(labelled_elsewhere, dimension)
    num_queries = max(_MIN_QUERIES, min(_MAX_QUERIES, _MAX_PRODUCTS // max(1, count * dimension)))
    queries = to_unit_length(points.rows(range(0, count, max(1, -(-count // num_queries)))))
    least = _find_least_cosine(queries)
    candidate = np.ones(count, bool)
    candidate[list(labelled)] = False
    alike, free = np.zeros(len(queries), np.int64), np.zeros(len(queries), np.int64)
    for start, block in points.blocks():
        same = cosines(queries, to_unit_length(block)) >= least
        alike += same.sum(axis=1)
        free += same[:, candidate[start : start + len(block)]].sum(axis=1)
    weight = 1 / np.maximum(alike, 1)
    weight /= weight.sum()
    known = _shows(queries, np.concatenate([to_unit_length(points.rows(labelled)), elsewhere]), least).any(axis=1)
    by_pick = _shows(queries, to_unit_length(points.rows(picks)), least)
    by_pick = np.concatenate([by_pick, np.ones((len(queries), 1), bool)], axis=1)  # so that none comes after the last
    rank = np.where(known, 0, by_pick.argmax(axis=1) + 1)
    total = int(candidate.sum())

    def cover_by_picks(number: int) -> float:
        return float(weight[rank <= number].sum())

    def cover_by_random(number: int) -> float:
        return float(weight @ np.where(known, 1.0, 1 - _miss(free, total, number)))

    coverage = cover_by_picks(len(picks))
    return Views(
        images=count,
        views=float(count * (1 / np.maximum(alike, 1)).mean()),
        coverage=coverage,
        random_images=_find_first(lambda number: cover_by_random(number) >= coverage - _ROUNDING, total),
        curve=[
            (number, cover_by_picks(number) if number <= len(picks) else None, cover_by_random(number))
            for number in _list_steps(len(picks), total)
        ],
    )


def _find_least_cosine(queries: Vectors) -> float:
    """The cosine of two images at the radius of a view."""
    pairs = cosines(queries, queries)[np.triu_indices(len(queries), 1)]
    square = 2 - 2 * float(np.median(pairs)) if len(pairs) else 0.0
    return 1 - max(0.0, square) * VIEW_RADIUS**2 / 2 - _ROUNDING


def _shows(queries: Vectors, vectors: Vectors, least: float) -> npt.NDArray[np.bool_]:
    """(q, k) whether an image shows the view of a query."""
    return cosines(queries, vectors) >= least if len(vectors) else np.zeros((len(queries), 0), bool)


def _miss(free: npt.NDArray[np.int64], total: int, number: int) -> Array:
    """(q,) chance that none of so many random images is among those that show a view: hypergeometric."""
    values, index = np.unique(free, return_inverse=True)

    def find_chance(alike: int) -> float:
        if number > total - alike:
            return 0.0
        logarithm = math.lgamma(total - alike + 1) - math.lgamma(total - alike - number + 1)
        return math.exp(min(0.0, logarithm - math.lgamma(total + 1) + math.lgamma(total - number + 1)))

    return np.array([find_chance(int(value)) for value in values])[index]


def _find_first(is_enough: Callable[[int], bool], highest: int) -> int:
    """The smallest number from 0 to the highest that is enough, by bisection; the highest if none is."""
    low, high = 0, highest
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return low


def _list_steps(picks: int, total: int) -> list[int]:
    """Numbers of images at which the curve is drawn: 1 to the picks in even ratios, then multiples of the picks."""
    if picks == 0:
        return []
    even = {round(picks ** (step / (_CURVE_STEPS - 1))) for step in range(_CURVE_STEPS)}
    return sorted(even | {times * picks for times in range(2, _CURVE_REACH + 1) if times * picks <= total})
