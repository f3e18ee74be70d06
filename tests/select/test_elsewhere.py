"""Labelled images that are not among those to select from: the same as if they were there, labelled."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from job.select import STRATEGIES, Balance, Factor, choose, coverage, select
from job.select.evidence import random_covering_radii


@settings(max_examples=200, deadline=None)
# Without coral_objects: the boxes of images elsewhere are not known.
@given(
    *(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 5), st.booleans()),
    st.sampled_from([name for name in STRATEGIES if name != "coral_objects"]),
)
def test_the_same_picks_as_with_the_images_in_the_pool(
    seed: int, count: int, num_elsewhere: int, with_labelled: bool, strategy: str
) -> None:
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(count + num_elsewhere, 3)).astype(np.float32)
    scores = rng.random(count + num_elsewhere)
    scores[count:] = 0  # these may not be the largest, which the others are divided by
    labelled = [0] if with_labelled else []
    if strategy in ("typicality", "random"):  # these look at the whole pool
        num_elsewhere, embeddings, scores = 0, embeddings[:count], scores[:count]
    pool, elsewhere = embeddings[:count], embeddings[count:]
    expected = select(embeddings, scores, 8, strategy=strategy, labelled=[*labelled, *range(count, len(embeddings))])
    chosen = select(pool, scores[:count], 8, strategy=strategy, labelled=labelled, labelled_elsewhere=elsewhere)
    assert chosen.picks == expected.picks
    of_tensor = select(torch.tensor(pool), scores[:count], 8, strategy=strategy, labelled=labelled,
                       labelled_elsewhere=elsewhere)  # fmt: skip
    assert [pick.index for pick in of_tensor.picks] == [pick.index for pick in chosen.picks]
    distance, nearest = coverage(embeddings, [*labelled, *range(count, len(embeddings))])
    found = coverage(pool, labelled, elsewhere)
    np.testing.assert_array_equal(found[0], distance[:count])
    np.testing.assert_array_equal(found[1], nearest[:count])


def test_a_worked_example() -> None:
    # At 0, 60 and 180 degrees; labelled elsewhere at 0 degrees. Distances are 2 sin(angle / 2): 0, 1 and 2.
    embeddings = np.array([[1, 0], [0.5, np.sqrt(0.75)], [-1, 0]], np.float32)
    chosen = select(embeddings, None, 2, strategy="coreset", labelled_elsewhere=np.array([[3, 0]], np.float32))
    assert [(pick.index, pick.nearest) for pick in chosen.picks] == [(2, 3), (1, 3)]
    assert [pick.distance for pick in chosen.picks] == pytest.approx([2, 1], abs=1e-6)
    near = select(embeddings, None, 3, strategy="coreset", min_distance=0.1, labelled_elsewhere=embeddings[:1])
    assert [pick.index for pick in near.picks] == [2, 1]


def test_balances() -> None:
    rng = np.random.default_rng(0)
    embeddings, shares = rng.normal(size=(20, 3)), np.eye(2)[rng.integers(0, 2, 20)]
    shares[15:] = 0  # the classes of images elsewhere are not known
    options: dict[str, Any] = {"diversity_strength": 1.0}

    def balance(count: int) -> Any:
        return [Balance(shares[:count], np.array([0.5, 0.5]))]

    factor = Factor("a", np.ones(15))
    expected = choose(embeddings, 6, [], balances=balance(20), labelled=range(15, 20), **options)
    chosen = choose(embeddings[:15], 6, [factor], balances=balance(15), labelled_elsewhere=embeddings[15:], **options)
    assert chosen.picks == expected.picks


def test_random_picks_are_measured_with_them() -> None:
    embeddings = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    radii = random_covering_radii(embeddings, [], 3, embeddings)
    assert max(radii) < 0.003 < min(random_covering_radii(embeddings, [], 3))


@pytest.mark.parametrize(
    ("elsewhere", "says"),
    [
        (np.zeros((2, 4)), r"must have the shape \(k, 3\), not \(2, 4\)"),
        (np.zeros(3), r"must have the shape \(k, 3\), not \(3,\)"),
        (np.array([[0, 0, 0], [0, np.nan, 0]]), "must be finite, but is not in the rows 1"),
    ],
)
def test_what_is_refused(elsewhere: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        select(np.eye(3), None, 1, strategy="coreset", labelled_elsewhere=elsewhere)
