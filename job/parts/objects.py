"""The objects of the pool for the selection: a feature and a weight of each box, read part by part."""

from collections.abc import Callable

import numpy as np

from job import scores
from job.errors import SettingsError
from job.parts import boxes
from job.parts import pool as pools
from job.parts import score as image_scores
from job.parts.columns import BOX_FEATURES, flatten_lists
from job.parts.pool import Floats, Pool
from job.parts.score import BOX_COLUMNS
from job.select.objects import CenteredPoints, Objects
from job.spool import SpooledRows
from job.storage import Storage


def read(output: Storage, pool: Pool, weigh: Callable[[scores.Boxes], Floats]) -> Objects:
    """Reads the boxes of all usable images. Their features go to a temporary file, 128 bytes per box.

    Args:
        output: Folder with the parts.
        pool: The images.
        weigh: Function from boxes to their (boxes,) weights.

    Returns:
        The boxes in the order of the pool. The mean of all features is subtracted from each.

    Raises:
        SettingsError: If the boxes have no features.
        JobError: If a part cannot be read, or there is no room for the temporary file.
    """
    counts = pool.num_boxes.astype(np.int64)
    starts, total = np.cumsum(counts) - counts, int(counts.sum())
    weights, features = np.zeros(total), None
    columns = [*BOX_COLUMNS, BOX_FEATURES]
    for part, images, table in pools.read_rows(output, pool, range(len(counts)), columns):
        if table[BOX_FEATURES].null_count:
            raise SettingsError(describe_missing())
        vectors, own = flatten_lists(table[BOX_FEATURES])
        boxes.check_counts(output, pool, part, images, own)
        features = features or SpooledRows((total, vectors.shape[1]), np.float16)
        # How parts are cut and ordered varies from run to run, but not where a box belongs.
        places = (starts[images] - np.cumsum(own) + own).repeat(own) + np.arange(len(vectors))
        features.scatter(places, vectors)
        weights[places] = weigh(image_scores.make_boxes(table))
    return Objects(counts, CenteredPoints(features or SpooledRows((0, 1), np.float16)), weights)


def describe_missing() -> str:
    """Says that boxes have no features, and what to do."""
    return (
        "CORAL_STRATEGY compares objects, and their boxes have no features: these come only from a detector that this "
        "job runs, R-CNN, RetinaNet, FCOS or the demo's YOLO. Set CORAL_STRATEGY=coral, or another CORAL_MODEL."
    )
