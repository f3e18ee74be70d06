"""An even sample of the pool, for what would be too much to show of all images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from job.parts.boxes import locate
from job.parts.pool import Pool, Rows

MAX_IMAGES = 100_000
NO_BOXES = -1
_NUM_SIZE_BINS = 24


def spread(count: int, limit: int) -> Rows:
    """Rows of at most `limit` of `count` images, evenly spaced."""
    return np.arange(count) if count <= limit else np.arange(max(0, limit)) * count // max(1, limit)


class BoxSample:
    """Boxes of a sample of the pool; a `job.parts.boxes.Reader`.

    Args:
        pool: The images.
        rows: (m,) rows of the sample, rising.

    Attributes:
        rows: (m,) rows of the sample.
        top_class: (m,) class of the most confident box of each image of the sample, or `NO_BOXES`.
        sizes: (_NUM_SIZE_BINS,) numbers of boxes by relative size, see `measure_sizes`.
    """

    def __init__(self, pool: Pool, rows: Rows) -> None:
        self._pool, self.rows = pool, rows
        self.top_class = np.full(len(rows), NO_BOXES)
        self.sizes = np.zeros(_NUM_SIZE_BINS, np.int64)

    def add(self, rows: Rows, columns: Sequence[npt.NDArray[Any]], counts: Rows) -> None:
        """See `job.parts.boxes.Reader`."""
        places = locate(rows, self.rows)
        is_own = places >= 0
        boxes, confidences, classes = (column[is_own.repeat(counts)] for column in columns[:3])
        rows, counts, places = rows[is_own], counts[is_own], places[is_own]
        order = np.lexsort((-confidences, np.repeat(np.arange(len(counts)), counts)))  # the best of each image first
        has_boxes = counts > 0
        best = order[(np.cumsum(counts) - counts)[has_boxes]]
        self.top_class[places[has_boxes]] = classes[best]
        self.sizes += measure_sizes(boxes, np.repeat(self._pool.size[rows], counts, axis=0))


def size_edges() -> npt.NDArray[np.float64]:
    """Edges of the bins of relative sizes, 0 to 1."""
    return np.linspace(0, 1, _NUM_SIZE_BINS + 1)


def measure_sizes(boxes: npt.NDArray[np.float32], image_sizes: npt.NDArray[np.int32]) -> Rows:
    """Counts boxes by relative size: the square root of a box's share of the area of its image.

    Args:
        boxes: (k, 4) left, top, right and bottom in pixels.
        image_sizes: (k, 2) width and height of the image of each box in pixels; a box is not counted if they are 0.

    Returns:
        (_NUM_SIZE_BINS,) numbers of boxes.
    """
    area = image_sizes.astype(np.float64).prod(axis=1)
    sides = np.maximum(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 0)[area > 0]
    relative = np.sqrt(np.minimum(sides.prod(axis=1) / area[area > 0], 1))
    return np.histogram(relative, size_edges())[0].astype(np.int64)
