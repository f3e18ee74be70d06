"""Predictions as COCO and Lightly write them: objects with category_id, bbox, score and, optionally, probabilities."""

from collections.abc import Callable
from typing import Any

import numpy as np

from job.external.batch import MIXED_PROBABILITIES, Batch, Floats, Image, check_batch
from job.external.categories import Categories
from job.external.problems import Problems, shorten

_BOX_LAYOUT = "[left, top, width, height]"
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
    with_probabilities = any(
        isinstance(prediction, dict) and prediction.get("probabilities") is not None for prediction in predictions
    )
    _check_types(images, categories, with_probabilities=with_probabilities)
    probabilities = None
    if with_probabilities:
        in_file_order = _to_floats([prediction["probabilities"] for prediction in predictions], len(categories.names))
        probabilities = in_file_order[:, categories.order]
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
    check_batch(batch, _BOX_LAYOUT)
    return batch


def _check_types(images: list[tuple[Image, list[Any]]], categories: Categories, *, with_probabilities: bool) -> None:
    """Refuses predictions that cannot become arrays."""
    problems = Problems()
    find_problem = _make_checker(categories, with_probabilities=with_probabilities)
    for image, predictions in images:
        for prediction in predictions:
            if (problem := find_problem(prediction)) is not None:
                problems.add(image.uri, f"{image} has {problem}")
    problems.raise_if_any()


def _make_checker(categories: Categories, *, with_probabilities: bool) -> Callable[[Any], str | None]:
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
            return f"the bbox {shorten(box)}. Give four numbers: {_BOX_LAYOUT} in pixels."
        if not with_probabilities:
            return None
        return _find_probability_problem(prediction.get("probabilities"), num_classes)

    return find_problem


def _find_probability_problem(probabilities: Any, num_classes: int) -> str | None:
    if probabilities is None:
        return f"a box without class probabilities: {MIXED_PROBABILITIES}"
    if _is_list(probabilities, num_classes):
        return None
    length = f"{len(probabilities)} values" if isinstance(probabilities, list) else "not a list"
    return (
        f"the probabilities {shorten(probabilities)} ({length}). Give {num_classes} numbers: one per category, in the "
        "order of the categories, without the background."
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
