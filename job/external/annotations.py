"""Predictions as COCO and Lightly write them: objects with category_id, bbox, score and, maybe, probabilities."""

from collections.abc import Callable
from typing import Any

import numpy as np

from job.external.batch import MIXED, Batch, Floats, Image, check
from job.external.categories import Categories
from job.external.problems import Problems, shown

_LAYOUT = "[left, top, width, height]"
_NUMBERS = {int, float}  # and no True or False, which would pass for 1 and 0


def batch_of(found: list[tuple[Image, list[Any]]], categories: Categories) -> Batch:
    """Images with their predictions, checked.

    Raises:
        SettingsError: Something is wrong with a prediction.
    """
    everything = [each for _, predictions in found for each in predictions]
    with_probabilities = any(isinstance(each, dict) and each.get("probabilities") is not None for each in everything)
    _check_kinds(found, categories, with_probabilities=with_probabilities)
    probabilities = None
    if with_probabilities:
        in_file = _floats([each["probabilities"] for each in everything], len(categories.names))
        probabilities = in_file[:, categories.order]
    boxes = _floats([each["bbox"] for each in everything], 4)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told by `check`
        boxes[:, 2:] += boxes[:, :2]
    batch = Batch(
        images=[at for at, _ in found],
        counts=np.array([len(predictions) for _, predictions in found], np.int64),
        boxes=boxes,
        scores=_floats([[each["score"]] for each in everything], 1)[:, 0],
        classes=np.array([categories.index[each["category_id"]] for each in everything], np.int64),
        probabilities=probabilities,
    )
    check(batch, _LAYOUT)
    return batch


def _check_kinds(found: list[tuple[Image, list[Any]]], categories: Categories, *, with_probabilities: bool) -> None:
    """Refuses what arrays cannot be made of."""
    problems = Problems()
    problem_of = _checker(categories, with_probabilities=with_probabilities)
    for at, predictions in found:
        for each in predictions:
            if (problem := problem_of(each)) is not None:
                problems.add(at.where, f"{at} has {problem}")
    problems.settle()


def _checker(categories: Categories, *, with_probabilities: bool) -> Callable[[Any], str | None]:
    ids, count = ", ".join(map(str, sorted(categories.index))), len(categories.names)

    def problem(prediction: Any) -> str | None:
        if type(prediction) is not dict:
            return f"{shown(prediction)} for a prediction: give an object with category_id, bbox and score."
        box, score, category = prediction.get("bbox"), prediction.get("score"), prediction.get("category_id")
        if type(category) is not int or category not in categories.index:
            return f"the category_id {shown(category)}, which is not among the categories {shown(ids)}: add it to them."
        if score is None:
            return "a box without a score: give predictions, each with its score; labels have none."
        if type(score) not in _NUMBERS:
            return f"the score {shown(score)}, which is no number from 0 to 1: give the probability of the box."
        if not _is_list(box, 4):
            return f"the bbox {shown(box)}: give it as four numbers, {_LAYOUT} in pixels."
        return _about_probabilities(prediction.get("probabilities"), count) if with_probabilities else None

    return problem


def _about_probabilities(probabilities: Any, count: int) -> str | None:
    if probabilities is None:
        return f"a box without class probabilities: {MIXED}"
    if _is_list(probabilities, count):
        return None
    numbers = f"{len(probabilities)} values" if isinstance(probabilities, list) else "no list"
    return (
        f"the probabilities {shown(probabilities)} ({numbers}): give {count} numbers, one for each of the categories, "
        "in their order, and none for the background."
    )


def _is_list(values: Any, length: int) -> bool:
    return type(values) is list and len(values) == length and set(map(type, values)) <= _NUMBERS


def _floats(rows: list[list[float]], width: int) -> Floats:
    """(len(rows), width), with infinity for whole numbers that no float can hold."""
    try:
        return np.array(rows, np.float64).reshape(-1, width)
    except OverflowError:
        return np.array([[_float(each) for each in row] for row in rows], np.float64).reshape(-1, width)


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return float("inf")
