"""How typical an image is of the pool: how near it is to its neighbours.

After TypiClust (Hacohen, Dekel and Weinshall, ICML 2022): with few labels and no useful model, images from dense
regions teach more than outliers, which coreset picks first.
"""

import numpy as np
import numpy.typing as npt

from job.select.points import Array, Points, to_unit_length

NEIGHBOURS = 20
_MAX_SAMPLE = 10_000
_DIGITS = 9
_ROWS_PER_BLOCK = 256


def typicality(points: Points, rank: npt.NDArray[np.int64] | None = None, neighbours: int = NEIGHBOURS) -> Array:
    """1 / (1 + m / median m), with m the mean distance of an image to its nearest neighbours.

    The median is over the values of m above 0. In a pool of more than 10,000 images, neighbours are searched in a
    sample that is evenly spread over the file names.

    Args:
        points: (n, d) embeddings.
        rank: (n,) positions in the order of the file names; None if the rows have that order.
        neighbours: Number of neighbours; fewer in a smaller pool.

    Returns:
        (n,) in (0, 1]: 1 among duplicates, 0.5 for the median image, towards 0 far from all others.
    """
    count = points.shape[0]
    if count < 2:
        return np.ones(count)
    by_name = np.arange(count) if rank is None else np.argsort(rank)
    sample = by_name[:: -(-count // _MAX_SAMPLE)]
    column = np.full(count, -1)
    column[sample] = np.arange(len(sample))
    sampled = to_unit_length(points.rows(sample.tolist())).astype(np.float64)
    neighbours = min(neighbours, len(sample) - 1) or 1
    mean = np.empty(count)
    for start, block in points.blocks():
        for begin in range(0, len(block), _ROWS_PER_BLOCK):
            rows = np.arange(start + begin, start + min(begin + _ROWS_PER_BLOCK, len(block)))
            vectors = to_unit_length(block[begin : begin + _ROWS_PER_BLOCK]).astype(np.float64)
            lengths = np.einsum("ij,ij->i", vectors, vectors)[:, None] + np.einsum("ij,ij->i", sampled, sampled)[None]
            square = lengths - 2 * vectors @ sampled.T
            square[square < 16 * (vectors.shape[1] + 8) * 2.0**-53] = 0  # rounding errors of duplicates
            in_sample = np.flatnonzero(column[rows] >= 0)
            square[in_sample, column[rows[in_sample]]] = np.inf  # an image is not its own neighbour
            nearest = np.sort(np.partition(square, neighbours - 1, axis=1)[:, :neighbours], axis=1)
            mean[rows] = np.sqrt(nearest).mean(axis=1)
    positive = mean[mean > 0]
    median = float(np.median(positive)) if len(positive) else 1.0
    # The last digit of a product depends on the other rows of its block; rounding keeps it from breaking ties.
    return (1 / (1 + mean / median)).round(_DIGITS)
