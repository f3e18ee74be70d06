"""Detections as Lightly writes them, in its files and in its requests.

See https://docs.lightly.ai/docs/prediction-format. A prediction is a category, a box as left, top, width and height in
pixels of the image after its EXIF orientation, a score, and probabilities of the classes that sum to 1. The background,
which is the last entry of our distributions, is not among them: it is dropped, and the rest is divided by its sum.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from job.parts import Provenance
from job.parts.pool import Detections

_DECIMALS = 6


def task_name(provenance: Provenance) -> str:
    """Names the prediction task: another for each detector, so that none overwrites what another one said."""
    return f"coralpick-{provenance.digest[:8]}"


def categories(provenance: Provenance) -> list[dict[str, Any]]:
    """The classes, by their index in the model."""
    return [{"id": number, "name": name} for number, name in enumerate(provenance.class_names)]


def predictions(found: Detections) -> list[dict[str, Any]]:
    """The predictions on one image, by the names that the files use; empty where nothing was detected."""
    corners = np.maximum(found.boxes.astype(np.float64), 0)  # the platform refuses negative numbers
    sizes = np.maximum(corners[:, 2:] - corners[:, :2], 0)
    boxes = np.concatenate([corners[:, :2], sizes], axis=1).round(3)
    distributions = class_distributions(found.class_probabilities, found.classes)
    scores = np.clip(found.scores.astype(np.float64), 0, 1).round(_DECIMALS)
    columns = (found.classes.tolist(), boxes.tolist(), scores.tolist(), distributions.tolist())
    names = ("category_id", "bbox", "score", "probabilities")
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def class_distributions(
    class_probabilities: npt.NDArray[np.floating], classes: npt.NDArray[np.integer]
) -> npt.NDArray[np.float64]:
    """Distributions over the classes alone.

    Args:
        class_probabilities: (n, classes + 1) in [0, 1], the background last.
        classes: (n,) predicted classes: where all classes have 0, theirs gets 1.

    Returns:
        (n, classes), rows rounded to six decimals that still sum to 1.
    """
    known = class_probabilities[:, :-1].astype(np.float64)
    total = known.sum(axis=1, keepdims=True)
    certain = np.eye(known.shape[1])[classes]
    known = np.where(total > 0, known / np.where(total > 0, total, 1), certain).round(_DECIMALS)
    # What rounding took goes to the largest entry, where it matters least.
    known[np.arange(len(known)), known.argmax(axis=1)] += 1 - known.sum(axis=1)
    result: npt.NDArray[np.float64] = known.round(_DECIMALS)
    return result
