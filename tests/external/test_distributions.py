"""Class distributions with a background: invariants, and compared with those of the job's detector."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.structures import Instances
from hypothesis import given
from hypothesis import strategies as st

from job import scores
from job.detect import probabilities
from job.external import distributions


def boxes_of(seed: int, count: int, classes: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Scores, classes and probabilities of all kinds: in two scales, with zeros, with scores of 0 and 1."""
    rng = np.random.default_rng(seed)
    box_scores = np.where(rng.random(count) < 0.3, rng.integers(0, 2, count), rng.random(count))
    rows = rng.dirichlet(np.full(classes, 0.1), count) * rng.choice([1, 1e-3], (count, 1))
    return box_scores, rng.integers(0, classes, count), np.where(rng.random(rows.shape) < 0.2, 0, rows)


@given(st.integers(0, 2**32), st.integers(0, 8), st.integers(1, 90))
def test_distributions_sum_to_1_and_have_the_score_at_the_predicted_class(seed: int, count: int, classes: int) -> None:
    box_scores, predicted, given_rows = boxes_of(seed, count, classes)
    before = given_rows.copy()
    for rows in (
        distributions.synthesize(box_scores, predicted, classes),
        distributions.add_background(box_scores, predicted, given_rows),
    ):
        assert rows.shape == (count, classes + 1)
        assert (rows >= 0).all() and (rows <= 1).all()
        np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-12)
        np.testing.assert_array_equal(rows[np.arange(count), predicted], box_scores)
        in_half = rows.astype(np.float16)
        np.testing.assert_allclose(in_half.astype(np.float64).sum(axis=1), 1, atol=1e-3)
        assert np.isfinite(scores.normalize(in_half)).all()
    np.testing.assert_array_equal(given_rows, before)


@given(st.integers(0, 2**32), st.integers(0, 8), st.integers(1, 90), st.floats(1e-3, 1))
def test_the_scale_of_given_probabilities_does_not_matter(seed: int, count: int, classes: int, scale: float) -> None:
    one = distributions.add_background(*boxes_of(seed, count, classes))
    box_scores, predicted, rows = boxes_of(seed, count, classes)
    np.testing.assert_allclose(distributions.add_background(box_scores, predicted, rows * scale), one, atol=1e-12)


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 90))
def test_the_detectors_own_distributions_come_back(seed: int, count: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    whole = rng.dirichlet(np.ones(classes + 1), count)
    predicted = rng.integers(0, classes, count)
    box_scores = whole[np.arange(count), predicted]
    for known in (whole[:, :-1], whole[:, :-1] / whole[:, :-1].sum(axis=1, keepdims=True)):
        np.testing.assert_allclose(distributions.add_background(box_scores, predicted, known), whole, atol=1e-9)


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 90))
def test_distributions_match_those_of_the_job(seed: int, count: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    ratings = rng.random((count, classes)) ** 4
    predicted = ratings.argmax(axis=1)
    best = ratings[np.arange(count), predicted]
    torches = torch.tensor(ratings), torch.tensor(predicted)
    for power, box_scores in ((1, best), (2, np.sqrt(best * rng.uniform(0.1, 1, count)))):
        # FCOS rates each class by the root of its sigmoid and the centerness, which is what its best score squared and
        # divided by its best sigmoid is.
        rated = ratings if power == 1 else np.sqrt(ratings * (box_scores**2 / best)[:, None])
        theirs = probabilities.make_exclusive(torch.tensor(rated), torches[1], torch.tensor(box_scores), power=power)
        ours = distributions.add_background(box_scores, predicted, ratings)
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
    without = Instances((1, 1), scores=torch.tensor(best), pred_classes=torches[1])
    ours = distributions.synthesize(best, predicted, classes)
    np.testing.assert_allclose(ours, probabilities.of_instances(without, classes).numpy(), atol=1e-12)
