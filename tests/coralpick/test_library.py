"""The library: forms of a selection, scores, and the examples of docs/library.md."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coralpick
from coralpick import scores, select
from job.settings import choices
from tests.conftest import ROOT

POINTS = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "library.md").read_text(), re.MULTILINE | re.DOTALL)


def boxes(**changes: Any) -> scores.Boxes:
    """Two boxes of the first image, none of the second; two classes."""
    fields: dict[str, Any] = {
        "counts": np.array([2, 0]),
        "boxes": np.array([[0, 0, 4, 4], [0, 0, 2, 2]]),
        "scores": np.array([0.75, 0.5]),
        "classes": np.array([0, 1]),
        "probabilities": np.array([[0.75, 0.0, 0.25], [0.0, 0.5, 0.5]]),
    }
    return scores.Boxes(**(fields | changes))


def test_a_selection_has_forms_for_people_and_programs() -> None:
    selection = select(POINTS, np.array([0.2, 1.0, 0.5]), 2)
    # The highest score first; then distance x (0.05 + 0.95 score), of which (-1, 0) has the larger.
    assert selection.indices.tolist() == [1, 2]
    assert repr(selection) == "Selection(2 picks, indices=[1, 2], factors=[utility])"
    assert selection.to_columns() == {
        "rank": [1, 2],
        "index": [1, 2],
        "value": [pytest.approx(1.0), pytest.approx(2**0.5 * 0.525)],
        "distance": [None, pytest.approx(2**0.5)],
        "nearest": [None, 1],
        "utility": [pytest.approx(1.0), pytest.approx(0.525)],
    }
    page = selection._repr_html_()
    assert page.count("<tr>") == 3
    assert "<td>2</td><td>2</td><td>0.742</td><td>1.414</td><td>1</td><td>0.525</td>" in page


def test_long_and_empty_selections_are_short() -> None:
    points = np.random.default_rng(0).normal(size=(40, 3))
    assert "\n" not in repr(select(points, None, 30, strategy="coreset"))
    assert "<p>10 more</p>" in select(points, None, 30, strategy="coreset")._repr_html_()
    none = select(points, None, 0, strategy="coreset")
    assert repr(none) == "Selection(0 picks, indices=[], factors=[])"
    assert none.indices.dtype == np.int64


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_data_frames_have_a_row_per_pick(package: str) -> None:
    pytest.importorskip(package)
    for picks in (select(POINTS, np.array([0.2, 1.0, 0.5]), 2), select(POINTS, np.ones(3), 0)):
        frame = getattr(picks, f"to_{package}")()
        assert list(frame.columns) == list(picks.to_columns())
        assert len(frame) == len(picks.picks)
    frame = getattr(select(POINTS, np.array([0.2, 1.0, 0.5]), 2), f"to_{package}")()
    assert list(frame["index"]) == [1, 2]
    assert str(frame["nearest"].dtype) == "Int64"
    assert str(frame["distance"].dtype).lower() == "float64"


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs {package}: install it with `pip install {package}`"):
        getattr(select(POINTS, np.ones(3), 1), f"to_{package}")()


def test_scores_are_those_of_the_job() -> None:
    assert set(scores.NAMES) == set(choices.SCORES)
    assert scores.compute("objectness_least_confidence", boxes()).tolist() == [pytest.approx(0.375), 0]
    # The entropy of (0.5, 0.5) in three outcomes: 1 bit of log2(3).
    expected = 1 / np.log2(3)
    assert scores.compute("uncertainty_entropy", boxes()).tolist() == [pytest.approx(expected), 0]
    assert scores.compute("object_frequency", boxes()).tolist() == [1.0, 0.9]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": np.array([1, 0])}, r"probabilities must have the shape \(1, classes \+ 1\), not \(2, 3\)"),
        ({"counts": np.array([3, -1])}, "at least 0 per image"),
        ({"counts": np.array([1.5, 0.5])}, "one whole number"),
        ({"boxes": np.zeros((2, 3))}, r"boxes must have the shape \(2, 4\)"),
        ({"boxes": np.full((2, 4), np.inf)}, "boxes must be finite"),
        ({"scores": np.array([0.5, np.nan])}, "scores must be numbers from 0 to 1"),
        ({"classes": np.array([0, 2])}, "whole numbers from 0 to 1"),
        ({"probabilities": np.full((2, 3), 0.9)}, "must sum to 1"),
        ({"probabilities": np.array([[1.5, -0.5, 0], [0, 1, 0]])}, "probabilities must be numbers from 0 to 1"),
        ({"probabilities": np.ones((2, 1))}, "probabilities must have the shape"),
    ],
)
def test_boxes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scores.compute("entropy_sum", boxes(**changes))


def test_an_unknown_score_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown score 'entropy': use object_frequency"):
        scores.compute("entropy", boxes())


def test_no_images_have_no_scores() -> None:
    empty = scores.Boxes(
        np.zeros(0, int), np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.zeros((0, 3))
    )  # fmt: skip
    assert [len(scores.compute(name, empty)) for name in scores.NAMES] == [0] * len(scores.NAMES)


def test_every_public_name_exists() -> None:
    assert all(hasattr(coralpick, name) for name in coralpick.__all__)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_of_the_manual_runs(number: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLES[number]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_examples_of_the_manual_have_the_right_types(tmp_path: Path) -> None:
    assert len(EXAMPLES) == 4
    for number, example in enumerate(EXAMPLES):
        (tmp_path / f"example{number}.py").write_text(example)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
