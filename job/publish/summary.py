"""Statistics of the picks for run.json, compared with the pool and with random picks."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from job.context import SelectionInputs
from job.parts.boxes import Detections
from job.publish import redundancy
from job.select import Selection
from job.select.evidence import count_close_pairs, coverage_stride, random_covering_radii
from job.select.views import measure_views
from job.settings import Settings

logger = logging.getLogger(__name__)

NEAR_DUPLICATE_DISTANCE = 0.1


def gather(
    settings: Settings,
    inputs: SelectionInputs,
    selection: Selection,
    detections: Mapping[str, Detections],
    distance: npt.NDArray[np.float64],
) -> dict[str, Any]:
    """Computes the statistics, and logs how redundant the pool is and what speaks against the strategy.

    Args:
        settings: The settings.
        inputs: What the selection is based on.
        selection: The picks.
        detections: Detections on the picks, by file name.
        distance: (n,) distance of every image to the nearest labelled or picked image, 0 to 2.

    Returns:
        ``covering_radius``: the largest distance, over at most 50,000 evenly spread images.
        ``covering_radius_random``: the same for the same number of random picks, mean of 20 seeds.
        ``near_duplicates_within``: distance below which two images count as near-duplicates.
        ``near_duplicate_pairs``: number of such pairs of picks.
        ``without_boxes``: share of images without boxes, in the pool and in the picks.
        ``classes``: number of boxes of each class, in the pool and in the picks.
        ``boxes``: number of boxes on the picks.
        ``expected_boxes``: sum of the scores of these boxes.
        ``expected_cost``: expected cost of labelling the picks.
        ``redundancy`` and ``coverage_curve``: see `job.publish.redundancy.describe`.
        Without embeddings, the first four and the last two are missing; without detections, all others except the cost.
    """
    pool, rows = inputs.pool, [pick.index for pick in selection.picks]
    coverage = _coverage(settings, inputs, rows, distance)
    if not pool.has_detections:
        return coverage | {"expected_cost": round(len(rows) * settings.cost_per_image, 2)}
    class_counts = sum(
        (np.bincount(of_image.classes, minlength=len(pool.class_counts)) for of_image in detections.values()),
        np.zeros(len(pool.class_counts), np.int64),
    )
    names = pool.provenance.class_names
    expected_boxes = float(pool.expected_boxes[rows].sum())
    return coverage | {
        "without_boxes": {"pool": _share(pool.num_boxes == 0), "picks": _share(pool.num_boxes[rows] == 0)},
        "classes": {
            names[index]: {"pool": int(pool.class_counts[index]), "picks": int(class_counts[index])}
            for index in np.flatnonzero(pool.class_counts)
        },
        "boxes": int(pool.num_boxes[rows].sum()),
        "expected_boxes": round(expected_boxes, 3),
        "expected_cost": round(len(rows) * settings.cost_per_image + expected_boxes * settings.cost_per_box, 2),
    }


def _coverage(
    settings: Settings, inputs: SelectionInputs, rows: list[int], distance: npt.NDArray[np.float64]
) -> dict[str, Any]:
    if not inputs.has_distances or not rows:
        return {}
    labelled = inputs.find_labelled()
    views = measure_views(inputs.embeddings, rows, labelled, inputs.elsewhere.embeddings)
    num_labelled = len(labelled) + len(inputs.elsewhere.file_names)
    for warning in redundancy.list_warnings(settings, views, len(rows), num_labelled):
        logger.warning(warning)
    logger.info(redundancy.make_sentence(views, len(rows)))
    return {
        "covering_radius": round(float(distance[:: coverage_stride(len(distance))].max()), 6),
        "covering_radius_random": round(
            float(np.mean(random_covering_radii(inputs.embeddings, labelled, len(rows), inputs.elsewhere.embeddings))),
            6,
        ),
        "near_duplicates_within": NEAR_DUPLICATE_DISTANCE,
        "near_duplicate_pairs": count_close_pairs(inputs.embeddings, rows, NEAR_DUPLICATE_DISTANCE),
        **redundancy.describe(views, len(rows)),
    }


def _share(which: npt.NDArray[np.bool_]) -> float:
    return round(float(which.mean()), 6) if len(which) else 0.0
