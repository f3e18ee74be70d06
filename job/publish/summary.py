"""What the picks are like, beside the pool and beside picks at random: numbers for run.json."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from job.context import SelectionInputs
from job.parts.pool import Detections
from job.select import Selection
from job.select.evidence import count_close_pairs, coverage_stride, random_covering_radii
from job.settings import Settings

NEAR_DUPLICATES = 0.1


def gather(
    settings: Settings,
    found: SelectionInputs,
    selection: Selection,
    detections: Mapping[str, Detections],
    distance: npt.NDArray[np.float64],
) -> dict[str, Any]:
    """Works them out.

    Args:
        settings: The settings.
        found: What was selected from.
        selection: The picks.
        detections: On the picks.
        distance: (n,) of every image to the nearest labelled or picked one.

    Returns:
        ``covering_radius``: the largest of these distances, over at most 50,000 images, evenly spread;
        ``covering_radius_random``: of as many random picks, the mean of 20 seeds; ``near_duplicate_pairs``: of picks
        less than ``near_duplicates_within`` apart; ``without_boxes``, ``classes``: of the pool and of the picks;
        ``boxes``: on the picks; ``expected_boxes``: the sum of their scores; ``expected_cost``: of labelling these.
    """
    pool, rows = found.pool, [pick.index for pick in selection.picks]
    covered = _cover(found, rows, distance)
    if not pool.has_detections:
        return covered | {"expected_cost": round(len(rows) * settings.cost_per_image, 2)}
    classes = sum(
        (np.bincount(each.classes, minlength=len(pool.class_counts)) for each in detections.values()),
        np.zeros(len(pool.class_counts), np.int64),
    )
    names = pool.provenance.class_names
    expected = float(pool.expected_boxes[rows].sum())
    return covered | {
        "without_boxes": {"pool": _share(pool.num_boxes == 0), "picks": _share(pool.num_boxes[rows] == 0)},
        "classes": {
            names[each]: {"pool": int(pool.class_counts[each]), "picks": int(classes[each])}
            for each in np.flatnonzero(pool.class_counts)
        },
        "boxes": int(pool.num_boxes[rows].sum()),
        "expected_boxes": round(expected, 3),
        "expected_cost": round(len(rows) * settings.cost_per_image + expected * settings.cost_per_box, 2),
    }


def _cover(found: SelectionInputs, rows: list[int], distance: npt.NDArray[np.float64]) -> dict[str, Any]:
    if not found.has_distances or not rows:
        return {}
    row = {key: number for number, key in enumerate(found.pool.file_names)}
    labelled = [row[name] for name in found.labelled if name in row]
    return {
        "covering_radius": round(float(distance[:: coverage_stride(len(distance))].max()), 6),
        "covering_radius_random": round(
            float(np.mean(random_covering_radii(found.embeddings, labelled, len(rows)))), 6
        ),
        "near_duplicates_within": NEAR_DUPLICATES,
        "near_duplicate_pairs": count_close_pairs(found.embeddings, rows, NEAR_DUPLICATES),
    }


def _share(which: npt.NDArray[np.bool_]) -> float:
    return round(float(which.mean()), 6) if len(which) else 0.0
