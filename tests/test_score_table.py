"""A score is one record: all that shows scores reads the table when it is called."""

import re
from pathlib import Path

import numpy as np
import pytest

from job import parts, scores
from job.parts import pool
from job.settings import choices
from job.storage import Entry
from job.storage.local import LocalFolder
from tests.parts.test_part import MADE_WITH
from tests.report.test_report import reported, usable

BOX_COUNT = scores.Score(
    name="box_count",
    title="Many boxes",
    formula="number of boxes",
    range="0 or more",
    favours="images with many boxes",
    uses_probabilities=False,
    contributions=lambda boxes: np.ones(len(boxes.scores)),
    join=lambda boxes, contributions: np.bincount(boxes.images, contributions, len(boxes.counts)).astype(float),
    over_pool=lambda values: values,
    describe=lambda boxes, contributions, class_names: f"counted {contributions.sum():.0f} boxes",
)


@pytest.fixture
def box_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scores.TABLE, BOX_COUNT.name, BOX_COUNT)
    monkeypatch.setattr(choices, "SCORES", (*choices.SCORES, BOX_COUNT.name))


@pytest.mark.usefixtures("box_count")
def test_a_new_score_is_a_column_of_the_pool(tmp_path: Path) -> None:
    rows = [usable(f"{boxes}.jpg", boxes, boxes=boxes) for boxes in range(4)]
    output = LocalFolder(str(tmp_path))
    parts.write(output, rows, MADE_WITH)
    entries = [Entry(row.file_name, row.etag, row.byte_size) for row in rows]
    loaded = pool.load(output, entries, {"a": 0.0, "b": 0.0})
    assert list(loaded.scores)[9] == "box_count" and list(loaded.scores)[-1] == "box_count_weighted"
    assert loaded.scores["box_count"].tolist() == [0, 1, 2, 3]
    of_class_c = [np.count_nonzero(np.asarray(row.classes) == 2) for row in rows]
    assert loaded.scores["box_count_weighted"].tolist() == of_class_c


@pytest.mark.usefixtures("box_count")
def test_a_new_score_drives_a_selection_and_is_in_reasons_and_report(tmp_path: Path) -> None:
    rows = [usable(f"{boxes}.jpg", boxes, boxes=boxes) for boxes in range(4)]
    page = reported(tmp_path, rows, 2, strategy="active_learning", score="box_count")
    picks = re.findall(r'<span class="rank">\d+</span> <span class="name">(.*?)</span>', page)
    assert picks == ["3.jpg", "2.jpg"]
    reasons = re.findall(r'<p class="reason">(.*?)</p>', page)
    assert [reason.partition(";")[0] for reason in reasons] == ["counted 3 boxes", "counted 2 boxes"]
    assert "Many boxes (box_count)" in page and "This score favours images with many boxes." in page
    assert "<h3>box_count</h3>" in page  # the title of its histogram


@pytest.mark.usefixtures("box_count")
def test_a_new_score_is_in_the_docs() -> None:
    *_, last = scores.markdown_table().splitlines()
    assert last == "| `box_count` | number of boxes | 0 or more | images with many boxes |"


def test_a_score_that_only_one_of_both_names_is_refused() -> None:
    with pytest.raises(ImportError, match=r"suspected_misses, box_count, and job/settings/choices\.py names .*: give"):
        scores._check_names({**scores.TABLE, "box_count": BOX_COUNT})


def test_every_score_describes_an_image() -> None:
    boxes = scores.Boxes(
        counts=np.array([3]),
        boxes=np.array([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9.0]]),
        scores=np.array([0.9, 0.52, 0.31]),
        classes=np.array([0, 1, 1]),
        probabilities=np.array([[0.9, 0, 0.1], [0.4, 0.52, 0.08], [0.05, 0.31, 0.64]]),
    )
    words = {
        name: score.describe(boxes, score.contributions(boxes), ["bus", "car"]) for name, score in scores.TABLE.items()
    }
    uncertain = "uncertain between car (0.52) and bus (0.40)"
    total = "3 boxes, total entropy 1.85; most uncertain: car (0.52) or bus (0.40)"
    assert words == {
        "object_frequency": "2 car, 1 bus",
        "objectness_least_confidence": "3 boxes, mean confidence 0.58",
        "uncertainty_least_confidence": uncertain,
        "uncertainty_margin": uncertain,
        "uncertainty_entropy": uncertain,
        "objectness_margin": "3 boxes; most ambiguous: car (0.52)",
        "entropy_mean": total,
        "entropy_sum": total,
        "suspected_misses": "1 low-confidence box away from any confident one; strongest: car (0.31)",
    }


@pytest.mark.parametrize(
    ("confidence", "words"), [(0.05, "a low-confidence car (0.05)"), (0.6, "most uncertain: car (0.60)")]
)
def test_without_class_probabilities_no_other_class_is_named(confidence: float, words: str) -> None:
    boxes = scores.Boxes(
        counts=np.array([1]),
        boxes=np.array([[0, 0, 9, 9.0]]),
        scores=np.array([confidence]),
        classes=np.array([1]),
        probabilities=np.array([[0, confidence, 1 - confidence]]),
    )
    for name in scores.OF_PROBABILITIES:
        score = scores.TABLE[name]
        described = score.describe(boxes, score.contributions(boxes), ["bus", "car"])
        assert described == words or described.endswith(f"; most uncertain: car ({confidence:.2f})")
        assert "bus" not in described and "background" not in described


def test_the_predicted_class_is_named_with_the_confidence_of_the_box() -> None:
    # As of a YOLO head: the entry of the predicted class is not the confidence, and need not be one of the largest.
    probabilities = np.array([[0.14, 0.2, 0.06, 0.6]])
    for predicted, confidence, words in (
        (1, 0.08, "uncertain between background (0.60) and bus (0.08)"),
        (2, 0.05, "uncertain between background (0.60), bus (0.20) and van (0.05)"),
    ):
        boxes = scores.Boxes(
            counts=np.array([1]),
            boxes=np.array([[0, 0, 9, 9.0]]),
            scores=np.array([confidence]),
            classes=np.array([predicted]),
            probabilities=probabilities,
        )
        score = scores.TABLE["uncertainty_entropy"]
        assert score.describe(boxes, score.contributions(boxes), ["car", "bus", "van"]) == words
