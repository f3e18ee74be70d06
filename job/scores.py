"""Active-learning scores of images, from what was detected on them. A higher one means more worth labelling.

The first five are lightly's, by the formulas of ``ScorerObjectDetection`` in lightly 1.4.6, the last release that had
them. With s for a box's score, p for its class probabilities and H for their entropy over that of a uniform
distribution, scores of an image are

- ``object_frequency``, 0.9 to 1: many objects of many classes. Each class present counts 1, each repetition 0.25, and
  the sums are stretched over the pool.
- ``objectness_least_confidence``, 0 to 1: 1 minus the mean s. Favours images of faint boxes.
- ``uncertainty_least_confidence``, 0 to 1: 1 - max p, divided by what a uniform distribution would give; the largest
  over the boxes.
- ``uncertainty_margin``, 0 to 1: 1 minus the difference of the two largest p; the largest over the boxes.
- ``uncertainty_entropy``, 0 to 1: H; the largest over the boxes. These three favour images with a
  box between classes.
- ``objectness_margin``, 0 to 1: 1 - |2 s - 1|; the mean over the boxes. Favours boxes that may be there or not.
- ``entropy_mean``, 0 to 1: the mean H. Favours images on which everything is unclear.
- ``entropy_sum``, 0 and more: the sum of H, as in PPAL (Yang et al., CVPR 2024). Favours crowded images, which also
  take longer to label.
- ``suspected_misses``, 0 to 1: 1 minus the product of 1 - s over the boxes with s < 0.5 that no box with s >= 0.5
  covers by half. Were s probabilities and independent, the chance that at least one of them is an object. Favours
  images on which the detector may be blind.

All but the first are 0 for an image without boxes. The class probabilities have the background as their last column, so
that "is it there at all" counts as uncertainty, and so that a model of one class has any. lightly itself adds such a
column when there is one class.

Weighted by classes, what each box contributes (for ``object_frequency``: what each class does) is multiplied by the
weight of its predicted class over the largest weight.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_FREQUENCY_PENALTY = 0.25
_FREQUENCY_FLOOR = 0.9
_CONFIDENT = 0.5
_COVERED = 0.5


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


def normalised(probabilities: npt.NDArray[np.floating]) -> Array:
    """Rows in float64 that sum to exactly 1, which half-precision ones do only nearly."""
    rows = probabilities.astype(np.float64)
    result: Array = rows / rows.sum(axis=1, keepdims=True)
    return result


def class_richness(
    classes: npt.NDArray[np.integer],
    counts: npt.NDArray[np.int64],
    num_classes: int,
    class_weights: Array | None = None,
) -> Array:
    """The sum that ``object_frequency`` stretches over the pool.

    Args:
        classes: (boxes,) image after image.
        counts: (images,) how many boxes each image has.
        num_classes: Number of classes.
        class_weights: (num_classes,) by which each class counts; 1 by default.

    Returns:
        (images,) not negative.
    """
    image = np.repeat(np.arange(len(counts)), counts)
    pairs, repeats = np.unique(image * num_classes + classes, return_counts=True)
    weights = 1 + _FREQUENCY_PENALTY * (repeats - 1)
    if class_weights is not None:
        weights = weights * class_weights[pairs % num_classes]
    return np.bincount(pairs // num_classes, weights=weights, minlength=len(counts)).astype(np.float64)


def object_frequency(richness: Array) -> Array:
    """(images,) sums of the whole pool → (images,) in [0.9, 1]; all 1 when all sums are equal."""
    if len(richness) == 0 or richness.min() == richness.max():
        return np.ones(len(richness))
    return np.interp(richness, [richness.min(), richness.max()], [_FREQUENCY_FLOOR, 1.0])


@dataclass(frozen=True)
class Boxes:
    """The boxes of some images, image after image.

    Attributes:
        counts: (images,) how many each image has.
        boxes: (boxes, 4) left, top, right, bottom.
        scores: (boxes,) in [0, 1].
        probabilities: (boxes, classes + 1) rows that sum to 1.
    """

    counts: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.floating]
    scores: Array
    probabilities: Array


def lonely_faint(boxes: Boxes) -> Array:
    """(boxes,) scores of the faint boxes that no confident one covers by half; 0 for all others."""
    result = np.where(boxes.scores < _CONFIDENT, boxes.scores, 0.0)
    ends = np.cumsum(boxes.counts)
    for image in np.flatnonzero(boxes.counts > 1):
        here = slice(ends[image] - boxes.counts[image], ends[image])
        faint = boxes.scores[here] < _CONFIDENT
        if not faint.any() or faint.all():
            continue
        corners = boxes.boxes[here].astype(np.float64)
        one, other = corners[faint][:, None], corners[~faint][None]
        sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
        covered = np.maximum(sides, 0).prod(axis=-1).max(axis=1)
        area = np.maximum(corners[faint, 2:] - corners[faint, :2], 0).prod(axis=1)
        values = result[here]
        values[np.flatnonzero(faint)[covered >= _COVERED * area]] = 0
    return result


@dataclass(frozen=True)
class Score:
    """A score that comes from what each box contributes.

    Attributes:
        of_boxes: Boxes to their contributions, (boxes,) in [0, 1].
        joined: How those of an image become one; ``any`` is 1 minus the product of 1 minus each.
    """

    of_boxes: Callable[[Boxes], Array]
    joined: Literal["max", "mean", "sum", "any"]

    def of_images(self, contributions: Array, counts: npt.NDArray[np.int64]) -> Array:
        """(boxes,) contributions → (images,) scores, 0 without boxes."""
        if self.joined == "max":
            return per_image_maximum(contributions, counts)[0]
        image = np.repeat(np.arange(len(counts)), counts)
        if self.joined == "any":
            with np.errstate(divide="ignore"):
                logarithms = np.bincount(image, weights=np.log1p(-contributions), minlength=len(counts))
            return -np.expm1(logarithms) + 0.0
        sums: Array = np.bincount(image, weights=contributions, minlength=len(counts)).astype(np.float64)
        return sums if self.joined == "sum" else sums / np.maximum(counts, 1)


OF_BOXES = {
    "objectness_least_confidence": Score(lambda boxes: 1 - boxes.scores, "mean"),
    "uncertainty_least_confidence": Score(lambda boxes: least_confidence(boxes.probabilities), "max"),
    "uncertainty_margin": Score(lambda boxes: margin(boxes.probabilities), "max"),
    "uncertainty_entropy": Score(lambda boxes: entropy(boxes.probabilities), "max"),
    "objectness_margin": Score(lambda boxes: 1 - np.abs(2 * boxes.scores - 1), "mean"),
    "entropy_mean": Score(lambda boxes: entropy(boxes.probabilities), "mean"),
    "entropy_sum": Score(lambda boxes: entropy(boxes.probabilities), "sum"),
    "suspected_misses": Score(lonely_faint, "any"),
}
NAMES = ("object_frequency", *OF_BOXES)
LIGHTLYS = NAMES[:5]
WEIGHTED = "_weighted"
