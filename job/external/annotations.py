"""Predictions as COCO and Lightly write them: objects with category_id, bbox, score and, optionally, probabilities."""

from collections.abc import Callable
from typing import Any

import numpy as np

from job.external.batch import MIXED_PROBABILITIES, Batch, Floats, Image, check_batch
from job.external.categories import Categories
from job.external.layouts import CORNER_SIZE
from job.external.problems import Problems, shorten
from job.names import quantify

_NUMBER_TYPES = {int, float}  # without bool, so that True and False do not pass for 1 and 0


def make_batch(images: list[tuple[Image, list[Any]]], categories: Categories) -> Batch:
    """Checks images with their predictions and makes a batch of them.

    Args:
        images: Each image with its predictions, as parsed from JSON.
        categories: The categories that the predictions refer to.

    Raises:
        SettingsError: If a prediction is invalid.
    """
    predictions = [prediction for _, of_image in images for prediction in of_image]
    width = _count_probabilities(predictions, len(categories.names))
    _check_types(images, categories, width)
    probabilities = None
    if width:
        in_file_order = _to_floats([prediction["probabilities"] for prediction in predictions], width)
        background = np.arange(len(categories.names), width)
        probabilities = in_file_order[:, [*categories.order, *background]]
    boxes = _to_floats([prediction["bbox"] for prediction in predictions], 4)
    with np.errstate(over="ignore", invalid="ignore"):  # `check_batch` reports boxes that are not finite
        boxes[:, 2:] += boxes[:, :2]
    batch = Batch(
        images=[image for image, _ in images],
        counts=np.array([len(of_image) for _, of_image in images], np.int64),
        boxes=boxes,
        scores=_to_floats([[prediction["score"]] for prediction in predictions], 1)[:, 0],
        classes=np.array([categories.index[prediction["category_id"]] for prediction in predictions], np.int64),
        probabilities=probabilities,
    )
    check_batch(batch, CORNER_SIZE, len(categories.names))
    return batch


def _count_probabilities(predictions: list[Any], num_classes: int) -> int:
    """The number of probabilities that each box must have: none, one per class, or one more for the background."""
    given = [prediction.get("probabilities") for prediction in predictions if isinstance(prediction, dict)]
    given = [values for values in given if values is not None]
    if not given:
        return 0
    return num_classes + all(isinstance(values, list) and len(values) == num_classes + 1 for values in given)


def _check_types(images: list[tuple[Image, list[Any]]], categories: Categories, num_probabilities: int) -> None:
    """Refuses predictions that cannot become arrays."""
    problems = Problems()
    find_problem = _make_checker(categories, num_probabilities)
    for image, predictions in images:
        for prediction in predictions:
            if (problem := find_problem(prediction)) is not None:
                problems.add(image.uri, f"{image} has {problem}")
    problems.raise_if_any()


def _make_checker(categories: Categories, num_probabilities: int) -> Callable[[Any], str | None]:
    ids, num_classes = ", ".join(map(str, sorted(categories.index))), len(categories.names)

    def find_problem(prediction: Any) -> str | None:
        if type(prediction) is not dict:
            return f"the prediction {shorten(prediction)}. Give an object with category_id, bbox and score."
        box, score, category = prediction.get("bbox"), prediction.get("score"), prediction.get("category_id")
        if type(category) is not int or category not in categories.index:
            return (
                f"the category_id {shorten(category)}, which is not one of the categories {shorten(ids)}. Correct it, "
                "or add the category."
            )
        if score is None:
            return "a box without a score. Give predictions with scores; labels without scores cannot be used."
        if type(score) not in _NUMBER_TYPES:
            return f"the score {shorten(score)}, which is not a number from 0 to 1. Give the detection confidence."
        if not _is_list(box, 4):
            return f"the bbox {shorten(box)}. Give four numbers: {CORNER_SIZE} in pixels."
        if not num_probabilities:
            return None
        return _find_probability_problem(prediction.get("probabilities"), num_probabilities, num_classes)

    return find_problem


def _find_probability_problem(probabilities: Any, expected: int, num_classes: int) -> str | None:
    if probabilities is None:
        return f"a box without class probabilities: {MIXED_PROBABILITIES}"
    if _is_list(probabilities, expected):
        return None
    length = quantify(len(probabilities), "value") if isinstance(probabilities, list) else "not a list"
    background = "and that of the background as the last" if expected > num_classes else "without the background"
    return (
        f"the probabilities {shorten(probabilities)} ({length}). Give {expected} numbers: one per category, in the "
        f"order of the categories, {background}."
    )


def _is_list(values: Any, length: int) -> bool:
    return type(values) is list and len(values) == length and set(map(type, values)) <= _NUMBER_TYPES


def _to_floats(rows: list[list[float]], width: int) -> Floats:
    """(len(rows), width) floats; integers that are too large for a float become infinity."""
    try:
        return np.array(rows, np.float64).reshape(-1, width)
    except OverflowError:
        return np.array([[_to_float(number) for number in row] for row in rows], np.float64).reshape(-1, width)


def _to_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return float("inf")
