"""Active-learning scores of images: one record per score, with its formula and its words.

A higher score means that an image is more worth labelling. To add a score, add its record to `TABLE` and its name, in
the same place, to `SCORES` in job/settings/choices.py. Parts have a column of each score, so `SCHEMA_VERSION` in
job/parts/provenance.py must grow as well.

The first five are lightly's, by the formulas of ``ScorerObjectDetection`` in lightly 1.4.6, the last release that had
them. All but the first are 0 for an image without boxes.

The last column of the class probabilities is the background. So "is there an object at all" counts as uncertainty, and
a model of one class has an uncertainty too. lightly itself adds such a column for a model of one class.
"""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from job.names import quantify
from job.settings import choices

Array = npt.NDArray[np.float64]

# Follows the name of a score in which class weights count.
WEIGHTED = "_weighted"

_REPETITION = 0.25
_LOWEST_FREQUENCY = 0.9
_CONFIDENT = 0.5
_COVERED_SHARE = 0.5
_MAX_CLASSES_IN_WORDS = 4


@dataclass(frozen=True)
class Boxes:
    """The boxes of some images, image after image.

    Attributes:
        counts: (images,) number of boxes of each image.
        boxes: (boxes, 4) left, top, right, bottom.
        scores: (boxes,) detection confidences in [0, 1].
        classes: (boxes,) indices of the predicted classes.
        probabilities: (boxes, classes + 1) class probabilities, background last; rows sum to 1.
    """

    counts: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.floating]
    scores: Array
    classes: npt.NDArray[np.integer]
    probabilities: Array

    @property
    def images(self) -> npt.NDArray[np.int64]:
        """(boxes,) index of the image of each box."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


@dataclass(frozen=True)
class Score:
    """All that the job knows about one active-learning score.

    With class weights, `join` gets each contribution multiplied by the weight of the box's predicted class over the
    largest weight.

    Attributes:
        name: Value of CORAL_SCORE, and name of the column in images.parquet.
        title: Title of the report's strip of the images with the highest score; None for no strip.
        formula: Formula for the docs, where s is the detection confidence of a box, p its class probabilities, and H
            their entropy, divided by that of a uniform distribution.
        range: Lowest and highest value, in words.
        favours: Which images get a high score, to follow the word "favours".
        uses_probabilities: Whether it depends on the class probabilities, and not on boxes and confidences alone.
        contributions: Function from boxes to what each contributes, (boxes,) in [0, 1].
        join: Function from boxes and their contributions to one value per image, (images,).
        over_pool: Function from the values of all images of the pool, (images,), to their scores.
        describe: Function that says in words where the score of one image comes from. It gets the image's boxes, their
            contributions, of which at least one is above 0, and the class names.
    """

    name: str
    title: str | None
    formula: str
    range: str
    favours: str
    uses_probabilities: bool
    contributions: Callable[[Boxes], Array]
    join: Callable[[Boxes, Array], Array]
    over_pool: Callable[[Array], Array]
    describe: Callable[[Boxes, Array, Sequence[str]], str]


def normalize(probabilities: npt.NDArray[np.floating]) -> Array:
    """Converts rows to float64 that sum to exactly 1; those in half precision only nearly do."""
    is_half = probabilities.dtype == np.float16
    rows = _list_halves()[probabilities.view(np.uint16)] if is_half else probabilities.astype(np.float64)
    rows /= rows.sum(axis=1, keepdims=True)
    return rows


@functools.cache
def _list_halves() -> Array:
    """All values in half precision, by their bits: numpy takes four times as long to convert very small ones."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)


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


def possible_misses(boxes: Boxes) -> Array:
    """(boxes,) scores of the low-confidence boxes that no confident box covers by half; 0 for all others."""
    result = np.where(boxes.scores < _CONFIDENT, boxes.scores, 0.0)
    ends = np.cumsum(boxes.counts)
    for image in np.flatnonzero(boxes.counts > 1):
        rows = slice(ends[image] - boxes.counts[image], ends[image])
        low = boxes.scores[rows] < _CONFIDENT
        if not low.any() or low.all():
            continue
        corners = boxes.boxes[rows].astype(np.float64)
        one, other = corners[low][:, None], corners[~low][None]
        sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
        covered = np.maximum(sides, 0).prod(axis=-1).max(axis=1)
        area = np.maximum(corners[low, 2:] - corners[low, :2], 0).prod(axis=1)
        values = result[rows]
        values[np.flatnonzero(low)[covered >= _COVERED_SHARE * area]] = 0
    return result


