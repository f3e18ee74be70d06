"""CORAL_STRATEGY, CORAL_SCORE and CORAL_CLASS_WEIGHTS: what is taken, and what is said of the rest."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.select import STRATEGIES as IMPLEMENTED
from job.settings import choices
from job.settings.entries import (
    BalanceEntry,
    Diversity,
    ObjectDiversity,
    Random,
    Similarity,
    Threshold,
    Top,
    Typicality,
    Weights,
)
from job.settings.mix import largest_share, parse_class_weights, parse_score
from job.settings.strategy import STRATEGIES, parse_strategy
from tests.conftest import settings


def entry(kind: str, way: str, source: dict[str, Any] | None = None, **how: Any) -> dict[str, Any]:
    return {"input": {"type": kind, **(source or {})}, "strategy": {"type": way, **how}}


ENTROPY = {"score": "uncertainty_entropy"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (entry("EMBEDDINGS", "DIVERSITY"), Diversity(1.0, 0.0)),
        (
            entry("EMBEDDINGS", "DIVERSITY", strength=0.5, stopping_condition_minimum_distance=0.1),
            Diversity(0.5, 0.1),
        ),
        (entry("SCORES", "WEIGHTS", {"task": "any", **ENTROPY}), Weights({"uncertainty_entropy": 1.0}, "", 1.0)),
        (
            entry("SCORES", "WEIGHTS", {"scores": {"entropy_sum": 3, "objectness_margin": 1}}, strength=2),
            Weights({"entropy_sum": 0.75, "objectness_margin": 0.25}, "", 2.0),
        ),
        (entry("METADATA", "WEIGHTS", {"key": "num_boxes"}), Weights({}, "num_boxes", 1.0)),
        (entry("EMBEDDINGS", "DIVERSITY", {"task": "objects"}), ObjectDiversity(1.0)),
        (entry("EMBEDDINGS", "DIVERSITY", {"task": "objects"}, strength=0.5), ObjectDiversity(0.5)),
        (entry("RANDOM", "WEIGHTS", {"random_seed": 7}), Random(7, 1.0)),
        (entry("RANDOM", "WEIGHTS"), Random(None, 1.0)),
        (entry("EMBEDDINGS", "TYPICALITY", num_nearest_neighbors=5), Typicality(5, 1.0)),
        (entry("EMBEDDINGS", "SIMILARITY", images=["a.jpg"]), Similarity(("a.jpg",), 1.0)),
        (
            entry("PREDICTIONS", "BALANCE", {"name": "CLASS_DISTRIBUTION"}, target={"car": 0.5}),
            BalanceEntry("", {"car": 0.5}, 1.0),
        ),
        (entry("METADATA", "BALANCE", {"key": "folder"}, distribution="UNIFORM"), BalanceEntry("folder", {}, 1.0)),
        (
            entry("METADATA", "THRESHOLD", {"key": "height"}, threshold=480, operation="BIGGER_EQUAL"),
            Threshold({}, "height", "BIGGER_EQUAL", 480.0),
        ),
        (entry("SCORES", "TOP", ENTROPY), Top({"uncertainty_entropy": 1.0}, 4.0)),
    ],
)
def test_entries_become_records(given: dict[str, Any], expected: Any) -> None:
    # With one that ranks: a threshold alone is refused.
    strategy = parse_strategy(json.dumps([given, entry("RANDOM", "WEIGHTS")]))
    assert strategy.entries == (expected, Random(None, 1.0))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("[", "is not valid JSON"),
        ("[]", "must be a list"),
        ("{}", "must be a list"),
        ("corall", r"did you mean coral\?"),
        ([1], "entry 1 must be"),
        ([entry("EMBEDDINGS", "DIVERSITY"), {"input": {}}], "entry 2 must be"),
        ([entry("EMBEDING", "DIVERSITY")], "entry 1 has the input 'EMBEDING': use EMBEDDINGS, SCORES"),
        ([entry("SCORES", "DIVERSITY", ENTROPY)], "has the strategy 'DIVERSITY': for SCORES, use WEIGHTS"),
        ([entry("SCORES", "WEIGHTS")], 'needs "score"'),
        ([entry("SCORES", "WEIGHTS", {"score": "entropy_summ"})], r"did you mean entropy_sum\?"),
        ([entry("SCORES", "WEIGHTS", {"scores": {"entropy_sum": 0}})], "needs a share above 0 for entropy_sum"),
        ([entry("EMBEDDINGS", "DIVERSITY", strength=-1)], "needs 'strength': a number of at least 0"),
        ([entry("EMBEDDINGS", "DIVERSITY", strength=True)], "needs 'strength'"),
        ([entry("EMBEDDINGS", "DIVERSITY", streng=1)], "has the unknown field 'streng'"),
        ([entry("METADATA", "THRESHOLD", {"key": "height"}, threshold=1, operation=">")], "needs an 'operation'"),
        ([entry("METADATA", "THRESHOLD", {"key": "height"}, operation="BIGGER")], "needs 'threshold': a number$"),
        ([entry("SCORES", "TOP", ENTROPY)], "only limits which images may be picked"),
        ([entry("PREDICTIONS", "BALANCE", target={"a": 0.7, "b": 0.7})], "sum to at most 1"),
        ([entry("PREDICTIONS", "BALANCE")], "needs 'target'"),
        ([entry("EMBEDDINGS", "SIMILARITY", images=[])], "needs 'images'"),
        (
            [entry("EMBEDDINGS", "DIVERSITY", {"task": "crops"})],
            "the task 'crops': use objects, or none for whole images",
        ),
        (
            [entry("EMBEDDINGS", "DIVERSITY", {"task": "objects"}, stopping_condition_minimum_distance=0.1)],
            "has the unknown field 'stopping_condition_minimum_distance'",
        ),
        (
            [
                entry("EMBEDDINGS", "DIVERSITY", {"task": "objects"}),
                entry("METADATA", "BALANCE", {"key": "folder"}, distribution="UNIFORM"),
            ],
            "has the DIVERSITY of objects and a BALANCE, which do not work together: remove one",
        ),
        ([entry("RANDOM", "WEIGHTS", {"random_seed": -1})], "needs a 'random_seed'"),
    ],
)
def test_what_is_wrong_is_said(given: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_strategy(given if isinstance(given, str) else json.dumps(given))


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=9), lambda more: st.lists(more)
       | st.dictionaries(st.sampled_from(["input", "strategy", "type", "score", "target", "key"]), more)))  # fmt: skip
def test_no_json_makes_it_fall_over(given: Any) -> None:
    try:
        parse_strategy(json.dumps([given]))
    except ValueError as error:
        assert str(error)


def test_which_strategies_compare_objects() -> None:
    listed = parse_strategy(json.dumps([entry("EMBEDDINGS", "DIVERSITY", {"task": "objects"})]))
    assert listed.uses_objects and listed.uses_distance and listed.uses_scores and listed.scores is None
    assert [name for name, strategy in STRATEGIES.items() if strategy.uses_objects] == ["coral_objects"]


def test_names_are_taken_as_they_are() -> None:
    assert [parse_strategy(name).text for name in IMPLEMENTED] == list(IMPLEMENTED)
    assert not any(strategy.entries for strategy in STRATEGIES.values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("entropy_sum", {"entropy_sum": 1.0}),
        ("entropy_sum=3, suspected_misses=1", {"entropy_sum": 0.75, "suspected_misses": 0.25}),
    ],
)
def test_a_score_or_a_mix(text: str, expected: dict[str, float]) -> None:
    assert parse_score(text).shares == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("entropy", "contains the unknown score 'entropy'"),
        ("entropy_sum=x", "needs a share above 0"),
        ("entropy_sum=nan", "needs a share above 0"),
        ("entropy_sum,entropy_sum", "twice"),
        ("", "contains the unknown score ''"),
    ],
)
def test_what_is_no_score(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_score(text)


def test_class_weights() -> None:
    assert parse_class_weights("car=2, traffic light=0.5") == {"car": 2.0, "traffic light": 0.5}
    assert parse_class_weights("*=0,car=1") == {"*": 0.0, "car": 1.0}
    for wrong in ("car", "car=", "=2", "car=-1", "car=inf"):
        with pytest.raises(ValueError, match="must be class=weight"):
            parse_class_weights(wrong)


def test_which_score_a_strategy_ranks_by() -> None:
    def ranking(**values: str) -> tuple[str, bool]:
        given = settings(**values)
        return largest_share(given.ranking_scores), given.strategy.uses_scores

    assert ranking(strategy="coral", score="entropy_sum=1,entropy_mean=3") == ("entropy_mean", True)
    assert ranking(strategy="coreset", score="entropy_sum") == ("entropy_sum", False)
    listed = json.dumps([entry("SCORES", "WEIGHTS", {"score": "objectness_margin"}), entry("EMBEDDINGS", "DIVERSITY")])
    assert ranking(strategy=listed, score="entropy_sum") == ("objectness_margin", True)
    assert set(choices.LIGHTLY_SCORES) < set(choices.SCORES)


def test_which_strategies_need_embeddings() -> None:
    assert {name for name in STRATEGIES if not settings(strategy=name).needs_embeddings} == {
        "active_learning",
        "random",
    }
    assert settings(strategy="random", min_distance=0.1).needs_embeddings
    ranked = entry("SCORES", "WEIGHTS", ENTROPY)
    assert not settings(strategy=json.dumps([ranked])).needs_embeddings
    assert settings(strategy=json.dumps([ranked, entry("EMBEDDINGS", "TYPICALITY")])).needs_embeddings
