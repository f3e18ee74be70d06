"""Near-duplicates in a pool: how many images have one, and groups of them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from job.select.points import unit

WITHIN = 0.1
_SAMPLE = 10_000
_BLOCK = 512


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Attributes:
        looked_at: How many images, evenly spread over the pool.
        with_one: How many of them have another one within `WITHIN`.
        groups: Row of the first image of each group, and how many images are in it; the largest first. An image belongs
            to the first one before it that is within `WITHIN` and begins a group.
    """

    looked_at: int
    with_one: int
    groups: list[tuple[int, int]]


def find(embeddings: npt.NDArray[np.float32]) -> Duplicates:
    """Looks for near-duplicates among at most 10,000 images.

    By cosines in single precision: an image within a thousandth of the limit may fall on either side of it.

    Args:
        embeddings: (n, d).
    """
    rows = np.arange(0, len(embeddings), max(1, -(-len(embeddings) // _SAMPLE)))
    vectors = unit(embeddings[rows])
    limit = 1 - WITHIN**2 / 2
    has_one = np.zeros(len(rows), bool)
    leader = np.full(len(rows), -1)
    for start in range(0, len(rows), _BLOCK):
        near = vectors[start : start + _BLOCK] @ vectors.T > limit
        has_one[start : start + _BLOCK] = near.sum(axis=1) > 1
        for number in range(start, min(start + _BLOCK, len(rows))):
            before = np.flatnonzero(near[number - start, :number])
            leaders = before[leader[before] == before]
            leader[number] = leaders[0] if len(leaders) else number
    first, counts = np.unique(leader, return_counts=True)
    order = np.lexsort((first, -counts))
    groups = [(int(rows[first[each]]), int(counts[each])) for each in order if counts[each] > 1]
    return Duplicates(len(rows), int(has_one.sum()), groups)
