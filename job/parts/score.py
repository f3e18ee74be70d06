"""Scores of the images of one part, from the boxes that were detected on them.

The map step writes them into the part, so that the reduce step reads boxes and probabilities only where classes have
weights, which the map step does not know.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from job import scores
from job.parts.columns import CLASS_COUNTS, CLASS_SUMS, flatten_lists, make_column, name_score_columns

Floats = npt.NDArray[np.float64]

# Boxes below this confidence are called low-confidence: 0.5 is the usual threshold for a detection that counts.
LOW_CONFIDENCE = 0.2
BOX_COLUMNS = ("boxes", "scores", "classes", "class_probabilities")


@dataclass(frozen=True)
class ImageScores:
    """Scores of n images, and k pairs of an image and a class that is predicted on it.

    Attributes:
        num_boxes: (n,) numbers of boxes.
        expected_boxes: (n,) sums of the boxes' confidences.
        values: (n,) values of each score by name, before `over_pool`; empty without a detector.
        classes_per_image: (n,) numbers of predicted classes.
        class_counts: (k, 3) class, number of its boxes on the image, and number of those that are low-confidence;
            image after image, by class.
        class_sums: (k, 2) sums over these boxes: confidence, and entropy of the class probabilities.
    """

    num_boxes: npt.NDArray[np.int64]
    expected_boxes: Floats
    values: Mapping[str, Floats]
    classes_per_image: npt.NDArray[np.int64]
    class_counts: npt.NDArray[np.int32]
    class_sums: npt.NDArray[np.float32]


def score_images(table: pa.Table, num_classes: int) -> ImageScores:
    """Scores images.

    Args:
        table: Rows of usable images, with `BOX_COLUMNS`.
        num_classes: Number of the detector's classes; 0 without a detector.
    """
    boxes = make_boxes(table)
    expected = np.bincount(boxes.images, weights=boxes.scores, minlength=len(boxes.counts)).astype(np.float64)
    if num_classes == 0:
        none = np.zeros_like(boxes.counts), np.zeros((0, 3), np.int32), np.zeros((0, 2), np.float32)
        return ImageScores(boxes.counts, expected, {}, *none)
    pairs, pair = np.unique(boxes.images * num_classes + boxes.classes, return_inverse=True)

    def add_up(per_box: npt.NDArray[np.floating | np.bool_]) -> Floats:
        return np.bincount(pair, weights=per_box, minlength=len(pairs)).astype(np.float64)

    per_class = (pairs % num_classes, np.bincount(pair, minlength=len(pairs)), add_up(boxes.scores < LOW_CONFIDENCE))
    sums = (add_up(boxes.scores), add_up(scores.entropy(boxes.probabilities)))
    return ImageScores(
        num_boxes=boxes.counts,
        expected_boxes=expected,
        values=_score_values(boxes, np.ones(num_classes)),
        classes_per_image=np.bincount(pairs // num_classes, minlength=len(boxes.counts)),
        class_counts=np.stack(per_class, axis=1).astype(np.int32),
        class_sums=np.stack(sums, axis=1).astype(np.float32),
    )


def score_weighted(table: pa.Table, class_weights: Floats) -> dict[str, Floats]:
    """Computes (n,) values of each score by name, with weights of classes and before `over_pool`.

    Args:
        table: Rows of usable images, with `BOX_COLUMNS`.
        class_weights: (classes,) weights from 0 to 1.
    """
    return _score_values(make_boxes(table), class_weights)


def make_columns(table: pa.Table, num_classes: int) -> dict[str, pa.Array]:
    """Makes the columns of a part that hold the scores, by name; null for unusable images.

    Args:
        table: All rows of the part, with its ``status`` and `BOX_COLUMNS`.
        num_classes: Number of the detector's classes; 0 without a detector.
    """
    usable = pc.equal(table["status"], "ok").to_numpy()
    rows = np.flatnonzero(usable)
    scored = score_images(table.select(BOX_COLUMNS).take(pa.array(rows)), num_classes)

    def spread(values: npt.NDArray[np.generic] | None, kind: pa.DataType) -> pa.Array:
        if values is None:
            return pa.nulls(len(table), kind)
        whole = np.zeros(len(table), values.dtype)
        whole[rows] = values
        return pa.array(whole, kind, mask=~usable)

    def spread_lists(values: npt.NDArray[np.generic], kind: pa.DataType) -> pa.Array:
        lists = iter(np.split(values, np.cumsum(scored.classes_per_image)[:-1]))
        return make_column([next(lists) if is_usable else None for is_usable in usable], kind)

    return {
        "num_boxes": spread(scored.num_boxes, pa.int32()),
        "expected_boxes": spread(scored.expected_boxes, pa.float64()),
        **{column: spread(scored.values.get(name), pa.float64()) for name, column in name_score_columns().items()},
        CLASS_COUNTS.name: spread_lists(scored.class_counts, CLASS_COUNTS.type),
        CLASS_SUMS.name: spread_lists(scored.class_sums, CLASS_SUMS.type),
    }


def read_columns(table: pa.Table, num_classes: int) -> ImageScores:
    """Reads what `make_columns` made, of usable images.

    Args:
        table: Rows of usable images, with these columns.
        num_classes: Number of the detector's classes; 0 without a detector.
    """
    counts, per_image = flatten_lists(table[CLASS_COUNTS.name])
    return ImageScores(
        num_boxes=table["num_boxes"].to_numpy().astype(np.int64),
        expected_boxes=table["expected_boxes"].to_numpy(),
        values={name: table[column].to_numpy() for name, column in name_score_columns().items()} if num_classes else {},
        classes_per_image=per_image,
        class_counts=counts,
        class_sums=flatten_lists(table[CLASS_SUMS.name])[0],
    )


def make_boxes(table: pa.Table) -> scores.Boxes:
    """Makes the boxes of usable images from their rows, with `BOX_COLUMNS`."""
    confidences, counts = flatten_lists(table["scores"])
    return scores.Boxes(
        counts=counts,
        boxes=flatten_lists(table["boxes"])[0],
        scores=confidences.astype(np.float64),
        classes=flatten_lists(table["classes"])[0],
        probabilities=scores.normalize(flatten_lists(table["class_probabilities"])[0]),
    )


def _score_values(boxes: scores.Boxes, class_weights: Floats) -> dict[str, Floats]:
    values = {}
    for score in scores.TABLE.values():
        contributions = score.contributions(boxes) * class_weights[boxes.classes]
        values[score.name] = score.join(boxes, contributions)
    return values
