"""Cuts of a clip: neighbouring frames whose embeddings are much farther apart than is usual in the clip."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from job.report.duplicates import MAX_DISTANCE
from job.select.engine import as_points
from job.select.points import to_unit_length

if TYPE_CHECKING:
    from job.select.points import Embeddings

# In the demo's clips, steps at cuts are at least 7.8 times the median of all steps, and others at most 3.0; of every
# fifth frame 3.1 and 2.5. With fewer frames, a cut cannot be told from motion.
MIN_TIMES_MEDIAN = 3
_MAX_CUTS = 200
_BLOCK_ROWS = 4096


def find(embeddings: "Embeddings", rows: npt.NDArray[np.int64]) -> list[int]:
    """Finds the cuts of a clip; of very many, those with the longest steps.

    A step is a cut if it is more than three times as long as the median step of the clip, and longer than between
    near-duplicates.

    Args:
        embeddings: (n, d) embeddings of the pool.
        rows: (m,) rows of the frames of the clip, in their order.

    Returns:
        Place of the first frame after each cut, rising; between 1 and m - 1.
    """
    points = as_points(embeddings)
    steps = np.zeros(max(0, len(rows) - 1))
    for start in range(0, len(steps), _BLOCK_ROWS):
        vectors = to_unit_length(points.rows(rows[start : start + _BLOCK_ROWS + 1].tolist()))
        steps[start : start + _BLOCK_ROWS] = np.linalg.norm(np.diff(vectors, axis=0), axis=1)
    if not len(steps):
        return []
    longest = np.argsort(-steps, kind="stable")[:_MAX_CUTS]
    is_cut = steps[longest] > max(MIN_TIMES_MEDIAN * float(np.median(steps)), MAX_DISTANCE)
    return sorted((longest[is_cut] + 1).tolist())
