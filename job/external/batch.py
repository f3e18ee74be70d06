"""A batch of images with their predictions: checked, and made into rows of parts."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from job.external import distributions
from job.external.layouts import CORNER_SIZE, CORNERS, Layout
from job.external.problems import Problems, shorten
from job.parts import Row

T = TypeVar("T")
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# The distributions of a batch are held in float64: those of 128 images with 300 boxes of 1200 classes take 370 MB.
IMAGES_PER_BATCH = 128
MIXED_PROBABILITIES = "some boxes have class probabilities and others do not. Give them for all boxes, or for none."

_MAX_COORDINATE = float(np.finfo(np.float32).max)
_MAX_SIDE = 2**31 - 1  # what a column of a part holds
_ROUNDING = 1e-6  # sums and means in float32 may come out above 1
# The probability of a predicted class may be rounded to 0, at worst to two digits, but then its score is also small.
_MAX_SCORE_WITHOUT_PROBABILITY = 0.01
_MAX_SUM_ERROR = 0.02  # of distributions with a background: half precision, or three digits per class


@dataclass(frozen=True)
class Image:
    """An image that has predictions.

    Attributes:
        uri: URI of the file that holds the predictions, for error messages.
        file_name: File name of the image.
        width: Width in pixels; None if unknown.
        height: Height in pixels; None if unknown.
    """

    uri: str
    file_name: str
    width: int | None = None
    height: int | None = None

    def __str__(self) -> str:
        return f"image {shorten(self.file_name)}"


@dataclass(frozen=True)
class Batch:
    """Images with their boxes, image after image.

    Attributes:
        images: The images.
        counts: (images,) number of boxes of each image.
        boxes: (boxes, 4) left, top, right, bottom in pixels.
        scores: (boxes,) detection confidences.
        classes: (boxes,) class indices.
        probabilities: (boxes, classes) class probabilities as given, or (boxes, classes + 1) with the background last;
            None if there are none.
    """

    images: list[Image]
    counts: Integers
    boxes: Floats
    scores: Floats
    classes: Integers
    probabilities: Floats | None


@dataclass(frozen=True)
class Reading:
    """Predictions that are read batch by batch.

    Attributes:
        class_names: Class names, by class index.
        layout: How the format writes a box.
        batches: Checked batches, which together hold all images.
        failures: Rows of images that cannot be used. Reading the batches adds them.
        warnings: What the user should know, as whole sentences. Reading the batches may add some.
    """

    class_names: tuple[str, ...]
    layout: Layout
    batches: Iterator[Batch]
    failures: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def iter_chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """Yields the items in lists of at most `IMAGES_PER_BATCH`."""
    iterator = iter(items)
    while chunk := list(islice(iterator, IMAGES_PER_BATCH)):
        yield chunk


def parse_image(uri: str, file_name: str, width: Any, height: Any, problems: Problems) -> Image:
    """Makes an image, with its size if both sides are known.

    Args:
        uri: URI of the file that holds the predictions.
        file_name: File name of the image.
        width: Width as given; None if unknown.
        height: Height as given; None if unknown.
        problems: Gets a problem if a side is not a whole number of pixels.
    """
    for side, value in (("width", width), ("height", height)):
        if value is not None and not _is_side(value):
            problems.add(
                uri,
                f"image {shorten(file_name)} has the {side} {shorten(value)}, which is not a whole number of pixels "
                f"from 1 to {_MAX_SIDE}. Correct it, or leave width and height out.",
            )
            return Image(uri, file_name)
    if width is None or height is None:
        return Image(uri, file_name)
    return Image(uri, file_name, int(width), int(height))


def _is_side(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= _MAX_SIDE and value == int(value)


def check_batch(batch: Batch, box_layout: str, num_classes: int) -> None:
    """Refuses values out of range.

    Args:
        batch: A batch with valid class indices.
        box_layout: How the file format writes a box.
        num_classes: Number of classes.

    Raises:
        SettingsError: If a score, a box or a class probability is invalid.
    """
    problems = Problems()
    image_of = np.repeat(np.arange(len(batch.images)), batch.counts)

    def report(invalid: npt.ArrayLike, describe: Callable[[int], str]) -> None:
        for box in np.flatnonzero(invalid).tolist():
            image = batch.images[image_of[box]]
            problems.add(image.uri, f"{image} has {describe(box)}")

    # NaN fails each of these conditions.
    valid_scores = (batch.scores >= 0) & (batch.scores <= 1 + _ROUNDING)
    report(
        ~valid_scores,
        lambda box: (
            f"the score {batch.scores[box]:g}, which is not a number from 0 to 1. Give the detection confidence."
        ),
    )
    left, top, right, bottom = batch.boxes.T

    def suggest(box: int) -> str:
        looks_sized = box_layout == CORNERS and (batch.boxes[box, 2:] > 0).all()
        return f" This one may be {CORNER_SIZE}." if looks_sized else ""

    valid_boxes = (np.abs(batch.boxes) <= _MAX_COORDINATE).all(axis=1) & (right >= left) & (bottom >= top)
    report(
        ~valid_boxes,
        lambda box: (
            f"the box {batch.boxes[box].tolist()} (left, top, right, bottom), whose numbers are not finite or whose "
            f"sides are swapped. Write a box as {box_layout} in pixels.{suggest(box)}"
        ),
    )
    if batch.probabilities is not None:
        _check_probabilities(batch.probabilities, batch, num_classes, report)
    problems.raise_if_any()


def _check_probabilities(
    probabilities: Floats,
    batch: Batch,
    num_classes: int,
    report: Callable[[npt.ArrayLike, Callable[[int], str]], None],
) -> None:
    invalid = ~((probabilities >= 0) & (probabilities <= 1 + _ROUNDING))
    report(
        invalid.any(axis=1),
        lambda box: (
            f"the class probability {probabilities[box][invalid[box]][0]:g}, which is not a number from 0 to 1. Give "
            "the output of the softmax or of the sigmoids."
        ),
    )
    own = probabilities[np.arange(len(probabilities)), batch.classes]
    report(
        (own == 0) & (batch.scores > _MAX_SCORE_WITHOUT_PROBABILITY),
        lambda box: (
            f"a box of score {batch.scores[box]:g} whose class has the probability 0. Give the probabilities in the "
            "order of the classes; that of the background may follow."
        ),
    )
    sums = probabilities.sum(axis=1)
    report(
        (np.abs(sums - 1) > _MAX_SUM_ERROR) & (probabilities.shape[1] > num_classes),
        lambda box: (
            f"{num_classes + 1} probabilities that sum to {sums[box]:.3g}. Give {num_classes} numbers without the "
            "background, or a distribution with the background last, which sums to 1."
        ),
    )


def make_rows(batch: Batch, num_classes: int, min_score: float) -> list[Row]:
    """Makes a row of a part for each image of a checked batch.

    Args:
        batch: The batch.
        num_classes: Number of classes.
        min_score: Boxes of a lower score are dropped.
    """
    image_of = np.repeat(np.arange(len(batch.images)), batch.counts)
    order = np.lexsort((-batch.scores, image_of))
    order = order[batch.scores[order] >= min_score]
    scores, classes = np.minimum(batch.scores[order], 1), batch.classes[order]
    if batch.probabilities is None:
        probabilities = distributions.synthesize(scores, classes, num_classes)
    elif batch.probabilities.shape[1] > num_classes:
        probabilities = np.minimum(batch.probabilities[order], 1)
    else:
        probabilities = distributions.add_background(scores, classes, batch.probabilities[order])
    ends = np.cumsum(np.bincount(image_of[order], minlength=len(batch.images)))[:-1]
    columns = zip(
        batch.images,
        np.split(batch.boxes[order].astype(np.float32), ends),
        np.split(scores.astype(np.float32), ends),
        np.split(classes.astype(np.int32), ends),
        np.split(probabilities.astype(np.float16), ends),
        strict=True,
    )
    return [
        Row(
            file_name=image.file_name,
            etag="",
            byte_size=0,
            status="ok",
            width=image.width,
            height=image.height,
            boxes=boxes_of_image,
            scores=scores_of_image,
            classes=classes_of_image,
            class_probabilities=probabilities_of_image,
            thumbnail=b"",
        )
        for image, boxes_of_image, scores_of_image, classes_of_image, probabilities_of_image in columns
    ]
