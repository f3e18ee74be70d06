"""Balances whose numbers are no distributions are refused, since they would balance nothing."""

from typing import Any

import numpy as np
import pytest

from job.select import Balance, choose

EMBEDDINGS = np.eye(3)
GOOD = np.array([[0.5, 0.5], [1, 0], [0, 0]])
HALF = np.array([0.5, 0.5])


@pytest.mark.parametrize(
    ("shares", "target", "says"),
    [
        (GOOD * 2, HALF, "shares of a balance must be distributions, .*: row 0 has the sum 2 and the least share 1"),
        (GOOD / 2, HALF, "row 0 has the sum 0.5"),
        (np.array([[0.5, 0.5], [1.5, -0.5], [0, 0]]), HALF, "row 1 has the sum 1 and the least share -0.5"),
        (np.array([[0.5, 0.5], [1, 0], [0.5, -0.5]]), HALF, "row 2 has the sum 0 and the least share -0.5"),
        (np.array([[0.5, np.nan], [1, 0], [0, 0]]), HALF, "row 0 has the sum nan"),
        (np.array([[0.5, np.inf], [1, 0], [0, 0]]), HALF, "row 0 has the sum inf"),
        (GOOD[:2], HALF, r"needs shares of shape \(3, classes\) and a target of shape \(classes,\), not \(2, 2\)"),
        (GOOD, np.ones(3) / 3, r"not \(3, 2\) and \(3,\)"),
        (GOOD, np.array([1.0, 1.0]), "the target of a balance must be a distribution, .* but it has the sum 2"),
        (GOOD, np.array([1.5, -0.5]), "must be a distribution"),
        (GOOD, np.array([np.nan, 1]), "must be a distribution"),
    ],
)
def test_what_is_no_distribution_is_refused(shares: Any, target: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        choose(EMBEDDINGS, 2, [], 1.0, balances=[Balance(shares, target)])


def test_sums_may_be_rounded() -> None:
    shares = np.full((3, 7), 1 / 7).astype(np.float32).astype(np.float64)
    assert len(choose(EMBEDDINGS, 2, [], 1.0, balances=[Balance(shares, np.full(7, 1 / 7))]).picks) == 2
