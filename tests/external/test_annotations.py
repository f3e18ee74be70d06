"""Predictions as JSON objects: class probabilities, right and wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.errors import SettingsError
from tests.external import arrays, coco, in_file, problems, read

GIVEN_ERRORS: list[tuple[Any, str]] = [
    ([0.5, 0.5], r"has the probabilities \[0.5, 0.5\] \(2 values\). Give 3 numbers: .* without the background"),
    ([0.25, 0.25, 0.25, 0.25], r"has the probabilities .* \(4 values\). Give 3 numbers"),
    ([0.25, "a", 0.25], r"has the probabilities .*'a'.*. Give 3 numbers"),
    ("abc", r"has the probabilities 'abc' \(not a list\). Give 3 numbers"),
    (None, "has a box without class probabilities: .* Give them for all boxes, or for none"),
    (
        [-0.25, 0.75, 0.5],
        "has the class probability -0.25, which is not a number from 0 to 1. Give the output of the softmax",
    ),
    ([0.25, 50, 0.5], "has the class probability 50, which is not a number from 0 to 1"),
    ([0.25, 0.5, float("nan")], "has the class probability nan, which is not a number from 0 to 1"),
    ([0.25, 0, 0.5], "has a box of score 0.25 whose class has the probability 0. .* in the order of the classes"),
    ([0, 0, 0], "has a box of score 0.25 whose class has the probability 0"),
]


@pytest.mark.parametrize(("values", "expected"), GIVEN_ERRORS)
def test_invalid_probabilities(tmp_path: Path, values: Any, expected: str) -> None:
    content = coco()
    for each, row in zip(content["annotations"], (values, [0.2, 0.2, 0.6], [0.5, 0.5, 0]), strict=True):
        each["probabilities"] = row
    path = in_file(tmp_path, content)
    assert str(path) in problems(path)
    with pytest.raises(SettingsError, match=f"image 'z.jpg' {expected}"):
        read(path)


def test_a_probability_that_was_rounded_to_0_is_accepted(tmp_path: Path) -> None:
    content = coco()
    for each in content["annotations"]:
        each |= {"score": 0.005, "probabilities": [0.25, 0, 0.25] if each["category_id"] == 1 else [0.5, 0, 0.5]}
    rows = arrays(read(in_file(tmp_path, content)).rows[2])[3].astype(np.float64)
    np.testing.assert_allclose(rows[0], [0.005, 0.4975, 0.4975, 0], atol=1e-3)
    np.testing.assert_allclose(rows[1], [0, 0.005, 0.005, 0.99], atol=1e-3)


def test_a_distribution_with_a_background_is_used_as_it_is(tmp_path: Path) -> None:
    content = coco()
    # In the order of the categories: toothbrush, person, bottle. The entry of the class need not be the score.
    for each, row in zip(
        content["annotations"], ([0.125, 0.5, 0.25, 0.125], [0, 0, 1, 0], [0.5, 0.25, 0, 0.25]), strict=True
    ):
        each["probabilities"] = row
    _, two, one = read(in_file(tmp_path, content)).rows
    assert arrays(two)[3].tolist() == [[0, 1, 0, 0]]
    assert arrays(one)[3].tolist() == [[0.25, 0, 0.5, 0.25], [0.5, 0.25, 0.125, 0.125]]
    content["annotations"][0]["probabilities"] = [0.5, 0.5, 0.25, 0.125]
    assert "has 4 probabilities that sum to 1.38. Give 3 numbers without the background" in problems(
        in_file(tmp_path, content)
    )
