"""Scores of the images of one part, from the boxes that were detected on them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from job import scores
from job.parts.columns import flatten_lists

Floats = npt.NDArray[np.float64]

# Boxes below this confidence are called low-confidence: 0.5 is the usual threshold for a detection that counts.
LOW_CONFIDENCE = 0.2


@dataclass(frozen=True)
class ImageScores:
    """Scores of n images.

    Attributes:
        num_boxes: (n,) numbers of boxes.
        expected_boxes: (n,) sums of the boxes' confidences.
        values: (n,) values of each score by name, before `over_pool`; and the same by name and ``_weighted`` if classes
            have weights; empty without a detector.
        class_sums: (4, classes) sums over all boxes, by predicted class: 1, confidence, entropy, and 1 if the box is
            low-confidence.
    """

    num_boxes: npt.NDArray[np.int64]
    expected_boxes: Floats
    values: dict[str, Floats]
    class_sums: Floats


def score_images(table: pa.Table, num_classes: int, class_weights: Floats | None) -> ImageScores:
    """Scores the images of one part.

    Args:
        table: Rows of usable images, in the schema of a part.
        num_classes: Number of the detector's classes; 0 without a detector.
        class_weights: (classes,) weights from 0 to 1; None for no weighted scores.
    """
    confidences, counts = flatten_lists(table["scores"])
    classes, _ = flatten_lists(table["classes"])
    probabilities = scores.normalize(flatten_lists(table["class_probabilities"])[0])
    boxes = scores.Boxes(
        counts=counts,
        boxes=flatten_lists(table["boxes"])[0],
        scores=confidences.astype(np.float64),
        classes=classes,
        probabilities=probabilities,
    )
    expected = np.bincount(boxes.images, weights=boxes.scores, minlength=len(counts)).astype(np.float64)
    if num_classes == 0:
        return ImageScores(counts, expected, {}, np.zeros((4, 0)))
    per_box = (
        np.ones(len(classes)),
        boxes.scores,
        scores.entropy(probabilities),
        boxes.scores < LOW_CONFIDENCE,
    )
    sums = [np.bincount(classes, weights=values, minlength=num_classes) for values in per_box]
    values = _score_values(boxes)
    if class_weights is not None:
        weighted = _score_values(boxes, class_weights)
        values |= {name + scores.WEIGHTED: column for name, column in weighted.items()}
    return ImageScores(counts, expected, values, np.stack(sums).astype(np.float64))


def _score_values(boxes: scores.Boxes, class_weights: Floats | None = None) -> dict[str, Floats]:
    values = {}
    for score in scores.TABLE.values():
        contributions = score.contributions(boxes)
        if class_weights is not None:
            contributions = contributions * class_weights[boxes.classes]
        values[score.name] = score.join(boxes, contributions)
    return values
