"""Active-learning scores of images from the boxes of any detector.

    boxes = scores.Boxes(counts, corners, confidences, classes, probabilities)
    uncertainty = scores.compute("uncertainty_entropy", boxes)

docs/selection.md has the formulas.
"""

import numpy as np
import numpy.typing as npt

from job.scores import TABLE, Boxes, normalize

__all__ = ["NAMES", "Boxes", "compute"]

NAMES = tuple(TABLE)
_TOLERANCE = 0.01  # sums of probabilities in half precision differ from 1 by less


def compute(name: str, boxes: Boxes) -> npt.NDArray[np.float64]:
    """Computes a score of each image; a higher one means that the image is more worth labelling.

    Args:
        name: One of `NAMES`.
        boxes: The boxes of all images, image after image. Rows of probabilities have the background as the last entry,
            and sum to 1 within 0.01.

    Returns:
        (images,) scores, not negative.

    Raises:
        ValueError: If the name is unknown, shapes do not match, a class does not exist, or a confidence or probability
            is no number from 0 to 1.
    """
    if name not in TABLE:
        raise ValueError(f"unknown score {name!r}: use {', '.join(NAMES[:-1])} or {NAMES[-1]}")
    checked = _check(boxes)
    score = TABLE[name]
    return score.over_pool(score.join(checked, score.contributions(checked)))


def _check(boxes: Boxes) -> Boxes:
    counts, classes = np.asarray(boxes.counts), np.asarray(boxes.classes)
    if counts.ndim != 1 or (len(counts) and (counts.dtype.kind not in "iu" or counts.min() < 0)):
        raise ValueError("counts must have one whole number of at least 0 per image")
    total = int(counts.sum())
    corners, confidences, rows = (np.asarray(part, float) for part in (boxes.boxes, boxes.scores, boxes.probabilities))
    if rows.ndim != 2 or rows.shape[1] < 2 or len(rows) != total:
        raise ValueError(f"probabilities must have the shape ({total}, classes + 1), not {rows.shape}")
    for field, part, shape in (
        ("boxes", corners, (total, 4)),
        ("scores", confidences, (total,)),
        ("classes", classes, (total,)),
    ):
        if part.shape != shape:
            raise ValueError(f"{field} must have the shape {shape}, not {part.shape}")
    if not np.isfinite(corners).all():
        raise ValueError("boxes must be finite")
    # A comparison with a value that is not a number is false.
    for field, part in (("scores", confidences), ("probabilities", rows)):
        if not ((part >= 0) & (part <= 1)).all():
            raise ValueError(f"{field} must be numbers from 0 to 1")
    if not (np.abs(rows.sum(axis=1) - 1) <= _TOLERANCE).all():
        raise ValueError("each row of probabilities must sum to 1, with the background as its last entry")
    if total and (classes.dtype.kind not in "iu" or classes.min() < 0 or classes.max() >= rows.shape[1] - 1):
        raise ValueError(f"classes must be whole numbers from 0 to {rows.shape[1] - 2}")
    return Boxes(counts.astype(np.int64), corners, confidences, classes.astype(np.int64), normalize(rows))
