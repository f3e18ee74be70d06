"""Selection, against a naive greedy, lightly-mundig's k-center, and hand-worked examples."""

from typing import Any

import lightly_mundig
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from job.select import STRATEGIES, Objects, choose, coverage, select
from job.select.engine import SCORE_FLOOR
from job.select.greedy import find_nearest_center
from job.select.points import to_unit_length


def naive(
    embeddings: Any, utility: Any, count: int, a: float, b: float, labelled: list[int], min_distance: float = 0
) -> list[int]:
    """The definition, word by word, in float64."""
    points = [row / (np.linalg.norm(row) or 1) for row in embeddings.astype(np.float64)]
    points = [row.astype(np.float32).astype(np.float64) for row in points]
    taken, picks = list(labelled), list[int]()
    while len(picks) < count:
        best, best_value = None, -1.0
        for row in range(len(points)):
            nearest = min((np.linalg.norm(points[row] - points[other]) for other in taken), default=np.inf)
            if row in taken or nearest < min_distance:
                continue
            value = nearest**a * utility[row] ** b if taken else utility[row]
            if value > best_value:
                best, best_value = row, value
        if best is None:
            break
        picks.append(best)
        taken.append(best)
    return picks


@st.composite
def pools(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(1, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    embeddings = rng.normal(size=(count, draw(st.integers(1, 5)))).astype(np.float32)
    if draw(st.booleans()):  # duplicates, so that ties and distances of 0 come up
        embeddings[rng.integers(0, count, count // 2)] = embeddings[0]
    scores = rng.choice([0.0, 0.5, 1.0], count) if draw(st.booleans()) else rng.random(count)
    labelled = sorted(draw(st.sets(st.integers(0, count - 1), max_size=count)))
    return {"embeddings": embeddings, "scores": scores, "labelled": labelled, "count": draw(st.integers(1, 16))}


@settings(max_examples=200, deadline=None)
@given(pools(), st.sampled_from([0, 0.5, 1, 2]), st.sampled_from([0, 0.5, 1, 3]), st.sampled_from([0, 0.4, 1.2]))
def test_coral_is_the_naive_greedy(pool: dict[str, Any], a: float, b: float, min_distance: float) -> None:
    chosen = select(
        *(pool["embeddings"], pool["scores"], pool["count"]),
        labelled=pool["labelled"], diversity_strength=a, score_strength=b, min_distance=min_distance,
    )  # fmt: skip
    utility = SCORE_FLOOR + (1 - SCORE_FLOOR) * pool["scores"]
    expected = naive(pool["embeddings"], utility, pool["count"], a, b, pool["labelled"], min_distance)
    assert [pick.index for pick in chosen.picks] == expected


@settings(max_examples=100, deadline=None)
@given(pools(), st.sampled_from([("coreset", 1, 0), ("active_learning", 0, 1)]))
def test_coreset_and_active_learning_are_the_naive_greedy(pool: dict[str, Any], case: tuple[str, int, int]) -> None:
    strategy, a, b = case
    chosen = select(pool["embeddings"], pool["scores"], pool["count"], strategy=strategy, labelled=pool["labelled"])
    expected = naive(pool["embeddings"], pool["scores"], pool["count"], a, b, pool["labelled"])
    assert [pick.index for pick in chosen.picks] == expected


@pytest.mark.parametrize("labelled", [[7], [3, 50, 199]])
def test_coreset_picks_what_mundig_picks(labelled: list[int]) -> None:
    embeddings = to_unit_length(np.random.default_rng(5).normal(size=(200, 16)))
    engine = lightly_mundig.Selection()
    engine.add_diversifying_strategy(embeddings, 1.0)
    theirs = engine.run_selection(labelled, 200, len(labelled) + 40)[len(labelled) :]
    ours = select(embeddings, np.zeros(200), 40, strategy="coreset", labelled=labelled)
    assert [pick.index for pick in ours.picks] == theirs


def test_a_hand_worked_example() -> None:
    # On the circle: 0 and 1 at angle 0, 2 at 90 degrees, 3 at 180.
    embeddings = np.array([[1, 0], [2, 0], [0, 3], [-1, 0]], np.float32)
    chosen = select(embeddings, np.array([0.0, 0.2, 0.9, 0.1]), 4)
    assert [pick.index for pick in chosen.picks] == [2, 1, 3, 0]
    triples: list[Any] = [(each.distance, each.nearest, each.value) for each in chosen.picks]
    first, second, third, last = triples
    assert first == (None, None, pytest.approx(0.05 + 0.95 * 0.9))
    assert second == (pytest.approx(2**0.5), 2, pytest.approx(2**0.5 * (0.05 + 0.95 * 0.2)))
    assert third == (pytest.approx(2**0.5), 2, pytest.approx(2**0.5 * (0.05 + 0.95 * 0.1)))
    assert last == (0, 1, 0)


def test_an_image_on_which_nothing_was_detected_can_be_picked() -> None:
    embeddings = np.array([[1, 0], [1, 0.01], [0, 1]], np.float32)
    chosen = select(embeddings, np.array([0.9, 0.8, 0.0]), 2)
    assert [pick.index for pick in chosen.picks] == [0, 2]


@given(st.integers(0, 2**32 - 1))
def test_random_is_a_seeded_sample_without_repetition(seed: int) -> None:
    embeddings, zeros = np.eye(30, dtype=np.float32), np.zeros(30)
    first, second = (select(embeddings, zeros, 10, strategy="random", seed=seed, labelled=[4]) for _ in range(2))
    assert first.picks == second.picks
    rows = {pick.index for pick in first.picks}
    assert len(rows) == 10 and 4 not in rows


def test_random_differs_by_seed_and_is_uniform() -> None:
    embeddings, zeros = np.eye(10, dtype=np.float32), np.zeros(10)
    firsts = [select(embeddings, zeros, 1, strategy="random", seed=seed).picks[0].index for seed in range(1000)]
    assert np.bincount(firsts, minlength=10).min() > 60  # 100 expected each, 4 standard deviations are 38


def test_min_distance_ends_the_selection() -> None:
    embeddings = np.array([[1, 0], [1, 0.001], [0, 1], [0.001, 1]], np.float32)
    chosen = select(embeddings, np.array([1.0, 0.5, 0.5, 0.5]), 4, min_distance=0.1)
    assert [pick.index for pick in chosen.picks] == [0, 2]


def test_how_the_pool_is_covered() -> None:
    embeddings = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    chosen = select(embeddings, np.random.default_rng(1).random(40), 6, labelled=[3])
    taken = [3, *(pick.index for pick in chosen.picks)]
    points = to_unit_length(embeddings).astype(np.float64)
    every = np.linalg.norm(points[:, None] - points[taken][None], axis=2)
    distance, nearest = coverage(embeddings, taken)
    np.testing.assert_allclose(distance, every.min(axis=1), atol=1e-12)
    assert [taken[each] for each in every.argmin(axis=1)] == nearest.tolist()


def test_distances_of_near_duplicates_are_exact() -> None:
    base = np.random.default_rng(0).normal(size=256)
    points = to_unit_length(np.stack([base, base * (1 + 1e-4), base + 1e-4]))
    expected = np.linalg.norm(points.astype(np.float64) - points[0].astype(np.float64), axis=1)
    np.testing.assert_allclose(find_nearest_center(points, points[:1])[0], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("embeddings", "scores", "strategy", "says"),
    [
        (np.array([[np.nan, 1.0]]), np.array([0.5]), "coral", "finite"),
        (np.ones((2, 2)), np.array([0.5, np.nan]), "coral", "finite and not negative"),
        (np.ones((2, 2)), np.array([0.5, -0.1]), "coral", "finite and not negative"),
        (np.ones((2, 2)), np.array([0.5]), "coral", "do not match"),
        (np.ones((1, 2)), np.array([0.5]), "corset", "unknown strategy"),
    ],
)
def test_bad_input_is_refused(embeddings: Any, scores: Any, strategy: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        select(embeddings, scores, 1, strategy=strategy)


EMBEDDINGS = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
MASK = np.isin(np.arange(10), [4, 7])


@pytest.mark.parametrize(
    "rows",
    [
        [4, 7], (4, 7), {4, 7}, [7, 4, 7], np.array([4, 7], np.uint8), MASK, MASK.tolist(), torch.tensor([4, 7]),
        torch.tensor(MASK), range(4, 8, 3), {4: "a", 7: "b"}.keys(),
    ],
)  # fmt: skip
def test_rows_may_be_integers_or_a_mask(rows: Any) -> None:
    scores = np.random.default_rng(1).random(10)
    for strategy in (name for name in STRATEGIES if name != "coral_objects"):
        expected = select(EMBEDDINGS, scores, 9, strategy=strategy, labelled=[4, 7])
        assert not {4, 7} & {pick.index for pick in expected.picks} and len(expected.picks) == 8
        assert select(EMBEDDINGS, scores, 9, strategy=strategy, labelled=rows).picks == expected.picks
        among = select(EMBEDDINGS, scores, 9, strategy=strategy, candidates=rows).picks
        assert {pick.index for pick in among} == {4, 7}
    assert [pick.index for pick in choose(EMBEDDINGS, 9, [], 1.0, candidates=rows).picks] == [4, 7]
    assert (coverage(EMBEDDINGS, rows)[0] == coverage(EMBEDDINGS, [4, 7])[0]).all()


@pytest.mark.parametrize("rows", [[], (), np.zeros(0), np.zeros(10, bool), [False] * 10])
def test_no_rows(rows: Any) -> None:
    assert len(select(EMBEDDINGS, None, 3, strategy="coreset", labelled=rows).picks) == 3
    assert select(EMBEDDINGS, None, 3, strategy="coreset", candidates=rows).picks == []


@pytest.mark.parametrize(
    "rows",
    [
        [-1], [10], [2**70], [4.7], [4.0], ["4"], "4", 4, [None], [[4, 7]], [[4], [4, 7]], MASK[:9], [True] * 11,
        MASK[:, None], np.array([4.0]), np.array(["a.jpg"]), torch.tensor([4.0]), torch.tensor([-1]),
    ],
)  # fmt: skip
def test_other_rows_are_one_sentence(rows: Any) -> None:
    with pytest.raises(ValueError, match=r"^labelled must be .*from 0 to 9"):
        select(EMBEDDINGS, None, 3, strategy="coreset", labelled=rows)
    with pytest.raises(ValueError, match=r"^candidates must be .*from 0 to 9"):
        select(EMBEDDINGS, None, 3, strategy="coreset", candidates=rows)
    with pytest.raises(ValueError, match=r"^candidates must be .*from 0 to 9"):
        choose(EMBEDDINGS, 3, [], 1.0, candidates=rows)
    with pytest.raises(ValueError, match=r"^labelled must be .*from 0 to 9"):
        choose(EMBEDDINGS, 3, [], 1.0, labelled=rows)
    with pytest.raises(ValueError, match=r"^centers must be .*from 0 to 9"):
        coverage(EMBEDDINGS, rows)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_scores_are_needed_only_where_they_count(strategy: str) -> None:
    if strategy in ("coral", "active_learning", "two_stage"):
        with pytest.raises(ValueError, match=f"the strategy '{strategy}' needs scores"):
            select(EMBEDDINGS, None, 3, strategy=strategy)
    else:
        objects = Objects(np.ones(10, np.int64), EMBEDDINGS, np.ones(10))
        expected = select(EMBEDDINGS, np.zeros(10), 3, strategy=strategy, objects=objects)
        without = select(EMBEDDINGS, None, 3, strategy=strategy, objects=objects)
        assert without.picks == expected.picks and len(expected.picks) == 3


@pytest.mark.parametrize("count", [-1, 2.5, "3", None, True])
def test_a_count_that_is_none(count: Any) -> None:
    with pytest.raises(ValueError, match="count must be an integer of at least 0"):
        select(EMBEDDINGS, np.zeros(10), count)
    with pytest.raises(ValueError, match="count must be an integer of at least 0"):
        choose(EMBEDDINGS, count, [], 1.0)


def test_names_of_another_length() -> None:
    with pytest.raises(ValueError, match="there are 1 names and 10 embeddings"):
        select(EMBEDDINGS, np.zeros(10), 3, names=["a.jpg"])
