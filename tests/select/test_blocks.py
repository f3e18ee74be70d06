"""Blocks of rows, each with a pass of its own: the picks of one pass over all rows, and of the definition."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.select import Apart, ArrayPoints, choose, greedy, select
from job.select.blocks import Block, BlockPass, BlockPoints
from job.select.engine import SCORE_FLOOR
from job.select.passes import ArrayPass
from job.select.shortlist import Worth
from tests.select.test_exact import clusters, naive, rows

STRATEGIES = ("coral", "coreset", "active_learning", "two_stage", "typicality", "random")


class Here:
    """Blocks in this process, of which some are lost at some calls."""

    def __init__(self, embeddings: Any, bounds: Sequence[int], losses: Sequence[tuple[int, int]] = ()) -> None:
        self.starts = np.array([0, *sorted(bounds), len(embeddings)])
        self._loads = [partial(np.copy, embeddings[start:end]) for start, end in zip(self.starts, self.starts[1:])]  # noqa: B905
        self._blocks = [Block(load, int(start)) for load, start in zip(self._loads, self.starts)]  # noqa: B905
        self._losses, self.num_calls = set(losses), 0

    def ask(
        self,
        method: str,
        make_arguments: Callable[[int], tuple[Any, ...]],
        blocks: Sequence[int],
        forget: Callable[[int], None],
    ) -> list[Any]:
        self.num_calls += 1
        answers = []
        for block in blocks:
            arguments = make_arguments(block)
            if (self.num_calls, block) in self._losses:
                getattr(self._blocks[block], method)(*arguments)  # it may be lost before or after it has done its work
                self._blocks[block] = Block(self._loads[block], int(self.starts[block]))
                forget(block)
                arguments = make_arguments(block)
            answers.append(getattr(self._blocks[block], method)(*arguments))
        return answers


def spread(embeddings: Any, seed: int, num_losses: int = 3) -> BlockPoints:
    rng = np.random.default_rng(seed)
    bounds = rng.integers(0, len(embeddings) + 1, rng.integers(0, 4)).tolist()  # some blocks are empty
    losses = zip(rng.integers(1, 12, num_losses).tolist(), rng.integers(0, len(bounds) + 1, num_losses).tolist())  # noqa: B905
    return BlockPoints(ArrayPoints(embeddings), Here(embeddings, bounds, list(losses)))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 300),
    st.sampled_from([0, 0.5, 1, 2]),
    st.sampled_from([0, 0.01, 0.3]),
    st.booleans(),
)
def test_picks_are_those_of_the_definition(
    seed: int, count: int, a: float, min_distance: float, with_labels: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(greedy, "_MIN_SHORTLIST", 8)
        rng = np.random.default_rng(seed)
        embeddings = clusters(seed, count, 6) * rng.choice([1e-3, 1, 50], (count, 1)).astype(np.float32)
        scores = rng.choice([0, 0.25, 1], count) if seed % 2 else rng.random(count)
        labelled = rng.choice(count, min(count, 9), replace=False).tolist() if with_labels else []
        options: Any = {"labelled": labelled, "diversity_strength": a, "min_distance": min_distance}
        found = select(spread(embeddings, seed), scores, 40, **options)
        assert found.picks == select(embeddings, scores, 40, **options).picks
        weight = SCORE_FLOOR + (1 - SCORE_FLOOR) * scores
        assert rows(found) == naive(embeddings, weight, 40, a, labelled, min_distance)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(STRATEGIES), st.booleans(), st.booleans(), st.booleans())
def test_every_strategy_with_names_and_videos(
    seed: int, strategy: str, with_names: bool, with_videos: bool, with_labels: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(greedy, "_MIN_SHORTLIST", 8)
        rng = np.random.default_rng(seed)
        embeddings, scores = clusters(seed, 150, 5), rng.choice([0, 0.5, 1], 150)
        embeddings[::11] = 0
        options: Any = {
            "strategy": strategy,
            "names": [f"{number}" for number in rng.permutation(150)] if with_names else None,
            "apart": Apart(rng.integers(-1, 9, 150), rng.integers(0, 90, 150) / 3, 1.0) if with_videos else None,
            "labelled": [3, 70] if with_labels else [],
            "candidates": (rng.random(150) < 0.8),
        }
        expected = select(embeddings, scores, 40, **options).picks
        points = spread(embeddings, seed)
        assert select(points, scores, 40, **options).picks == expected and expected
        assert select(points, scores, 20, **options).picks == expected[:20] or strategy == "two_stage"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.booleans())
def test_a_merged_list_is_the_list_of_one_pass(seed: int, size: int, with_ranks: bool) -> None:
    rng = np.random.default_rng(seed)
    embeddings = clusters(seed, 90, 4)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    rank = rng.permutation(90) if with_ranks else None

    def make_worth() -> Worth:
        return Worth(np.arange(90) % 3 / 2, 0.0, 0.0, np.arange(90) % 5 != 1, rank, np.arange(90) % 4 / 1.0)

    here = Here(embeddings, rng.integers(0, 91, 3).tolist(), [(3, 1)])
    several, one = BlockPass(here, (90, 4), make_worth()), ArrayPass(ArrayPoints(embeddings), make_worth())
    assert several.choose_first() == one.choose_first()
    for forbidden in ([], [2, 3, 88], list(range(0, 90, 2))):
        arguments = (one.read([5, len(forbidden)]), np.array(forbidden, np.int64), size)
        found, expected = several.shortlist(*arguments), one.shortlist(*arguments)
        assert found.bound == expected.bound
        for name in ("rows", "vectors", "upper"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        for name in ("weight", "rank", "allowed"):
            np.testing.assert_array_equal(getattr(found.worth, name), getattr(expected.worth, name))


def test_a_block_is_told_only_of_its_own_rows_and_only_once() -> None:
    embeddings, sent = clusters(1, 60, 4), []

    class Noting(Here):
        def ask(self, method: str, make_arguments: Any, blocks: Sequence[int], forget: Any) -> list[Any]:
            if method == "shortlist":
                sent.append([make_arguments(block)[0] for block in blocks])
            return super().ask(method, make_arguments, blocks, forget)

    blocks = Noting(embeddings, [20, 40])
    embedding_pass = BlockPass(blocks, (60, 4), Worth(None, 1.0, 0.0, np.ones(60, bool)))
    for row in (3, 25):
        embedding_pass.shortlist(embedding_pass.read([row]), np.array([row]), 5)
    assert [[news.worth is not None for news in each] for each in sent] == [[True] * 3, [False] * 3]
    assert [[news.forbidden.tolist() for news in each] for each in sent] == [[[3], [], []], [[], [5], []]]
    assert all(len(news.centers) == 1 for each in sent for news in each)


@pytest.mark.parametrize("row", [0, 9, 10, 29])
def test_a_row_that_is_not_finite_is_named_as_in_one_pass(row: int) -> None:
    embeddings = clusters(2, 30, 4)
    embeddings[row, 1] = np.nan
    for points in (ArrayPoints(embeddings), BlockPoints(ArrayPoints(embeddings), Here(embeddings, [10, 20]))):
        with pytest.raises(ValueError, match=f"^embeddings must be finite: row {row} is not$"):
            select(points, np.ones(30), 3)


def test_nothing_may_be_picked() -> None:
    embeddings = clusters(2, 30, 4)
    points = BlockPoints(ArrayPoints(embeddings), Here(embeddings, [10]))
    assert choose(points, 5, [], 1.0, candidates=[]).picks == []
    assert choose(points, 5, [], 1.0, candidates=[4, 12], labelled=[4, 12]).picks == []
