"""The entries of a JSON list in CORAL_STRATEGY: from JSON to frozen records, in LightlyOne's grammar.

    [{"input": {"type": "EMBEDDINGS"}, "strategy": {"type": "DIVERSITY"}},
     {"input": {"type": "SCORES", "score": "entropy_sum"}, "strategy": {"type": "WEIGHTS", "strength": 0.5}},
     {"input": {"type": "METADATA", "key": "height"}, "strategy": {"type": "THRESHOLD", "threshold": 480,
                                                                   "operation": "BIGGER_EQUAL"}}]

Thresholds and ``TOP`` decide which images may be picked. The values of all other entries, each raised to its strength,
are multiplied.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from job.names import shorten
from job.settings.mix import Mix, normalize_shares

_MAX_NUMBER = 1e300
OBJECTS = "objects"  # the task whose embeddings are those of boxes
OPERATIONS = ("BIGGER", "BIGGER_EQUAL", "SMALLER", "SMALLER_EQUAL")


@dataclass(frozen=True)
class Diversity:
    """Distance to the nearest labelled or picked image; 0 if it is below `min_distance`."""

    strength: float
    min_distance: float


@dataclass(frozen=True)
class ObjectDiversity:
    """`job.select.objects`: the sum over the boxes of weight times distance to the nearest known box."""

    strength: float


@dataclass(frozen=True)
class Weights:
    """0.05 + 0.95 times a mix of scores, or times a column of images.parquet divided by its largest value."""

    scores: Mix
    column: str
    strength: float


@dataclass(frozen=True)
class Random:
    """A number drawn uniformly from 0 to 1; without a seed, CORAL_SEED is used."""

    seed: int | None
    strength: float


@dataclass(frozen=True)
class Typicality:
    """`job.select.typicality`, from so many nearest neighbours."""

    neighbours: int
    strength: float


@dataclass(frozen=True)
class Similarity:
    """1 - d / 2, where d is the distance to the nearest of the given images."""

    images: tuple[str, ...]
    strength: float


@dataclass(frozen=True)
class BalanceEntry:
    """`job.select.balance`, toward shares of the predicted classes, or of the values of a column.

    An empty target stands for equal shares.
    """

    column: str
    target: Mapping[str, float]
    strength: float


@dataclass(frozen=True)
class Threshold:
    """Only images whose value compares with the threshold as the operation says may be picked."""

    scores: Mix
    column: str
    operation: str
    threshold: float


@dataclass(frozen=True)
class Top:
    """Only the images with the highest scores may be picked: `factor` times as many as CORAL_N_SAMPLES."""

    scores: Mix
    factor: float


Entry = Diversity | ObjectDiversity | Weights | Random | Typicality | Similarity | BalanceEntry | Threshold | Top


def parse_entries(content: Any) -> tuple[Entry, ...]:
    """Parses the content of a JSON list.

    Raises:
        ValueError: If it is not a list of entries; the message says which entry is wrong, and what is accepted.
    """
    if not isinstance(content, list) or not content:
        raise ValueError('must be a list, [{"input": {...}, "strategy": {...}}, ...]')
    entries = []
    for number, item in enumerate(content, start=1):
        try:
            entries.append(_parse_entry(item))
        except ValueError as error:
            raise ValueError(f"entry {number} {error}") from None
    if all(isinstance(entry, Threshold | Top) for entry in entries):
        raise ValueError("only limits which images may be picked: add an entry that ranks them")
    kinds = {type(entry) for entry in entries}
    if {ObjectDiversity, BalanceEntry} <= kinds:
        raise ValueError("has the DIVERSITY of objects and a BALANCE, which do not work together: remove one")
    return tuple(entries)


def _parse_entry(item: Any) -> Entry:
    source, way = (_typed_object(item, name) for name in ("input", "strategy"))
    if not isinstance(item, dict) or item.keys() != {"input", "strategy"} or source is None or way is None:
        raise ValueError('must be {"input": {"type": ...}, "strategy": {"type": ...}}')
    input_type, strategy_type = source.pop("type"), way.pop("type")
    inputs = list(dict.fromkeys(name for kind in _KINDS.values() for name in kind.inputs))
    if input_type not in inputs:
        raise ValueError(f"has the input {shorten(input_type)}: use {', '.join(inputs)}")
    allowed = [name for name, kind in _KINDS.items() if input_type in kind.inputs]
    if strategy_type not in allowed:
        raise ValueError(f"has the strategy {shorten(strategy_type)}: for {input_type}, use {', '.join(allowed)}")
    fields = _Fields({**source, **way})
    entry = _KINDS[strategy_type].build(input_type, fields)
    fields.refuse_rest()
    return entry


def _typed_object(item: Any, name: str) -> dict[str, Any] | None:
    value = item.get(name) if isinstance(item, dict) else None
    return dict(value) if isinstance(value, dict) and isinstance(value.get("type"), str) else None


class _Fields:
    """The fields of an entry besides its types. Those that no builder takes are an error."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def refuse_rest(self) -> None:
        if self._values:
            raise ValueError(f"has the unknown field {shorten(next(iter(self._values)))}")

    def take(self, name: str, default: Any = None) -> Any:
        return self._values.pop(name, default)

    def take_number(self, name: str, default: float | None, minimum: float = 0.0) -> float:
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= _MAX_NUMBER:
            raise ValueError(f"needs {name!r}: a number" + (f" of at least {minimum:g}" if minimum > -math.inf else ""))
        return float(value)

    def take_strength(self) -> float:
        return self.take_number("strength", 1.0)

    def take_mix(self) -> Mix:
        score, scores = self.take("score"), self.take("scores")
        self.take("task")  # LightlyOne's name of a prediction task; a run here has one
        if isinstance(score, str) and scores is None:
            return normalize_shares({score: 1.0})
        if score is None and isinstance(scores, dict) and scores:
            return normalize_shares(scores)
        raise ValueError('needs "score": a name, or "scores": {name: share, ...}')

    def take_text(self, name: str) -> str:
        value = self.take(name)
        if not isinstance(value, str):
            raise ValueError(f"needs {name!r}: a text")
        return value

    def take_values(self, input_type: str) -> tuple[Mix, str]:
        return (self.take_mix(), "") if input_type == "SCORES" else ({}, self.take_text("key"))


