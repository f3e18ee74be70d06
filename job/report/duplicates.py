"""Near-duplicates in a pool: how many images have one, and groups of them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from job.select.engine import as_points
from job.select.points import to_unit_length

if TYPE_CHECKING:
    from job.select.points import Embeddings

MAX_DISTANCE = 0.1
_MAX_IMAGES = 10_000
_BLOCK_ROWS = 512


@dataclass(frozen=True)
class Duplicates:
    """The near-duplicates in a pool, or in an even sample of it.

    Attributes:
        examined: Number of images compared, evenly spaced over the pool.
        with_duplicate: Number of these images that have another one within `MAX_DISTANCE`.
        groups: Row of the first image of each group, and the number of images in it; the largest group first. An image
            belongs to the earliest group whose first image is within `MAX_DISTANCE`, or else begins a group.
    """

    examined: int
    with_duplicate: int
    groups: list[tuple[int, int]]


def find(embeddings: "Embeddings") -> Duplicates:
    """Finds near-duplicates among at most 10,000 images.

    Cosines are in single precision, so an image within a thousandth of the limit may be on either side of it.

    Args:
        embeddings: (n, d) embeddings of the pool.
    """
    points = as_points(embeddings)
    count = points.shape[0]
    rows = range(0, count, max(1, -(-count // _MAX_IMAGES)))
    vectors = to_unit_length(points.rows(rows))
    min_cosine = 1 - MAX_DISTANCE**2 / 2
    has_duplicate = np.zeros(len(rows), bool)
    leader = np.full(len(rows), -1)
    for start in range(0, len(rows), _BLOCK_ROWS):
        near = vectors[start : start + _BLOCK_ROWS] @ vectors.T > min_cosine
        has_duplicate[start : start + _BLOCK_ROWS] = near.sum(axis=1) > 1
        for number in range(start, min(start + _BLOCK_ROWS, len(rows))):
            before = np.flatnonzero(near[number - start, :number])
            leaders = before[leader[before] == before]
            leader[number] = leaders[0] if len(leaders) else number
    first, counts = np.unique(leader, return_counts=True)
    order = np.lexsort((first, -counts))
    groups = [(rows[first[group]], int(counts[group])) for group in order if counts[group] > 1]
    return Duplicates(len(rows), int(has_duplicate.sum()), groups)
