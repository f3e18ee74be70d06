"""CORAL_STRATEGY and CORAL_SCORE: from their text to small records, and what is wrong with it.

A strategy is a name, or a JSON list of entries in LightlyOne's grammar, each of an input and a strategy. Thresholds and
``TOP`` say which images may be picked; what all others say of an image, each to its strength, is multiplied.

    [{"input": {"type": "EMBEDDINGS"}, "strategy": {"type": "DIVERSITY"}},
     {"input": {"type": "SCORES", "score": "entropy_sum"}, "strategy": {"type": "WEIGHTS", "strength": 0.5}},
     {"input": {"type": "METADATA", "key": "height"}, "strategy": {"type": "THRESHOLD", "threshold": 480,
                                                                   "operation": "BIGGER_EQUAL"}}]
"""

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from job import scores
from job.select import STRATEGIES

# One score, or several with their shares.
Mix = Mapping[str, float]


@dataclass(frozen=True)
class Diversity:
    """Distance to the nearest labelled or picked image; of 0 where it is below `min_distance`."""

    strength: float
    min_distance: float


@dataclass(frozen=True)
class Weights:
    """0.05 + 0.95 times a mix of scores, or a column of images.parquet over its largest value."""

    scores: Mix
    column: str
    strength: float


@dataclass(frozen=True)
class Random:
    """A number drawn evenly between 0 and 1; without a seed, CORAL_SEED is taken."""

    seed: int | None
    strength: float


@dataclass(frozen=True)
class Typicality:
    """`job.select.typicality`, of so many neighbours."""

    neighbours: int
    strength: float


@dataclass(frozen=True)
class Similarity:
    """1 - d / 2, with the distance d to the nearest of some images."""

    images: tuple[str, ...]
    strength: float


@dataclass(frozen=True)
class Balance:
    """`job.select.balance`, toward shares of predicted classes or of values of a column.

    An empty target is the same share for each.
    """

    column: str
    target: Mapping[str, float]
    strength: float


@dataclass(frozen=True)
class Threshold:
    """Only images whose value compares so with the threshold may be picked."""

    scores: Mix
    column: str
    operation: str
    threshold: float


@dataclass(frozen=True)
class Top:
    """Only the images of the highest scores may be picked, `factor` times as many as are wanted."""

    scores: Mix
    factor: float


Entry = Diversity | Weights | Random | Typicality | Similarity | Balance | Threshold | Top

_LARGEST = 1e300
OPERATIONS = ("BIGGER", "BIGGER_EQUAL", "SMALLER", "SMALLER_EQUAL")
# Which strategies each input can have.
_KNOWN = {
    "EMBEDDINGS": ("DIVERSITY", "SIMILARITY", "TYPICALITY"),
    "SCORES": ("WEIGHTS", "THRESHOLD", "TOP"),
    "PREDICTIONS": ("BALANCE",),
    "METADATA": ("WEIGHTS", "THRESHOLD", "BALANCE"),
    "RANDOM": ("WEIGHTS",),
}


def strategy(text: str) -> str:
    """Checks CORAL_STRATEGY; a JSON list comes back on one line.

    Raises:
        ValueError: Says what is accepted.
    """
    if not text.lstrip().startswith(("[", "{")):
        if text not in STRATEGIES:
            raise ValueError(f"must be one of {', '.join(STRATEGIES)}, or a JSON list{_hint(text, STRATEGIES)}")
        return text
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON: {error}") from None
    entries(json.dumps(given))
    return json.dumps(given, ensure_ascii=False)


def entries(text: str) -> list[Entry] | None:
    """The entries of a JSON list; None for a name.

    Raises:
        ValueError: Says what is wrong, and where.
    """
    if text in STRATEGIES:
        return None
    given = json.loads(text)
    if not isinstance(given, list) or not given:
        raise ValueError('must be a list, [{"input": {...}, "strategy": {...}}, ...]')
    found = []
    for number, each in enumerate(given, start=1):
        try:
            found.append(_entry(each))
        except ValueError as error:
            raise ValueError(f"entry {number} {error}") from None
    if all(isinstance(each, Threshold | Top) for each in found):
        raise ValueError("only says which images may be picked: add an entry that says which are better")
    return found


