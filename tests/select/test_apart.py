"""Picks of one group keep a distance in one number; compared with the definition, one pair at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from job.select import Apart, Balance, Factor, Objects, choose, select

RANDOM = np.random.default_rng(0)
COUNT = 3000  # more than a shortlist
EMBEDDINGS = RANDOM.normal(size=(COUNT, 8)).astype(np.float32)
WEIGHTS = RANDOM.random(COUNT)
GROUPS = RANDOM.integers(-1, 5, COUNT)
SECONDS = RANDOM.integers(0, 300, COUNT) / 5
APART = Apart(GROUPS, SECONDS, 2.0)


def is_near(one: int, other: int) -> bool:
    in_one_group = GROUPS[one] >= 0 and GROUPS[one] == GROUPS[other]
    return bool(in_one_group and abs(SECONDS[one] - SECONDS[other]) < 2 - 1e-9)


def pick_by_definition(count: int, labelled: Sequence[int]) -> list[int]:
    """Distance times weight, in float64, among the images that are near to no labelled or picked one."""
    vectors = EMBEDDINGS / np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True)
    centers = list(labelled)
    distance = np.full(COUNT, np.inf if labelled else 1.0)
    for center in centers:
        distance = np.minimum(distance, np.linalg.norm(vectors - vectors[center], axis=1))
    picks: list[int] = []
    while len(picks) < count:
        values = distance * WEIGHTS
        for row in np.argsort(-values):
            if row not in centers and not any(is_near(row, other) for other in centers):
                break
        else:
            return picks
        if not centers:
            distance[:] = np.inf
        picks.append(int(row))
        centers.append(int(row))
        distance = np.minimum(distance, np.linalg.norm(vectors - vectors[row], axis=1))
    return picks


@pytest.mark.parametrize("labelled", [[], [5, 17, 200, 1100]])
@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_picks_are_those_of_the_definition(labelled: list[int], kind: str) -> None:
    embeddings = EMBEDDINGS if kind == "array" else torch.from_numpy(EMBEDDINGS)
    chosen = choose(embeddings, 60, [Factor("weight", WEIGHTS)], 1.0, labelled=labelled, apart=APART)
    assert chosen.indices.tolist() == pick_by_definition(60, labelled)


def count_near(rows: Sequence[int]) -> int:
    return sum(is_near(one, other) for place, one in enumerate(rows) for other in rows[:place])


BOXES = Objects(np.ones(COUNT, np.int64), EMBEDDINGS[:, ::-1].copy(), WEIGHTS)
BALANCE = Balance(np.eye(3)[RANDOM.integers(0, 3, COUNT)], np.full(3, 1 / 3))


@pytest.mark.parametrize(
    "more", [{}, {"objects": BOXES}, {"balances": [BALANCE]}], ids=["greedy", "objects", "balance"]
)
def test_all_that_have_room_are_picked_and_no_others(more: dict[str, Any]) -> None:
    """Each group has 60 s, so there is room for 16 to 31 picks in it; images without a group are all picked."""
    labelled = [3, 8, 12]
    rows = choose(EMBEDDINGS, COUNT, [], 1.0, labelled=labelled, apart=APART, **more).indices.tolist()
    assert count_near(labelled + rows) == 0
    left = set(range(COUNT)) - set(rows) - set(labelled)
    assert all(any(is_near(row, other) for other in labelled + rows) for row in left)
    assert set(np.flatnonzero(GROUPS < 0)) <= {*rows, *labelled}
    assert all(16 <= sum(GROUPS[row] == group for row in rows + labelled) <= 31 for group in range(5))


@pytest.mark.parametrize("strategy", ["coral", "coreset", "active_learning", "two_stage", "typicality", "random"])
def test_every_strategy_keeps_picks_apart(strategy: str) -> None:
    rows = select(EMBEDDINGS[:300], WEIGHTS[:300], 40, strategy=strategy, apart=Apart(GROUPS[:300], SECONDS[:300], 2.0))
    assert count_near(rows.indices.tolist()) == 0
    assert len(rows.indices) > 20


def test_exactly_the_least_distance_is_far_enough() -> None:
    seconds = np.array([10.48, 12.48, 12.479, 14.48])
    apart = Apart(np.zeros(4, np.int64), seconds, 2.0)
    assert apart.find_near(0).tolist() == [0, 2]
    assert sorted(apart.find_near(1).tolist()) == [1, 2]


@pytest.mark.parametrize(
    ("apart", "message"),
    [
        (Apart(GROUPS[:5], SECONDS, 2.0), "but their shapes are"),
        (Apart(SECONDS, SECONDS, 2.0), "integer groups"),  # type: ignore[arg-type]
        (Apart(GROUPS, np.full(COUNT, np.nan), 2.0), "finite positions"),
        (Apart(GROUPS, SECONDS, 0.0), "above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(apart: Apart, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose(EMBEDDINGS, 3, [], 1.0, apart=apart)
