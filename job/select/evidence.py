"""How well the picks cover a pool, compared with random picks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from job.select import checks, greedy
from job.select.engine import as_points
from job.select.points import Array, Vectors, to_unit_length
from job.select.shortlist import Rows, cosines

if TYPE_CHECKING:
    from job.select.points import Embeddings

NUM_RANDOM_DRAWS = 20
# In a larger pool, the covering radius is taken over every second, third, ... image.
_MAX_COVERED_IMAGES = 50_000
_MAX_PRODUCTS = 1 << 22


def coverage(
    embeddings: "Embeddings", centers: checks.Rows, elsewhere: npt.NDArray[np.floating] | None = None
) -> tuple[Array, Rows]:
    """Measures how near every image is to the nearest labelled or picked image.

    Args:
        embeddings: As for `job.select.select`.
        centers: The labelled and picked images: rows from 0 to n - 1, or a boolean mask of n.
        elsewhere: (k, d) embeddings of labelled images that are not among the n; None for none.

    Returns:
        (n,) distances, and (n,) rows of the nearest center, n + i for the i-th image elsewhere; of centers at the same
        distance, the first. Infinity and -1 without centers.

    Raises:
        ValueError: If a row does not exist, or the embeddings have different dimensions.
    """
    points = as_points(embeddings)
    rows = checks.check_rows("centers", centers, points.shape[0])
    return greedy.coverage(points, rows, checks.check_elsewhere(elsewhere, points.shape[1]))


def coverage_stride(count: int) -> int:
    """The k for which covering radii are taken over every k-th image of a pool of `count` images."""
    return max(1, -(-count // _MAX_COVERED_IMAGES))


def random_covering_radii(
    embeddings: "Embeddings",
    labelled: Sequence[int],
    count: int,
    labelled_elsewhere: npt.NDArray[np.floating] | None = None,
) -> list[float]:
    """Covering radii of the pool by the labelled images and random others, for 20 seeds.

    They are computed in single precision: radii below 0.003 are indistinguishable from 0.

    Args:
        embeddings: As for `job.select.select`.
        labelled: Rows of the labelled images.
        count: Number of images to draw from the others.
        labelled_elsewhere: As for `job.select.select`.

    Returns:
        For each seed, the largest distance of an image to its nearest labelled or drawn image. At most 50,000 images,
        evenly spread, are measured.
    """
    points = as_points(embeddings)
    others = np.setdiff1d(np.arange(points.shape[0]), labelled)
    drawn = [
        np.random.default_rng(seed).choice(others, min(count, len(others)), False) for seed in range(NUM_RANDOM_DRAWS)
    ]
    stride = coverage_stride(points.shape[0])
    measured = to_unit_length(points.rows(range(0, points.shape[0], stride)))
    elsewhere = checks.check_elsewhere(labelled_elsewhere, points.shape[1])
    to_labelled = _max_cosines(measured, np.concatenate([to_unit_length(points.rows(labelled)), elsewhere]))
    radii = []
    for rows in drawn:
        closest = np.maximum(_max_cosines(measured, to_unit_length(points.rows(rows.tolist()))), to_labelled)
        radii.append(float(np.sqrt(np.maximum(2 - 2 * closest.astype(np.float64), 0)).max(initial=0)))
    return radii


def _max_cosines(vectors: Vectors, centers: Vectors) -> Vectors:
    """(n,) cosine to the nearest center, -1 without centers."""
    closest = np.full(len(vectors), -1, np.float32)
    step = max(1, _MAX_PRODUCTS // max(1, len(centers)))
    for start in range(0, len(vectors), step):
        block = slice(start, start + step)
        closest[block] = cosines(vectors[block], centers).max(axis=1, initial=-1)
    return closest


def count_close_pairs(embeddings: "Embeddings", rows: Sequence[int], max_distance: float) -> int:
    """Counts the pairs of images that are nearer to each other than a distance.

    Args:
        embeddings: As for `job.select.select`.
        rows: Rows of the images.
        max_distance: The distance; pairs at exactly this distance do not count.
    """
    points = to_unit_length(as_points(embeddings).rows(rows)).astype(np.float64)
    pairs = 0
    for row in range(1, len(points)):
        difference = points[:row] - points[row]
        pairs += int((np.sqrt(np.einsum("ij,ij->i", difference, difference)) < max_distance).sum())
    return pairs
