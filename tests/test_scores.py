"""Scores, against values that lightly 1.4.6 computed, and against loops that spell the formulas out."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from job import scores
from job.settings.choices import LIGHTLY_SCORES, SCORES
from tests.conftest import DATA

POOLS = json.loads((DATA / "lightly_1_4_6_scores.json").read_text())["pools"]


def computed(images: list[dict[str, Any]], outcomes: int) -> dict[str, Any]:
    counts = np.array([len(each["scores"]) for each in images])
    box_scores = np.array([score for each in images for score in each["scores"]], float)
    rows = [row for each in images for row in each["class_probabilities"]]
    probabilities = np.array(rows, float).reshape(-1, outcomes)
    classes = probabilities.argmax(axis=1) if len(rows) else np.zeros(0, int)
    boxes = scores.Boxes(counts, np.zeros((len(rows), 4)), box_scores, classes, probabilities)
    return {name: scores.TABLE[name].over_pool(joined(name, boxes)) for name in LIGHTLY_SCORES}


def joined(name: str, boxes: scores.Boxes, class_weights: Any = None) -> Any:
    contributions = scores.TABLE[name].contributions(boxes)
    if class_weights is not None:
        contributions = contributions * class_weights[boxes.classes]
    return scores.TABLE[name].join(boxes, contributions)


@pytest.mark.parametrize("pool", POOLS, ids=[pool["name"] for pool in POOLS])
def test_scores_are_those_of_lightly(pool: dict[str, Any]) -> None:
    ours = computed(pool["images"], pool["outcomes"])
    assert ours.keys() == pool["expected"].keys()
    for name, expected in pool["expected"].items():
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=1e-12, err_msg=name)


def naive_maximum(values: list[float], counts: list[int]) -> tuple[list[float], list[int]]:
    largest, index, start = [], [], 0
    for count in counts:
        boxes = range(start, start + count)
        best = max(boxes, key=lambda box: (values[box], -box), default=-1)
        largest.append(values[best] if count else 0.0)
        index.append(best)
        start += count
    return largest, index


@given(st.lists(st.integers(0, 4), max_size=8), st.data())
def test_maximum_per_image_is_that_of_a_loop(counts: list[int], data: st.DataObject) -> None:
    # Few distinct values, so that ties are common.
    values = data.draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=sum(counts), max_size=sum(counts)))
    largest, index = scores.per_image_maximum(np.array(values, float), np.array(counts, np.int64))
    assert (largest.tolist(), index.tolist()) == naive_maximum(values, counts)


@given(npst.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(2, 9)), elements=st.floats(0.001, 1)))
def test_uncertainties_are_those_of_a_loop_and_in_range(weights: Any) -> None:
    rows = scores.normalize(weights)
    for position, row in enumerate(rows.tolist()):
        first, second = sorted(row, reverse=True)[:2]
        entropy = -sum(p * math.log2(p) for p in row) / math.log2(len(row))
        assert scores.entropy(rows)[position] == pytest.approx(entropy, abs=1e-12)
        assert scores.margin(rows)[position] == pytest.approx(1 - (first - second), abs=1e-12)
        assert scores.least_confidence(rows)[position] == pytest.approx((1 - first) / (1 - 1 / len(row)), abs=1e-12)
    for formula in (scores.entropy, scores.margin, scores.least_confidence):
        assert ((formula(rows) >= -1e-12) & (formula(rows) <= 1 + 1e-12)).all()


def test_a_hand_worked_pool() -> None:
    # Image 0: two cars and a bus, 1 + 0.25 + 1 = 2.25. Image 1: nothing, 0. Image 2: one car, 1.
    classes = np.array([2, 2, 5, 2])
    boxes = scores.Boxes(np.array([3, 0, 1]), np.zeros((4, 4)), np.zeros(4), classes, np.zeros((4, 11)))
    richness = joined("object_frequency", boxes)
    assert richness.tolist() == [2.25, 0, 1]
    stretched = scores.TABLE["object_frequency"].over_pool(richness)
    np.testing.assert_allclose(stretched, [1, 0.9, 0.9 + 0.1 / 2.25])
    weighted = joined("object_frequency", boxes, np.array([1, 1, 1, 1, 1, 0.5]))
    assert weighted.tolist() == [1.75, 0, 1]


def test_scores_of_a_hand_worked_image() -> None:
    # A confident box; a low-confidence one inside it; one that it covers by 40 %; one apart; and an image without any.
    boxes = scores.Boxes(
        np.array([4, 0]),
        np.array([[0, 0, 10, 10], [2, 2, 6, 6], [6, 0, 16, 10], [50, 50, 60, 60.0]]),
        np.array([0.9, 0.4, 0.2, 0.1]),
        np.zeros(4, int),
        np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0, 1]]),
    )
    found = {}
    for name in SCORES[1:]:
        images = joined(name, boxes)
        assert images[1] == 0
        found[name] = float(images[0])
    bits = [0.4689955935892812, 1.0, 0.7219280948873623, 0.0]
    expected = {
        "objectness_least_confidence": 1 - 1.6 / 4,
        "uncertainty_least_confidence": 1,
        "uncertainty_margin": 1,
        "uncertainty_entropy": 1,
        "objectness_margin": (0.2 + 0.8 + 0.4 + 0.2) / 4,
        "entropy_mean": sum(bits) / 4,
        "entropy_sum": sum(bits),
        "suspected_misses": 1 - (1 - 0.2) * (1 - 0.1),
    }
    assert found == {name: pytest.approx(value, abs=1e-12) for name, value in expected.items()}


@given(st.lists(st.integers(0, 6), max_size=6), st.integers(0, 2**32))
def test_suspected_misses_are_those_of_a_loop(counts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    total = sum(counts)
    begins = rng.integers(0, 12, (total, 2))
    corners = np.concatenate([begins, begins + rng.integers(0, 8, (total, 2))], axis=1).astype(np.float32)
    box_scores = rng.choice([0.1, 0.3, 0.5, 0.8], total)
    boxes = scores.Boxes(np.array(counts, np.int64), corners, box_scores, np.zeros(total, int), np.zeros((0, 2)))
    expected, start = [], 0
    for count in counts:
        rows = range(start, start + count)
        missed = 1.0
        for row in rows:
            left, top, right, bottom = corners[row].tolist()
            covered = False
            for other in rows:
                a, b, c, d = corners[other].tolist()
                inside = max(0, min(right, c) - max(left, a)) * max(0, min(bottom, d) - max(top, b))
                covered |= boxes.scores[other] >= 0.5 and inside >= 0.5 * (right - left) * (bottom - top)
            if boxes.scores[row] < 0.5 and not covered:
                missed *= 1 - boxes.scores[row]
        expected.append(1 - missed)
        start += count
    np.testing.assert_allclose(joined("suspected_misses", boxes), expected, atol=1e-12)


def test_half_precision_rows_sum_to_one() -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(81), 50).astype(np.float16)
    np.testing.assert_allclose(scores.normalize(rows).sum(axis=1), 1, atol=1e-15)


def test_half_precision_is_read_as_numpy_converts_it() -> None:
    """All values that are not negative and not 0, beside a 1."""
    halves = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16)
    rows = np.stack([halves, np.ones_like(halves), halves[::-1]], axis=1)
    exact = rows.astype(np.float64)
    np.testing.assert_array_equal(scores.normalize(rows), exact / exact.sum(axis=1, keepdims=True))
    np.testing.assert_array_equal(scores.normalize(rows[:, ::-1]), (exact / exact.sum(axis=1, keepdims=True))[:, ::-1])