def _diversity(_: str, fields: _Fields) -> Entry:
    task = fields.take("task")
    if task == OBJECTS:
        return ObjectDiversity(fields.take_strength())
    if task is not None:
        raise ValueError(f"has the task {shorten(str(task))}: use {OBJECTS}, or none for whole images")
    min_distance = fields.take_number("stopping_condition_minimum_distance", 0.0)
    return Diversity(fields.take_strength(), min_distance)


def _weights(input_type: str, fields: _Fields) -> Entry:
    if input_type == "RANDOM":
        seed = fields.take("random_seed")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
            raise ValueError("needs a 'random_seed' of 0 or more")
        return Random(seed, fields.take_strength())
    mix, column = fields.take_values(input_type)
    return Weights(mix, column, fields.take_strength())


def _threshold(input_type: str, fields: _Fields) -> Entry:
    (mix, column), operation = fields.take_values(input_type), fields.take("operation")
    if operation not in OPERATIONS:
        raise ValueError(f"needs an 'operation': {', '.join(OPERATIONS)}")
    return Threshold(mix, column, operation, fields.take_number("threshold", None, -math.inf))


def _top(_: str, fields: _Fields) -> Entry:
    return Top(fields.take_mix(), fields.take_number("factor", 4.0, 1.0))


def _typicality(_: str, fields: _Fields) -> Entry:
    neighbours = fields.take_number("num_nearest_neighbors", 20, 1)
    return Typicality(int(neighbours), fields.take_strength())


def _similarity(_: str, fields: _Fields) -> Entry:
    images = fields.take("images")
    if not isinstance(images, list) or not images or not all(isinstance(name, str) for name in images):
        raise ValueError("needs 'images': a list of file names in the pool")
    return Similarity(tuple(images), fields.take_strength())


def _balance(input_type: str, fields: _Fields) -> Entry:
    column = "" if input_type == "PREDICTIONS" else fields.take_text("key")
    if input_type == "PREDICTIONS":
        fields.take("task")
        if fields.take("name", "CLASS_DISTRIBUTION") != "CLASS_DISTRIBUTION":
            raise ValueError("supports the 'name' CLASS_DISTRIBUTION only")
    distribution, target = fields.take("distribution", "TARGET"), fields.take("target", {})
    if distribution not in ("TARGET", "UNIFORM") or (distribution == "UNIFORM") != (target == {}):
        raise ValueError("needs 'target': {value: share, ...}, or 'distribution': 'UNIFORM' without a target")
    usable = isinstance(target, dict) and all(
        isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share <= 1 for share in target.values()
    )
    if not usable or (target and not 0 < sum(target.values()) <= 1 + 1e-9):
        raise ValueError("needs a 'target' of shares from 0 to 1, which sum to at most 1")
    return BalanceEntry(column, target, fields.take_strength())


@dataclass(frozen=True)
class _Kind:
    """One type of strategy: which inputs it accepts, and what builds its record from the type of input and fields."""

    inputs: Sequence[str]
    build: Callable[[str, _Fields], Entry]


_KINDS = {
    "DIVERSITY": _Kind(("EMBEDDINGS",), _diversity),
    "SIMILARITY": _Kind(("EMBEDDINGS",), _similarity),
    "TYPICALITY": _Kind(("EMBEDDINGS",), _typicality),
    "WEIGHTS": _Kind(("SCORES", "METADATA", "RANDOM"), _weights),
    "THRESHOLD": _Kind(("SCORES", "METADATA"), _threshold),
    "TOP": _Kind(("SCORES",), _top),
    "BALANCE": _Kind(("PREDICTIONS", "METADATA"), _balance),
}
