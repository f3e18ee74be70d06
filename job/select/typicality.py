"""How typical an image is of the pool: near its neighbours.

After TypiClust (Hacohen, Dekel and Weinshall, ICML 2022): with few labels and no useful model, images from dense places
teach more than outliers, which coreset picks first.
"""

import numpy as np
import numpy.typing as npt

from job.select.points import Array, Points, unit

NEIGHBOURS = 20
_SAMPLE = 10_000
_DIGITS = 9


def typicality(points: Points, rank: npt.NDArray[np.int64] | None = None, neighbours: int = NEIGHBOURS) -> Array:
    """1 / (1 + m / median m), where m is the mean distance to the nearest neighbours; the median is of those above 0.

    Of pools of more than 10,000 images, neighbours are looked for in a sample, evenly spread over the names.

    Args:
        points: (n, d) embeddings.
        rank: (n,) places in the order of names; that of the rows by default.
        neighbours: How many; fewer in a smaller pool.

    Returns:
        (n,) in (0, 1]: 1 among duplicates, 0.5 for the median image, towards 0 far from all others.
    """
    count = points.shape[0]
    if count < 2:
        return np.ones(count)
    by_name = np.arange(count) if rank is None else np.argsort(rank)
    sample = by_name[:: -(-count // _SAMPLE)]
    place = np.full(count, -1)
    place[sample] = np.arange(len(sample))
    vectors = unit(points.rows(sample.tolist())).astype(np.float64)
    neighbours = min(neighbours, len(sample) - 1) or 1
    mean = np.empty(count)
    for start, block in points.blocks():
        for begin in range(0, len(block), 256):
            rows = np.arange(start + begin, start + min(begin + 256, len(block)))
            ours = unit(block[begin : begin + 256]).astype(np.float64)
            lengths = np.einsum("ij,ij->i", ours, ours)[:, None] + np.einsum("ij,ij->i", vectors, vectors)[None]
            square = lengths - 2 * ours @ vectors.T
            square[square < 16 * (ours.shape[1] + 8) * 2.0**-53] = 0  # what rounding leaves of duplicates
            itself = np.flatnonzero(place[rows] >= 0)
            square[itself, place[rows[itself]]] = np.inf
            nearest = np.sort(np.partition(square, neighbours - 1, axis=1)[:, :neighbours], axis=1)
            mean[rows] = np.sqrt(nearest).mean(axis=1)
    apart = mean[mean > 0]
    median = float(np.median(apart)) if len(apart) else 1.0
    # Rounded, so that the last digit of a product, which depends on the company of a row, does not break ties.
    return (1 / (1 + mean / median)).round(_DIGITS)
