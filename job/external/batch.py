"""Some images with their predictions side by side: checked, and made into rows of parts."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from job.external import distributions
from job.external.problems import Problems, shown
from job.parts import Row

T = TypeVar("T")
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# The distributions of a batch are held in float64: those of 128 images with 300 boxes of 1200 classes take 370 MB.
IMAGES_PER_BATCH = 128
MIXED = "some boxes have class probabilities and others have none: give them for all boxes, or for none."

_LARGEST = float(np.finfo(np.float32).max)
_LONGEST_SIDE = 2**31 - 1  # what a column of a part holds
_ROUNDING = 1e-6  # sums and means in float32 may come out above 1
# The probability of a predicted class may be rounded to 0, at worst to two digits, but then its score is small, too.
_SCORE_OF_NOTHING = 0.01


@dataclass(frozen=True)
class Image:
    """An image that predictions are about.

    Attributes:
        where: The file that they are in.
        name: File name.
        width: Pixels; None where it is not known.
        height: Likewise.
    """

    where: str
    name: str
    width: int | None = None
    height: int | None = None

    def __str__(self) -> str:
        return f"image {shown(self.name)}"


@dataclass(frozen=True)
class Batch:
    """Images with their boxes, image after image.

    Attributes:
        images: The images.
        counts: (images,) how many boxes each has.
        boxes: (boxes, 4) left, top, right, bottom.
        scores: (boxes,).
        classes: (boxes,) class indices.
        probabilities: (boxes, classes) as they were given; None if they were not.
    """

    images: list[Image]
    counts: Integers
    boxes: Floats
    scores: Floats
    classes: Integers
    probabilities: Floats | None


@dataclass(frozen=True)
class Reading:
    """Predictions in the course of being read.

    Attributes:
        class_names: By class index.
        batches: All images, checked.
    """

    class_names: tuple[str, ...]
    batches: Iterator[Batch]


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """Yields items in lists as long as a batch."""
    iterator = iter(items)
    while chunk := list(islice(iterator, IMAGES_PER_BATCH)):
        yield chunk


def image(where: str, name: str, width: Any, height: Any, problems: Problems) -> Image:
    """An image with its size, which is known as a whole or not at all."""
    for side, value in (("width", width), ("height", height)):
        if value is not None and not _is_side(value):
            problems.add(
                where,
                f"image {shown(name)} has the {side} {shown(value)}, which is no number of pixels: correct it, or "
                "leave width and height out.",
            )
            return Image(where, name)
    if width is None or height is None:
        return Image(where, name)
    return Image(where, name, int(width), int(height))


def _is_side(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= _LONGEST_SIDE and value == int(value)


def check(batch: Batch, layout: str) -> None:
    """Refuses values that cannot be.

    Args:
        batch: With class indices that are known to be right.
        layout: How its format writes a box.

    Raises:
        SettingsError: There are such.
    """
    problems = Problems()
    image_of = np.repeat(np.arange(len(batch.images)), batch.counts)

    def tell(wrong: npt.ArrayLike, sentence: Callable[[int], str]) -> None:
        for box in np.flatnonzero(wrong).tolist():
            at = batch.images[image_of[box]]
            problems.add(at.where, f"{at} has {sentence(box)}")

    # NaN meets none of these conditions.
    scores = (batch.scores >= 0) & (batch.scores <= 1 + _ROUNDING)
    tell(
        ~scores,
        lambda box: (
            f"the score {batch.scores[box]:g}, which is no number from 0 to 1: give the probability of the box."
        ),
    )
    left, top, right, bottom = batch.boxes.T
    boxes = (np.abs(batch.boxes) <= _LARGEST).all(axis=1) & (right >= left) & (bottom >= top)
    tell(
        ~boxes,
        lambda box: (
            f"the box {batch.boxes[box].tolist()} (left, top, right, bottom), whose numbers are not finite or whose "
            f"sides are interchanged: write a box as {layout} in pixels."
        ),
    )
    if batch.probabilities is not None:
        _check_probabilities(batch.probabilities, batch, tell)
    problems.settle()


def _check_probabilities(
    given: Floats, batch: Batch, tell: Callable[[npt.ArrayLike, Callable[[int], str]], None]
) -> None:
    wrong = ~((given >= 0) & (given <= 1 + _ROUNDING))
    tell(
        wrong.any(axis=1),
        lambda box: (
            f"the class probability {given[box][wrong[box]][0]:g}, which is no number from 0 to 1: give what the "
            "softmax or the sigmoids give."
        ),
    )
    own = given[np.arange(len(given)), batch.classes]
    tell(
        (own == 0) & (batch.scores > _SCORE_OF_NOTHING),
        lambda box: (
            f"a box of score {batch.scores[box]:g} whose class has the probability 0: give the probabilities in the "
            "order of the classes, without the background."
        ),
    )


def rows_of(batch: Batch, num_classes: int, min_score: float) -> list[Row]:
    """The rows of parts that a checked batch becomes.

    Args:
        batch: The batch.
        num_classes: Number of classes.
        min_score: Boxes of a lower score are left out.
    """
    image_of = np.repeat(np.arange(len(batch.images)), batch.counts)
    order = np.lexsort((-batch.scores, image_of))
    order = order[batch.scores[order] >= min_score]
    scores, classes = np.minimum(batch.scores[order], 1), batch.classes[order]
    if batch.probabilities is None:
        rows = distributions.synthetic(scores, classes, num_classes)
    else:
        rows = distributions.external(scores, classes, batch.probabilities[order])
    ends = np.cumsum(np.bincount(image_of[order], minlength=len(batch.images)))[:-1]
    columns = zip(
        batch.images,
        np.split(batch.boxes[order].astype(np.float32), ends),
        np.split(scores.astype(np.float32), ends),
        np.split(classes.astype(np.int32), ends),
        np.split(rows.astype(np.float16), ends),
        strict=True,
    )
    return [
        Row(at.name, "", 0, "ok", None, at.width, at.height, box, score, kind, row, b"")
        for at, box, score, kind, row in columns
    ]
