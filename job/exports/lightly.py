"""Detections in Lightly's prediction format, for its files and its requests.

See https://docs.lightly.ai/docs/prediction-format. A prediction has a category, a box, a score and class probabilities
that sum to 1. The box is left, top, width and height in pixels of the image after its EXIF orientation. The job's
distributions end with the background, which the format lacks: it is dropped, and the rest is divided by its sum.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from job.parts import Provenance
from job.parts.boxes import Detections

_DECIMALS = 6


def task_name(provenance: Provenance) -> str:
    """Name of the prediction task; each detector has its own, so that none overwrites the predictions of another."""
    return f"coralpick-{provenance.digest[:8]}"


def categories(provenance: Provenance) -> list[dict[str, Any]]:
    """The classes with their index in the model."""
    return [{"id": number, "name": name} for number, name in enumerate(provenance.class_names)]


def predictions(detections: Detections) -> list[dict[str, Any]]:
    """The predictions of one image, with the field names of the format; empty if nothing was detected."""
    corners = np.maximum(detections.boxes.astype(np.float64), 0)  # the platform refuses negative numbers
    sizes = np.maximum(corners[:, 2:] - corners[:, :2], 0)
    boxes = np.concatenate([corners[:, :2], sizes], axis=1).round(3)
    distributions = class_distributions(detections.class_probabilities, detections.classes)
    scores = np.clip(detections.scores.astype(np.float64), 0, 1).round(_DECIMALS)
    columns = (detections.classes.tolist(), boxes.tolist(), scores.tolist(), distributions.tolist())
    names = ("category_id", "bbox", "score", "probabilities")
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def class_distributions(
    class_probabilities: npt.NDArray[np.floating], classes: npt.NDArray[np.integer]
) -> npt.NDArray[np.float64]:
    """Distributions over the classes without the background.

    Args:
        class_probabilities: (n, classes + 1) in [0, 1], the background last.
        classes: (n,) predicted classes; a predicted class gets 1 if all classes have 0.

    Returns:
        (n, classes) in [0, 1], rounded to six decimals; each row sums to 1.
    """
    foreground = class_probabilities[:, :-1].astype(np.float64)
    total = foreground.sum(axis=1, keepdims=True)
    unknown = np.flatnonzero(total[:, 0] <= 0)
    foreground /= np.where(total > 0, total, 1)
    foreground[unknown] = 0
    foreground[unknown, classes[unknown]] = 1
    foreground = foreground.round(_DECIMALS)
    # The largest entry absorbs the rounding error, since it matters least there.
    foreground[np.arange(len(foreground)), foreground.argmax(axis=1)] += 1 - foreground.sum(axis=1)
    result: npt.NDArray[np.float64] = foreground.round(_DECIMALS)
    return result
