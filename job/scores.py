"""Active-learning scores of images, from what was detected on them: lightly's five, by lightly's formulas.

The formulas are those of ``ScorerObjectDetection`` in lightly 1.4.6, the last release that had them. Every score lies
in [0, 1]; a higher one means more worth labelling; all but the first are 0 for an image without boxes.

- ``object_frequency``: many objects of many classes. Each class present counts 1, each repetition 0.25, and the sums
  are stretched over the pool: its lowest becomes 0.9 and its highest 1.
- ``objectness_least_confidence``: 1 minus the mean score of the boxes.
- ``uncertainty_least_confidence``: 1 minus the largest class probability, divided by what a uniform distribution would
  give; the largest over the boxes.
- ``uncertainty_margin``: 1 minus the difference of the two largest class probabilities; the largest over the boxes.
- ``uncertainty_entropy``: entropy of the class probabilities over that of a uniform distribution; the largest over the
  boxes.

The class probabilities given here have the background as their last column, so that "is it there at all" counts as
uncertainty, and so that a model of one class has any. lightly itself adds such a column when there is one class.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_FREQUENCY_PENALTY = 0.25
_FREQUENCY_FLOOR = 0.9


def per_image_maximum(values: Array, counts: npt.NDArray[np.int64]) -> tuple[Array, npt.NDArray[np.int64]]:
    """The largest value of each image's boxes, and which box it was.

    Args:
        values: (boxes,) not negative, image after image.
        counts: (images,) how many boxes each image has.

    Returns:
        (images,) the largest values, 0 without boxes; and (images,) indices into `values` of the first such box, -1
        without boxes.
    """
    image = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((-np.arange(len(values)), values, image))
    last = np.cumsum(counts) - 1
    filled = counts > 0
    index = np.full(len(counts), -1, np.int64)
    index[filled] = order[last[filled]]
    largest = np.zeros(len(counts))
    largest[filled] = values[index[filled]]
    return largest, index


def least_confidence(probabilities: Array) -> Array:
    """(boxes, outcomes) rows that sum to 1 → (boxes,) in [0, 1]."""
    outcomes = probabilities.shape[1]
    result: Array = (1 - probabilities.max(axis=1)) / (1 - 1 / outcomes)
    return result


def margin(probabilities: Array) -> Array:
    """(boxes, outcomes) rows that sum to 1 → (boxes,) in [0, 1]."""
    top = np.sort(probabilities, axis=1)[:, -2:]
    result: Array = 1 - (top[:, 1] - top[:, 0])
    return result


def entropy(probabilities: Array) -> Array:
    """(boxes, outcomes) rows that sum to 1 → (boxes,) in [0, 1]."""
    logarithms = np.log2(probabilities, where=probabilities > 0, out=np.zeros_like(probabilities))
    result: Array = -(probabilities * logarithms).sum(axis=1) / np.log2(probabilities.shape[1])
    return np.clip(result, 0, 1) + 0.0  # a certain box has 0, not -0


UNCERTAINTIES = {
    "uncertainty_least_confidence": least_confidence,
    "uncertainty_margin": margin,
    "uncertainty_entropy": entropy,
}


def normalised(probabilities: npt.NDArray[np.floating]) -> Array:
    """Rows in float64 that sum to exactly 1, which half-precision ones do only nearly."""
    rows = probabilities.astype(np.float64)
    result: Array = rows / rows.sum(axis=1, keepdims=True)
    return result


def objectness_least_confidence(scores: Array, counts: npt.NDArray[np.int64]) -> Array:
    """(boxes,) scores image after image, and (images,) counts → (images,) in [0, 1]."""
    image = np.repeat(np.arange(len(counts)), counts)
    sums = np.bincount(image, weights=scores, minlength=len(counts))
    return np.where(counts > 0, 1 - sums / np.maximum(counts, 1), 0)


def class_richness(classes: npt.NDArray[np.integer], counts: npt.NDArray[np.int64], num_classes: int) -> Array:
    """The sum that ``object_frequency`` stretches over the pool.

    Args:
        classes: (boxes,) image after image.
        counts: (images,) how many boxes each image has.
        num_classes: Number of classes.

    Returns:
        (images,) not negative.
    """
    image = np.repeat(np.arange(len(counts)), counts)
    pairs, repeats = np.unique(image * num_classes + classes, return_counts=True)
    weights = 1 + _FREQUENCY_PENALTY * (repeats - 1)
    return np.bincount(pairs // num_classes, weights=weights, minlength=len(counts)).astype(np.float64)


def object_frequency(richness: Array) -> Array:
    """(images,) sums of the whole pool → (images,) in [0.9, 1]; all 1 when all sums are equal."""
    if len(richness) == 0 or richness.min() == richness.max():
        return np.ones(len(richness))
    return np.interp(richness, [richness.min(), richness.max()], [_FREQUENCY_FLOOR, 1.0])