def mix(text: str) -> str:
    """Checks CORAL_SCORE: a name, or ``name=share,name=share``.

    Raises:
        ValueError: Says what is accepted.
    """
    shares(text)
    return text


def shares(text: str) -> Mix:
    """The scores of CORAL_SCORE, with shares that sum to 1.

    Raises:
        ValueError: Says what is accepted.
    """
    found: dict[str, float] = {}
    for each in text.split(","):
        name, equals, share = each.strip().partition("=")
        if name in found:
            raise ValueError(f"names {name} twice")
        try:
            found[name] = float(share) if equals else 1.0
        except ValueError:
            found[name] = math.nan
    return _mix(found)


def driving_mix(strategy: str, score: str) -> Mix | None:
    """The score, or the mix, that drives a strategy; of a list the first that it has. None where none counts."""
    found = entries(strategy)
    if found is None:
        return shares(score) if strategy in ("coral", "active_learning", "two_stage") else None
    return next((each.scores for each in found if isinstance(each, Weights | Top) and each.scores), None)


def driving(strategy: str, score: str) -> tuple[str, bool]:
    """The score that counts most in a strategy, or in CORAL_SCORE; and whether one counts at all."""
    mix = driving_mix(strategy, score)
    largest = shares(score) if mix is None else mix
    return max(largest, key=lambda name: largest[name]), mix is not None


def first(strategy: str, among: str) -> str:
    """What is said of a pick that was made without a distance."""
    if strategy == "random":
        return "first pick"
    if strategy == "typicality":
        return f"first pick: the most typical of {among}"
    return f"first pick: the highest {'score' if strategy in STRATEGIES else 'value'} of {among}"


def weights(text: str) -> Mapping[str, float]:
    """Checks CORAL_CLASS_WEIGHTS, ``name=weight,name=weight``.

    Raises:
        ValueError: Says what is accepted.
    """
    found = {}
    for each in text.split(","):
        name, _, weight = each.rpartition("=")
        try:
            found[name.strip()] = float(weight)
        except ValueError:
            found[""] = math.nan
    if "" in found or not all(0 <= each < math.inf for each in found.values()):
        raise ValueError("must be class=weight,class=weight, with weights of 0 or more")
    return found


def _entry(given: Any) -> Entry:
    source, how = (_part(given, name) for name in ("input", "strategy"))
    if not isinstance(given, dict) or given.keys() != {"input", "strategy"} or source is None or how is None:
        raise ValueError('must be {"input": {"type": ...}, "strategy": {"type": ...}}')
    kind, way = source.pop("type"), how.pop("type")
    if kind not in _KNOWN:
        raise ValueError(f"has the input {kind!r}: use {', '.join(_KNOWN)}")
    if way not in _KNOWN[kind]:
        raise ValueError(f"has the strategy {way!r}: for {kind}, use {', '.join(_KNOWN[kind])}")
    return _BUILD[way](kind, _Fields({**source, **how}))


def _part(given: Any, name: str) -> dict[str, Any] | None:
    part = given.get(name) if isinstance(given, dict) else None
    return dict(part) if isinstance(part, dict) and isinstance(part.get("type"), str) else None