def _group_by_class(boxes: Boxes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each class on each image, image after image: index of its first box, and its number of boxes there."""
    pairs = boxes.images * (boxes.classes.max(initial=0) + 1) + boxes.classes
    _, first, repeats = np.unique(pairs, return_index=True, return_counts=True)
    return first, repeats


def _mark_first_of_class(boxes: Boxes) -> Array:
    """(boxes,) 1 for the first box of each class on each image; 0 for all others."""
    result = np.zeros(len(boxes.classes))
    result[_group_by_class(boxes)[0]] = 1
    return result


def per_image_maximum(values: Array, counts: npt.NDArray[np.int64]) -> tuple[Array, npt.NDArray[np.int64]]:
    """The largest value of each image's boxes, and which box has it.

    Args:
        values: (boxes,) not negative, image after image.
        counts: (images,) number of boxes of each image.

    Returns:
        (images,) largest values, 0 without boxes; and (images,) indices into `values` of the first such box, -1
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


def _join_maximum(boxes: Boxes, contributions: Array) -> Array:
    return per_image_maximum(contributions, boxes.counts)[0]


def _join_sum(boxes: Boxes, contributions: Array) -> Array:
    return np.bincount(boxes.images, weights=contributions, minlength=len(boxes.counts)).astype(np.float64)


def _join_mean(boxes: Boxes, contributions: Array) -> Array:
    result: Array = _join_sum(boxes, contributions) / np.maximum(boxes.counts, 1)
    return result


def _join_any(boxes: Boxes, contributions: Array) -> Array:
    """1 minus the product of 1 minus each contribution."""
    with np.errstate(divide="ignore"):
        logarithms = np.bincount(boxes.images, weights=np.log1p(-contributions), minlength=len(boxes.counts))
    return -np.expm1(logarithms) + 0.0


def _join_classes(boxes: Boxes, contributions: Array) -> Array:
    """The sum over the classes: what the first box of each contributes, and a quarter of it per repetition."""
    first, repeats = _group_by_class(boxes)
    weights = (1 + _REPETITION * (repeats - 1)) * contributions[first]
    return np.bincount(boxes.images[first], weights=weights, minlength=len(boxes.counts)).astype(np.float64)


def _keep(values: Array) -> Array:
    return values


def _stretch(values: Array) -> Array:
    """(images,) values of the whole pool → (images,) in [0.9, 1]; all 1 if all values are equal."""
    if len(values) == 0 or values.min() == values.max():
        return np.ones(len(values))
    return np.interp(values, [values.min(), values.max()], [_LOWEST_FREQUENCY, 1.0])


def count_boxes(boxes: Boxes) -> str:
    """The number of boxes in words."""
    return quantify(len(boxes.scores), "box", "boxes")


def _name_top_box(boxes: Boxes, contributions: Array, class_names: Sequence[str]) -> str:
    """Class and confidence of the box that contributes most."""
    top = contributions.argmax()
    return f"{class_names[int(boxes.classes[top])]} ({boxes.scores[top]:.2f})"


def _name_outcomes(boxes: Boxes, contributions: Array, class_names: Sequence[str]) -> list[str]:
    """The two most probable outcomes of the box that contributes most, and its own class with its confidence.

    Without class probabilities, the background is only what the confidence leaves, so the class is named alone.
    """
    top = contributions.argmax()
    own, probabilities = int(boxes.classes[top]), boxes.probabilities[top]
    if not np.delete(probabilities[:-1], own).any():
        return [_name_top_box(boxes, contributions, class_names)]
    shown, names = probabilities.copy(), [*class_names, "background"]
    shown[own] = boxes.scores[top]  # some heads give the predicted class another probability, see `job.detect.yolo`
    outcomes = {own, *np.argsort(-probabilities, kind="stable")[:2].tolist()}
    return [f"{names[outcome]} ({shown[outcome]:.2f})" for outcome in sorted(outcomes, key=lambda index: -shown[index])]


def _describe_classes(boxes: Boxes, _: Array, class_names: Sequence[str]) -> str:
    counts = Counter(class_names[int(index)] for index in boxes.classes).most_common(_MAX_CLASSES_IN_WORDS)
    return ", ".join(f"{count} {name}" for name, count in counts)


def _describe_confidence(boxes: Boxes, _: Array, __: Sequence[str]) -> str:
    return f"{count_boxes(boxes)}, mean confidence {boxes.scores.mean():.2f}"


def _describe_ambiguity(boxes: Boxes, contributions: Array, class_names: Sequence[str]) -> str:
    return f"{count_boxes(boxes)}; most ambiguous: {_name_top_box(boxes, contributions, class_names)}"


def _describe_uncertainty(boxes: Boxes, contributions: Array, class_names: Sequence[str]) -> str:
    *others, last = _name_outcomes(boxes, contributions, class_names)
    if others:
        return f"uncertain between {', '.join(others)} and {last}"
    is_confident = boxes.scores[contributions.argmax()] >= _CONFIDENT
    return f"most uncertain: {last}" if is_confident else f"a low-confidence {last}"


def _describe_entropies(boxes: Boxes, contributions: Array, class_names: Sequence[str]) -> str:
    outcomes = " or ".join(_name_outcomes(boxes, contributions, class_names))
    return f"{count_boxes(boxes)}, total entropy {contributions.sum():.2f}; most uncertain: {outcomes}"


def _describe_misses(boxes: Boxes, contributions: Array, class_names: Sequence[str]) -> str:
    number = quantify(int(np.count_nonzero(contributions)), "low-confidence box", "low-confidence boxes")
    return f"{number} away from any confident one; strongest: {_name_top_box(boxes, contributions, class_names)}"


_RECORDS = (
    Score(
        name="object_frequency",
        title=None,
        formula="1 for each class present, 0.25 for each repetition, stretched over the pool to 0.9 ... 1",
        range="0.9 to 1",
        favours="images with many objects of many classes",
        uses_probabilities=False,
        contributions=_mark_first_of_class,
        join=_join_classes,
        over_pool=_stretch,
        describe=_describe_classes,
    ),
    Score(
        name="objectness_least_confidence",
        title="Low-confidence boxes",
        formula="mean of 1 - s",
        range="0 to 1",
        favours="images with low-confidence boxes",
        uses_probabilities=False,
        contributions=lambda boxes: 1 - boxes.scores,
        join=_join_mean,
        over_pool=_keep,
        describe=_describe_confidence,
    ),
    Score(
        name="uncertainty_least_confidence",
        title="No likely class",
        formula="largest 1 - max p, divided by its value for a uniform distribution",
        range="0 to 1",
        favours="images with a box without a likely class",
        uses_probabilities=True,
        contributions=lambda boxes: least_confidence(boxes.probabilities),
        join=_join_maximum,
        over_pool=_keep,
        describe=_describe_uncertainty,
    ),
    Score(
        name="uncertainty_margin",
        title="Uncertain between two classes",
        formula="largest 1 - (highest p - second highest p)",
        range="0 to 1",
        favours="images with a box between two classes",
        uses_probabilities=True,
        contributions=lambda boxes: margin(boxes.probabilities),
        join=_join_maximum,
        over_pool=_keep,
        describe=_describe_uncertainty,
    ),
    Score(
        name="uncertainty_entropy",
        title="Uncertain between many classes",
        formula="largest H",
        range="0 to 1",
        favours="images with a box between several classes",
        uses_probabilities=True,
        contributions=lambda boxes: entropy(boxes.probabilities),
        join=_join_maximum,
        over_pool=_keep,
        describe=_describe_uncertainty,
    ),
    Score(
        name="objectness_margin",
        title="Objectness near 0.5",
        formula="mean of 1 - |2 s - 1|",
        range="0 to 1",
        favours="images with boxes that may or may not be objects",
        uses_probabilities=False,
        contributions=lambda boxes: 1 - np.abs(2 * boxes.scores - 1),
        join=_join_mean,
        over_pool=_keep,
        describe=_describe_ambiguity,
    ),
    Score(
        name="entropy_mean",
        title="High mean entropy",
        formula="mean H",
        range="0 to 1",
        favours="images on which all boxes are uncertain",
        uses_probabilities=True,
        contributions=lambda boxes: entropy(boxes.probabilities),
        join=_join_mean,
        over_pool=_keep,
        describe=_describe_entropies,
    ),
    Score(
        name="entropy_sum",
        title="High total entropy",
        formula="sum of H, as in PPAL (Yang et al., CVPR 2024); where it drives a selection, divided by the 99th "
        "percentile of the pool if that is above 1",
        range="0 or more",
        favours="crowded images, which also take longer to label",
        uses_probabilities=True,
        contributions=lambda boxes: entropy(boxes.probabilities),
        join=_join_sum,
        over_pool=_keep,
        describe=_describe_entropies,
    ),
    Score(
        name="suspected_misses",
        title="Possible misses",
        formula="1 - product of (1 - s) over the boxes with s < 0.5 that no box with s >= 0.5 covers by half",
        range="0 to 1",
        favours="images on which the detector may have missed objects",
        uses_probabilities=False,
        # If the confidences were independent probabilities, this is the chance that at least one box is an object.
        contributions=possible_misses,
        join=_join_any,
        over_pool=_keep,
        describe=_describe_misses,
    ),
)


def _check_names(table: Mapping[str, Score]) -> None:
    if tuple(table) != choices.SCORES:
        raise ImportError(
            f"job/scores.py has the scores {', '.join(table)}, and job/settings/choices.py names "
            f"{', '.join(choices.SCORES)}: give both the same names in the same order."
        )


TABLE = {score.name: score for score in _RECORDS}
_check_names(TABLE)
# Without class probabilities, these say no more than how far the detection confidence is from 0.5.
OF_PROBABILITIES = tuple(score.name for score in _RECORDS if score.uses_probabilities)


def markdown_table() -> str:
    """The table of scores in docs/selection.md, without a line break at its end."""
    lines = ["| `CORAL_SCORE` | formula | range | favours |", "|---|---|---|---|"]
    for score in TABLE.values():
        formula = score.formula.replace("|", "\\|")
        lines.append(f"| `{score.name}` | {formula} | {score.range} | {score.favours} |")
    return "\n".join(lines)
