"""How well picks cover a pool, beside picks at random."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from job.select import greedy
from job.select.engine import as_points
from job.select.points import Array, Vectors, unit
from job.select.shortlist import Rows, cosines

if TYPE_CHECKING:
    from job.select.engine import Embeddings

RANDOM_SEEDS = 20
# Beyond this, the covering radius is that of every second, third, ... image.
_IMAGES_TO_COVER = 50_000
_PRODUCTS_AT_ONCE = 1 << 22


def coverage(embeddings: "Embeddings", centers: Sequence[int]) -> tuple[Array, Rows]:
    """How near the nearest labelled or picked image is to every image.

    Args:
        embeddings: As for `job.select.select`.
        centers: Rows of those images.

    Returns:
        (n,) distances, and (n,) rows of the nearest, the first of those at the same distance; infinite and -1 where
        there are no such images.
    """
    return greedy.coverage(as_points(embeddings), centers)


def cover_step(count: int) -> int:
    """Covering radii are taken over every so-manieth image of a pool."""
    return max(1, -(-count // _IMAGES_TO_COVER))


def random_radii(embeddings: "Embeddings", labelled: Sequence[int], count: int) -> list[float]:
    """Covering radii of the pool by the labelled images and so many random others, for 20 seeds.

    In single precision: radii below 0.003 are not told from 0.

    Args:
        embeddings: As for `job.select.select`.
        labelled: Rows of images that have labels.
        count: How many to draw among the others.

    Returns:
        For each seed the largest distance of an image to its nearest labelled or drawn one; over at most 50,000 images,
        evenly spread.
    """
    points = as_points(embeddings)
    others = np.setdiff1d(np.arange(points.shape[0]), labelled)
    drawn = [np.random.default_rng(seed).choice(others, min(count, len(others)), False) for seed in range(RANDOM_SEEDS)]
    step = cover_step(points.shape[0])
    seen = unit(points.rows(range(0, points.shape[0], step)))
    known = _closest(seen, unit(points.rows(labelled)))
    radii = []
    for rows in drawn:
        closest = np.maximum(_closest(seen, unit(points.rows(rows.tolist()))), known)
        radii.append(float(np.sqrt(np.maximum(2 - 2 * closest.astype(np.float64), 0)).max(initial=0)))
    return radii


def _closest(vectors: Vectors, centers: Vectors) -> Vectors:
    """(n,) cosine to the nearest centre, -1 without centres."""
    closest = np.full(len(vectors), -1, np.float32)
    step = max(1, _PRODUCTS_AT_ONCE // max(1, len(centers)))
    for start in range(0, len(vectors), step):
        some = slice(start, start + step)
        closest[some] = cosines(vectors[some], centers).max(axis=1, initial=-1)
    return closest


def close_pairs(embeddings: "Embeddings", rows: Sequence[int], within: float) -> int:
    """How many pairs of some images are nearer to each other than a distance."""
    points = unit(as_points(embeddings).rows(rows)).astype(np.float64)
    pairs = 0
    for row in range(1, len(points)):
        difference = points[:row] - points[row]
        pairs += int((np.sqrt(np.einsum("ij,ij->i", difference, difference)) < within).sum())
    return pairs
