"""The selection that the settings ask for, on the images of the pool."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from job import scores
from job.errors import SettingsError
from job.inputs import frames, metadata, similar
from job.names import list_first, shorten, shorten_text
from job.parts import objects as part_objects
from job.parts import pool as pools
from job.parts.pool import Floats, Pool
from job.select import STRATEGIES as IMPLEMENTED
from job.select import Apart, Balance, Factor, Objects, Selection, choose, coverage, select
from job.select.engine import SCORE_FLOOR, as_points, find_highest, random_order, scale_scores
from job.select.typicality import typicality
from job.settings import Settings
from job.settings.entries import (
    BalanceEntry,
    Diversity,
    Entry,
    ObjectDiversity,
    Random,
    Similarity,
    Threshold,
    Top,
    Typicality,
    Weights,
)
from job.settings.mix import Mix
from job.settings.parse import hint
from job.settings.strategy import STRATEGIES
from job.storage import Listing, Storage

if TYPE_CHECKING:
    from job.select.points import Embeddings

if set(STRATEGIES) != set(IMPLEMENTED):
    raise RuntimeError("job.settings.strategy and job.select.engine name different strategies: add the missing one.")

_COMPARE = {
    "BIGGER": np.greater,
    "BIGGER_EQUAL": np.greater_equal,
    "SMALLER": np.less,
    "SMALLER_EQUAL": np.less_equal,
}


def ranking_score(settings: Settings, pool: Pool) -> Floats:
    """(n,) values of the score that the strategy ranks by, or else of CORAL_SCORE; weighted if classes have weights.

    Raises:
        SettingsError: If the pool has no detections.
    """
    return _mix_scores(pool, settings.ranking_scores, weighted=settings.class_weights is not None)


def choose_among(
    settings: Settings,
    output: Storage,
    pool: Pool,
    embeddings: "Embeddings",
    labelled: Sequence[str],
    elsewhere: npt.NDArray[np.float32] | None = None,
    candidates: Sequence[str] | None = None,
) -> Selection:
    """Selects images with the strategy of the settings.

    Args:
        settings: The settings.
        output: Folder with the parts.
        pool: The images.
        embeddings: (n, d) in the order of the pool.
        labelled: File names of the images that have labels.
        elsewhere: (k, d) embeddings of labelled images that are not in the pool; None for none.
        candidates: File names of the images to select from; all by default.

    Raises:
        SettingsError: If the strategy names an image, a class or a column that the pool does not have, or compares
            objects, and their boxes have no features.
    """
    labelled_rows = pool.file_names.find(labelled)
    limits = _Limits(
        labelled=labelled_rows[labelled_rows >= 0].tolist(),
        elsewhere=elsewhere,
        candidates=None if candidates is None else pool.file_names.find(candidates).tolist(),
        min_distance=settings.min_distance if candidates is None else 0.0,
        apart=frames.keep_apart(pool, settings.min_seconds) if candidates is None else None,
    )
    objects = _read_objects(settings, output, pool) if settings.strategy.uses_objects else None
    if settings.strategy.entries:
        return _Composition(settings, output, pool, embeddings).select(settings.strategy.entries, limits, objects)
    needs_score = pool.has_detections or settings.strategy.uses_scores
    return select(
        embeddings,
        ranking_score(settings, pool) if needs_score else np.zeros(len(pool.file_names)),
        settings.n_samples,
        strategy=settings.strategy.text,
        objects=objects,
        score_strength=settings.score_strength,
        diversity_strength=settings.diversity_strength,
        seed=settings.seed,
        labelled=limits.labelled,
        labelled_elsewhere=limits.elsewhere,
        candidates=limits.candidates,
        min_distance=limits.min_distance,
        apart=limits.apart,
    )


def _read_objects(settings: Settings, output: Storage, pool: Pool) -> Objects:
    """Reads the boxes of the pool, with what each contributes to CORAL_SCORE as its weight."""
    _check_detections(pool)
    class_weights = pools.class_weight_array(settings.class_weights or {}, pool.provenance.class_names)

    def weigh(boxes: scores.Boxes) -> Floats:
        shares = settings.score.shares.items()
        contributions = [share * scores.TABLE[name].contributions(boxes) for name, share in shares]
        weights: Floats = np.sum(contributions, axis=0) * class_weights[boxes.classes]
        return weights

    return part_objects.read(output, pool, weigh)


def choose_without(
    rejected: Collection[str],
    settings: Settings,
    output: Storage,
    pool: Pool,
    embeddings: "Embeddings",
    labelled: Sequence[str],
    elsewhere: npt.NDArray[np.float32] | None = None,
) -> Selection:
    """Selects as `choose_among` does, and replaces rejected picks by the next best images.

    The greedy goes on until there are enough other picks. So these stay, and rejected picks still repel images that
    look like them. A strategy that first takes the highest scores takes more of them.

    Args:
        rejected: File names of the rejected images.
        settings: The settings.
        output: Folder with the parts.
        pool: The images.
        embeddings: (n, d) in the order of the pool.
        labelled: File names of the images that have labels.
        elsewhere: (k, d) embeddings of labelled images that are not in the pool; None for none.

    Raises:
        SettingsError: If the strategy names an image, a class or a column that the pool does not have.
    """
    count = wanted = settings.n_samples
    while True:
        widened = replace(settings, n_samples=count)
        selection = choose_among(widened, output, pool, embeddings, labelled, elsewhere)
        kept = [pick for pick in selection.picks if pool.file_names[pick.index] not in rejected]
        if len(kept) >= wanted or len(selection.picks) < count:
            return Selection(kept[:wanted], selection.factors)
        count += wanted - len(kept)


def check_classes(settings: Settings, class_names: Sequence[str]) -> None:
    """Checks, before any work, that the settings of the selection name existing classes.

    Raises:
        SettingsError: If a class weight or a balance names a class that the detector does not have.
    """
    if settings.class_weights:
        pools.class_weight_array(settings.class_weights, class_names)
    for entry in settings.strategy.entries:
        if isinstance(entry, BalanceEntry) and not entry.column:
            _check_target(entry, class_names)


def _check_target(entry: BalanceEntry, values: Sequence[str]) -> None:
    if unknown := [value for value in entry.target if value not in values]:
        column = entry.column or "class"
        raise SettingsError(
            f"CORAL_STRATEGY balances by the {shorten_text(column)} {shorten(unknown[0])}, which does not exist: use "
            f"{list_first(values)}{hint(unknown[0], values)}."
        )


def _check_detections(pool: Pool) -> None:
    if not pool.has_detections:
        raise SettingsError(
            "This strategy needs predictions, and CORAL_PREDICTIONS='none': set CORAL_STRATEGY to coreset, typicality "
            "or random."
        )


def _mix_scores(pool: Pool, mix: Mix, *, weighted: bool) -> Floats:
    _check_detections(pool)
    columns = {name: name + (scores.WEIGHTED if weighted else "") for name in mix}
    if len(mix) == 1:
        return pool.scores[columns[next(iter(mix))]]
    result: Floats = np.sum([share * scale_scores(pool.scores[columns[name]]) for name, share in mix.items()], axis=0)
    return result


@dataclass(frozen=True)
class _Limits:
    """Which images may be picked.

    Attributes:
        labelled: Rows of the labelled images.
        elsewhere: (k, d) embeddings of labelled images that are not in the pool; None for none.
        candidates: Rows that may be picked; all if None.
        min_distance: Smallest distance of a pick to every labelled or picked image.
        apart: What keeps picks of one video apart in time; None for nothing.
    """

    labelled: Sequence[int]
    elsewhere: npt.NDArray[np.float32] | None
    candidates: Sequence[int] | None
    min_distance: float
    apart: Apart | None


class _Composition:
    """Selects with a list of entries.

    Args:
        settings: The settings.
        output: Folder with the parts.
        pool: The images.
        embeddings: (n, d) in the order of the pool.
    """

    def __init__(self, settings: Settings, output: Storage, pool: Pool, embeddings: "Embeddings") -> None:
        self._settings, self._output, self._pool, self._embeddings = settings, output, pool, embeddings
        self._columns = pool.columns()

    def select(self, entries: Sequence[Entry], limits: _Limits, objects: Objects | None) -> Selection:
        diversities = [entry for entry in entries if isinstance(entry, Diversity)]
        strength = sum(entry.strength for entry in entries if isinstance(entry, ObjectDiversity))
        return choose(
            self._embeddings,
            self._settings.n_samples,
            [self._factor(entry) for entry in entries if isinstance(entry, _FACTORS)],
            sum(entry.strength for entry in diversities),
            balances=[self._balance(entry) for entry in entries if isinstance(entry, BalanceEntry)],
            objects=None if objects is None else replace(objects, strength=strength),
            labelled=limits.labelled,
            labelled_elsewhere=limits.elsewhere,
            candidates=self._candidates(entries, limits),
            min_distance=max([limits.min_distance, *(entry.min_distance for entry in diversities)]),
            apart=limits.apart,
        )

    def _candidates(self, entries: Sequence[Entry], limits: _Limits) -> list[int]:
        """The rows that thresholds leave, and of these the rows with the highest scores."""
        allowed = np.ones(len(self._pool.file_names), bool)
        if limits.candidates is not None:
            allowed[:] = False
            allowed[list(limits.candidates)] = True
        for entry in entries:
            if isinstance(entry, Threshold):
                allowed &= _COMPARE[entry.operation](self._values(entry.scores, entry.column), entry.threshold)
        rows = np.flatnonzero(allowed).tolist()
        for entry in entries:  # after all thresholds, wherever these stand in the list
            if isinstance(entry, Top):
                count = int(np.ceil(entry.factor * self._settings.n_samples))
                rows = find_highest(self._mix(entry.scores), count, rows, limits.labelled, None)
        return list(rows)

    def _factor(self, entry: Entry) -> Factor:
        match entry:
            case Weights(mix, column, strength):
                name = "+".join(mix) if mix else column
                values = self._check_weights(column, self._values(mix, column))
                # A column is divided by its largest value: it may be above 0 for less than 1 % of the images.
                values = scale_scores(values) if mix else values / max(1.0, values.max(initial=0))
                return Factor(name, SCORE_FLOOR + (1 - SCORE_FLOOR) * values, strength)
            case Random(seed, strength):
                count, seed = len(self._pool.file_names), self._settings.seed if seed is None else seed
                return Factor("random order", random_order(count, seed, None), strength)
            case Typicality(neighbours, strength):
                points = as_points(self._embeddings)
                return Factor("typicality", typicality(points, neighbours=neighbours), strength)
            case Similarity(strength=strength):
                distance, _ = coverage(self._embeddings, self._rows(entry))
                return Factor("similarity", np.maximum(1 - distance / 2, 0), strength)
        raise TypeError(entry)

    def _mix(self, mix: Mapping[str, float]) -> Floats:
        return _mix_scores(self._pool, mix, weighted=self._settings.class_weights is not None)

    def _values(self, mix: Mapping[str, float], column: str) -> Floats:
        if mix:
            return self._mix(mix)
        if column in self._pool.metadata:
            return metadata.to_numbers(column, self._pool.metadata[column], self._pool.file_names)
        values = np.asarray(self._column(column))
        if values.dtype.kind not in "iuf":
            raise SettingsError(f"CORAL_STRATEGY cannot weight by {shorten(column)}: the column is text. Use BALANCE.")
        unknown = np.flatnonzero(values == 0)
        if column in ("width", "height") and len(unknown):
            names = ", ".join(shorten(self._pool.file_names[row]) for row in unknown[:3])
            raise SettingsError(
                f"CORAL_STRATEGY uses {shorten(column)}, which is unknown for {names}: add it to CORAL_PREDICTIONS."
            )
        return values.astype(np.float64)

    def _check_weights(self, column: str, values: Floats) -> Floats:
        bad = np.flatnonzero(~((values >= 0) & (values < np.inf)))
        if len(bad):
            names = ", ".join(f"{shorten(self._pool.file_names[row])} ({values[row]:g})" for row in bad[:3])
            raise SettingsError(
                f"CORAL_STRATEGY weights by {shorten(column)}, which must be finite and not negative, but is not for "
                f"{names}."
            )
        return values

    def _column(self, name: str) -> Any:
        if name not in self._columns:
            accepted = [*self._pool.metadata, *self._columns]
            raise SettingsError(
                f"CORAL_STRATEGY names the column {shorten(name)}, which does not exist: use "
                f"{list_first(accepted)}{hint(name, accepted)}."
            )
        return self._columns[name]

    def _texts(self, column: str) -> list[str]:
        if column in self._pool.metadata:
            return metadata.to_texts(column, self._pool.metadata[column])
        return [str(value) for value in self._column(column)]

    def _rows(self, entry: Similarity) -> list[int]:
        pool = self._pool
        names = (*pool.file_names, *(name for name, _ in pool.failures))
        match = similar.match([entry], Listing.from_names(names), self._settings.input)
        wanted = dict.fromkeys(match.file_names.values()) if match else ()
        rows: list[int] = pool.file_names.find(list(wanted)).tolist()
        if missing := [name for name, row in zip(wanted, rows, strict=True) if row < 0]:
            raise similar.make_error(missing[0])
        return rows

    def _balance(self, entry: BalanceEntry) -> Balance:
        if entry.column:
            texts = self._texts(entry.column)
            values = sorted(set(texts))
            shares = (np.array(texts)[:, None] == np.array(values)[None]).astype(np.float64)
        else:
            values = list(self._pool.provenance.class_names)
            shares = pools.class_shares(self._output, self._pool)
        _check_target(entry, values)
        present = [value for value, total in zip(values, shares.sum(axis=0), strict=True) if total > 0]
        target = dict(entry.target) or {value: 1 / len(present) for value in present}
        others = [column for column, value in enumerate(values) if value not in target]
        columns = [shares[:, values.index(value)] for value in target] + [shares[:, others].sum(axis=1)]
        wanted = np.array([*target.values(), max(0.0, 1 - sum(target.values()))])
        return Balance(np.stack(columns, axis=1), wanted, entry.strength)


_FACTORS = (Weights, Random, Typicality, Similarity)
