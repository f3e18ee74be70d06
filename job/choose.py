"""What the settings say of the selection, carried out on the pool."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from job import scores
from job.errors import SettingsError
from job.parts import pool as pools
from job.parts.pool import Floats, Pool
from job.publish.tables import image_columns
from job.select import Balance, Factor, Selection, choose, coverage, select
from job.select.engine import SCORE_FLOOR, best_by, random_order, scaled
from job.select.points import ArrayPoints
from job.select.typicality import typicality
from job.settings import Settings
from job.settings import strategy as strategies
from job.storage import Storage

_COMPARE = {
    "BIGGER": np.greater,
    "BIGGER_EQUAL": np.greater_equal,
    "SMALLER": np.less,
    "SMALLER_EQUAL": np.less_equal,
}


def driving_score(settings: Settings, pool: Pool) -> Floats:
    """(n,) the score that drives the selection, or else the one that CORAL_SCORE names; weighted where classes are.

    Raises:
        SettingsError: There was no detector.
    """
    mix = strategies.driving_mix(settings.strategy, settings.score) or strategies.shares(settings.score)
    return _mixed(pool, mix, weighted=settings.class_weights is not None)


def choose_among(
    settings: Settings,
    output: Storage,
    pool: Pool,
    embeddings: npt.NDArray[np.float32],
    labelled: Sequence[str],
    candidates: Sequence[str] | None = None,
) -> Selection:
    """Selects as the settings say, among the given images or all of them.

    Raises:
        SettingsError: The strategy speaks of something that is not in the pool.
    """
    row = {key: index for index, key in enumerate(pool.file_names)}
    options: dict[str, Any] = {
        "labelled": [row[name] for name in labelled if name in row],
        "candidates": None if candidates is None else [row[name] for name in candidates],
        "min_distance": settings.min_distance if candidates is None else 0.0,
    }
    entries = strategies.entries(settings.strategy)
    if entries is not None:
        return _Composition(settings, output, pool, embeddings).selection(entries, **options)
    needs_score = pool.has_detections or strategies.driving(settings.strategy, settings.score)[1]
    score = driving_score(settings, pool) if needs_score else np.zeros(len(pool.file_names))
    return select(
        *(embeddings, score, settings.n_samples),
        strategy=settings.strategy,
        score_strength=settings.score_strength,
        diversity_strength=settings.diversity_strength,
        seed=settings.seed,
        **options,
    )


def check_classes(settings: Settings, class_names: Sequence[str]) -> None:
    """Finds out before any work whether the settings of the selection name classes that there are.

    Raises:
        SettingsError: One does not.
    """
    if settings.class_weights:
        pools.weights_of(settings.class_weights, class_names)
    for each in strategies.entries(settings.strategy) or ():
        if isinstance(each, strategies.Balance) and not each.column:
            _check_target(each, class_names)


def _check_target(entry: strategies.Balance, values: Sequence[str]) -> None:
    if unknown := [each for each in entry.target if each not in values]:
        what = entry.column or "class"
        raise SettingsError(f"CORAL_STRATEGY balances by the {what} {unknown[0]!r}: there are {', '.join(values)}.")


def uses_distance(settings: Settings) -> bool:
    """Whether the strategy needs embeddings."""
    entries = strategies.entries(settings.strategy)
    if settings.min_distance > 0:
        return True
    if entries is None:
        return settings.strategy not in ("active_learning", "random")
    return any(
        isinstance(each, strategies.Diversity | strategies.Typicality | strategies.Similarity) for each in entries
    )


def _mixed(pool: Pool, mix: Mapping[str, float], *, weighted: bool) -> Floats:
    if not pool.has_detections:
        raise SettingsError(
            "This strategy needs predictions, and CORAL_PREDICTIONS='none': set CORAL_STRATEGY to coreset, typicality "
            "or random."
        )
    names = {name: name + (scores.WEIGHTED if weighted else "") for name in mix}
    if len(mix) == 1:
        return pool.scores[names[next(iter(mix))]]
    result: Floats = np.sum([share * scaled(pool.scores[names[name]]) for name, share in mix.items()], axis=0)
    return result


class _Composition:
    """A list of entries on a pool."""

    def __init__(self, settings: Settings, output: Storage, pool: Pool, embeddings: npt.NDArray[np.float32]) -> None:
        self._settings, self._output, self._pool, self._embeddings = settings, output, pool, embeddings
        self._columns = image_columns(pool)

    def selection(
        self,
        entries: Sequence[strategies.Entry],
        labelled: Sequence[int],
        candidates: Sequence[int] | None,
        min_distance: float,
    ) -> Selection:
        allowed = np.ones(len(self._pool.file_names), bool)
        if candidates is not None:
            allowed[:] = False
            allowed[list(candidates)] = True
        factors: list[Factor] = []
        balances: list[Balance] = []
        diversity = 0.0
        for each in entries:
            match each:
                case strategies.Threshold():
                    values = self._values(each.scores, each.column)
                    allowed &= _COMPARE[each.operation](values, each.threshold)
                case strategies.Diversity():
                    diversity += each.strength
                    min_distance = max(min_distance, each.min_distance)
                case strategies.Balance():
                    balances.append(self._balance(each))
                case strategies.Top():
                    continue
                case _:
                    factors.append(self._factor(each))
        rows = np.flatnonzero(allowed).tolist()
        for each in entries:  # among what the thresholds have left, wherever they stand
            if isinstance(each, strategies.Top):
                count = int(np.ceil(each.factor * self._settings.n_samples))
                rows = best_by(self._mix(each.scores), count, rows, labelled, None)
        return choose(
            *(self._embeddings, self._settings.n_samples, factors, diversity),
            balances=balances,
            labelled=labelled,
            candidates=rows,
            min_distance=min_distance,
        )

    def _factor(self, entry: strategies.Entry) -> Factor:
        match entry:
            case strategies.Weights(mix, column, strength):
                name = "+".join(mix) if mix else column
                values = scaled(self._not_negative(column, self._values(mix, column)))
                return Factor(name, SCORE_FLOOR + (1 - SCORE_FLOOR) * values, strength)
            case strategies.Random(seed, strength):
                count, seed = len(self._pool.file_names), self._settings.seed if seed is None else seed
                return Factor("random order", random_order(count, seed, None), strength)
            case strategies.Typicality(neighbours, strength):
                points = ArrayPoints(self._embeddings)
                return Factor("typicality", typicality(points, neighbours=neighbours), strength)
            case strategies.Similarity(images, strength):
                distance, _ = coverage(self._embeddings, self._rows(images))
                return Factor("similarity", np.maximum(1 - distance / 2, 0), strength)
        raise TypeError(entry)

    def _mix(self, mix: Mapping[str, float]) -> Floats:
        return _mixed(self._pool, mix, weighted=self._settings.class_weights is not None)

    def _values(self, mix: Mapping[str, float], column: str) -> Floats:
        if mix:
            return self._mix(mix)
        values = np.asarray(self._column(column))
        if values.dtype.kind not in "iuf":
            raise SettingsError(f"CORAL_STRATEGY takes {column!r} for numbers, and it holds texts: balance by it.")
        unknown = np.flatnonzero(values == 0)
        if column in ("width", "height") and len(unknown):
            shown = ", ".join(repr(self._pool.file_names[row]) for row in unknown[:3])
            raise SettingsError(f"CORAL_STRATEGY goes by {column!r}, which is not known of {shown}: give it, too.")
        return values.astype(np.float64)

    def _not_negative(self, column: str, values: Floats) -> Floats:
        bad = np.flatnonzero(~((values >= 0) & (values < np.inf)))
        if len(bad):
            shown = ", ".join(f"{self._pool.file_names[row]!r} ({values[row]:g})" for row in bad[:3])
            raise SettingsError(f"CORAL_STRATEGY weighs by {column!r}, which must not be negative, and is for {shown}.")
        return values

    def _column(self, name: str) -> Any:
        if name not in self._columns:
            raise SettingsError(f"CORAL_STRATEGY names the column {name!r}: there are {', '.join(self._columns)}.")
        return self._columns[name]

    def _rows(self, names: Sequence[str]) -> list[int]:
        row = {key: index for index, key in enumerate(self._pool.file_names)}
        if missing := [name for name in names if name not in row]:
            raise SettingsError(f"CORAL_STRATEGY names {missing[0]!r}, which is no usable image of the pool.")
        return [row[name] for name in names]

    def _balance(self, entry: strategies.Balance) -> Balance:
        if entry.column:
            found = [str(each) for each in self._column(entry.column)]
            values = sorted(set(found))
            shares = (np.array(found)[:, None] == np.array(values)[None]).astype(np.float64)
        else:
            values = list(self._pool.provenance.class_names)
            shares = pools.class_shares(self._output, self._pool)
        _check_target(entry, values)
        present = [value for value, sums in zip(values, shares.sum(axis=0), strict=True) if sums > 0]
        target = dict(entry.target) or {value: 1 / len(present) for value in present}
        others = [column for column, value in enumerate(values) if value not in target]
        columns = [shares[:, values.index(value)] for value in target] + [shares[:, others].sum(axis=1)]
        wanted = np.array([*target.values(), max(0.0, 1 - sum(target.values()))])
        return Balance(np.stack(columns, axis=1), wanted, entry.strength)
