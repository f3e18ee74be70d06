"""An even sample of the pool, for what would be too much to show or to read of all images."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from job.parts import pool as pools
from job.parts.pool import Pool, Rows
from job.storage import Storage

MAX_IMAGES = 100_000
NO_BOXES, NOT_READ = -1, -2
_MAX_PARTS = 256  # whose boxes are read
_NUM_SIZE_BINS = 24


@dataclass(frozen=True)
class BoxSample:
    """Boxes of a sample of the pool.

    Attributes:
        num_images: Number of images whose boxes were read.
        top_class: (m,) class of the most confident box of each image of the sample, `NO_BOXES` or `NOT_READ`.
        sizes: (_NUM_SIZE_BINS,) numbers of boxes by relative size, see `measure_sizes`.
    """

    num_images: int
    top_class: Rows
    sizes: Rows


def spread(count: int, limit: int) -> Rows:
    """Rows of at most `limit` of `count` images, evenly spaced."""
    return np.arange(count) if count <= limit else np.arange(max(0, limit)) * count // max(1, limit)


def read_boxes(output: Storage, pool: Pool, rows: Rows) -> BoxSample:
    """Reads the boxes of images, part by part; of a larger pool, those in 256 parts.

    Args:
        output: Folder with the parts.
        pool: The images.
        rows: (m,) rows of the images, rising.
    """
    parts = np.unique(pool.part[rows])
    is_read = np.isin(pool.part[rows], parts[spread(len(parts), _MAX_PARTS)])
    top_class = np.where(is_read, NO_BOXES, NOT_READ)
    sizes = np.zeros(_NUM_SIZE_BINS, np.int64)
    columns = ("boxes", "scores", "classes")
    for _, of_images, values, counts in pools.read_boxes(output, pool, rows[is_read], columns):
        boxes, confidences, classes = values
        order = np.lexsort((-confidences, np.repeat(np.arange(len(counts)), counts)))  # the best of each image first
        has_boxes = counts > 0
        best = order[(np.cumsum(counts) - counts)[has_boxes]]
        top_class[np.searchsorted(rows, of_images[has_boxes])] = classes[best]
        sizes += measure_sizes(boxes, np.repeat(pool.size[of_images], counts, axis=0))
    return BoxSample(int(is_read.sum()), top_class, sizes)


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