class _Fields:
    """What stands in an entry besides its types; what is not asked for is an error."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def done(self, entry: Entry) -> Entry:
        if self._values:
            raise ValueError(f"has {next(iter(self._values))!r}, which is not known there")
        return entry

    def take(self, name: str, default: Any = None) -> Any:
        return self._values.pop(name, default)

    def number(self, name: str, default: float | None, least: float = 0.0) -> float:
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= _LARGEST:
            raise ValueError(f"needs {name!r}: a number" + (f" of at least {least:g}" if least > -math.inf else ""))
        return float(value)

    def strength(self) -> float:
        return self.number("strength", 1.0)

    def mix(self) -> Mix:
        one, several = self.take("score"), self.take("scores")
        self.take("task")  # LightlyOne's; here there is one
        if isinstance(one, str) and several is None:
            return _mix({one: 1.0})
        if one is None and isinstance(several, dict) and several:
            return _mix(several)
        raise ValueError('needs "score": a name, or "scores": {name: share, ...}')

    def text(self, name: str) -> str:
        value = self.take(name)
        if not isinstance(value, str):
            raise ValueError(f"needs {name!r}: a text")
        return value

    def values_of(self, kind: str) -> tuple[Mix, str]:
        return (self.mix(), "") if kind == "SCORES" else ({}, self.text("key"))


def _hint(given: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _mix(given: Mapping[str, Any]) -> Mix:
    for name, share in given.items():
        if name not in scores.NAMES:
            raise ValueError(f"knows no score {name!r}: use {', '.join(scores.NAMES)}{_hint(name, scores.NAMES)}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < math.inf:
            raise ValueError(f"needs a share above 0 for {name}")
    total = sum(given.values())
    return {name: share / total for name, share in given.items()}


def _diversity(_: str, fields: _Fields) -> Entry:
    min_distance = fields.number("stopping_condition_minimum_distance", 0.0)
    return fields.done(Diversity(fields.strength(), min_distance))


def _weights(kind: str, fields: _Fields) -> Entry:
    if kind == "RANDOM":
        seed = fields.take("random_seed")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
            raise ValueError("needs a 'random_seed' of 0 or more")
        return fields.done(Random(seed, fields.strength()))
    return fields.done(Weights(*fields.values_of(kind), fields.strength()))


def _threshold(kind: str, fields: _Fields) -> Entry:
    values, operation = fields.values_of(kind), fields.take("operation")
    if operation not in OPERATIONS:
        raise ValueError(f"needs an 'operation': {', '.join(OPERATIONS)}")
    return fields.done(Threshold(*values, operation, fields.number("threshold", None, -math.inf)))


def _top(_: str, fields: _Fields) -> Entry:
    return fields.done(Top(fields.mix(), fields.number("factor", 4.0, 1.0)))


def _typicality(_: str, fields: _Fields) -> Entry:
    neighbours = fields.number("num_nearest_neighbors", 20, 1)
    return fields.done(Typicality(int(neighbours), fields.strength()))


def _similarity(_: str, fields: _Fields) -> Entry:
    images = fields.take("images")
    if not isinstance(images, list) or not images or not all(isinstance(each, str) for each in images):
        raise ValueError("needs 'images': a list of file names in the pool")
    return fields.done(Similarity(tuple(images), fields.strength()))


def _balance(kind: str, fields: _Fields) -> Entry:
    column = "" if kind == "PREDICTIONS" else fields.text("key")
    if kind == "PREDICTIONS":
        fields.take("task")
        if fields.take("name", "CLASS_DISTRIBUTION") != "CLASS_DISTRIBUTION":
            raise ValueError("knows predictions by the 'name' of CLASS_DISTRIBUTION alone")
    distribution, target = fields.take("distribution", "TARGET"), fields.take("target", {})
    if distribution not in ("TARGET", "UNIFORM") or (distribution == "UNIFORM") != (target == {}):
        raise ValueError("needs 'target': {value: share, ...}, or 'distribution': 'UNIFORM' without one")
    usable = isinstance(target, dict) and all(
        isinstance(each, int | float) and not isinstance(each, bool) and 0 <= each <= 1 for each in target.values()
    )
    if not usable or (target and not 0 < sum(target.values()) <= 1 + 1e-9):
        raise ValueError("needs a 'target' of shares from 0 to 1, which sum to at most 1")
    return fields.done(Balance(column, target, fields.strength()))


_BUILD: dict[str, Callable[[str, _Fields], Entry]] = {
    "DIVERSITY": _diversity,
    "WEIGHTS": _weights,
    "THRESHOLD": _threshold,
    "TOP": _top,
    "TYPICALITY": _typicality,
    "SIMILARITY": _similarity,
    "BALANCE": _balance,
}
