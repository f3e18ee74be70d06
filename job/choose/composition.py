"""A selection that a list of entries describes: their weights, diversities, thresholds and balances."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from job.choose.limits import Limits
from job.choose.mixing import mix_scores
from job.errors import SettingsError
from job.inputs import metadata, similar
from job.names import list_first, shorten, shorten_text
from job.parts import pool as pools
from job.parts.pool import Floats, Pool
from job.select import Balance, Factor, Objects, Selection, choose, coverage
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
from job.settings.parse import hint
from job.storage import Listing, Storage

if TYPE_CHECKING:
    from job.select.points import Embeddings

_COMPARE = {
    "BIGGER": np.greater,
    "BIGGER_EQUAL": np.greater_equal,
    "SMALLER": np.less,
    "SMALLER_EQUAL": np.less_equal,
}


def check_target(entry: BalanceEntry, values: Sequence[str]) -> None:
    """Checks that the target of a balance names existing values.

    Args:
        entry: The entry.
        values: The values that there are.

    Raises:
        SettingsError: If it names another one.
    """
    if unknown := [value for value in entry.target if value not in values]:
        column = entry.column or "class"
        raise SettingsError(
            f"CORAL_STRATEGY balances by the {shorten_text(column)} {shorten(unknown[0])}, which does not exist: use "
            f"{list_first(values)}{hint(unknown[0], values)}."
        )


class Composition:
    """The entries of CORAL_STRATEGY, with their values for a pool.

    Args:
        settings: The settings.
        output: Folder with the parts.
        pool: The images.
        embeddings: (n, d) in the order of the pool.

    Raises:
        SettingsError: If an entry names an image, a class or a column that the pool does not have.
    """

    def __init__(self, settings: Settings, output: Storage, pool: Pool, embeddings: "Embeddings") -> None:
        self._settings, self._output, self._pool, self._embeddings = settings, output, pool, embeddings
        self._columns, self._entries = pool.columns(), settings.strategy.entries
        self._factors = [self._factor(entry) for entry in self._entries if isinstance(entry, _FACTORS)]
        self._balances = [self._balance(entry) for entry in self._entries if isinstance(entry, BalanceEntry)]

    def select(self, count: int, limits: Limits, objects: Objects | None) -> Selection:
        """Selects images.

        Args:
            count: Number of images.
            limits: Which images may be picked.
            objects: The boxes of the pool; None if they are not compared.
        """
        diversities = [entry for entry in self._entries if isinstance(entry, Diversity)]
        strength = sum(entry.strength for entry in self._entries if isinstance(entry, ObjectDiversity))
        return choose(
            self._embeddings,
            count,
            self._factors,
            sum(entry.strength for entry in diversities),
            balances=self._balances,
            objects=None if objects is None else replace(objects, strength=strength),
            labelled=limits.labelled,
            labelled_elsewhere=limits.elsewhere,
            candidates=self._candidates(count, limits),
            min_distance=max([limits.min_distance, *(entry.min_distance for entry in diversities)]),
            apart=limits.apart,
        )

    def _candidates(self, count: int, limits: Limits) -> list[int]:
        """The rows that thresholds leave, and of these the rows with the highest scores."""
        entries = self._entries
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
                highest = int(np.ceil(entry.factor * count))
                rows = find_highest(self._mix(entry.scores), highest, rows, limits.labelled, None)
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
        return mix_scores(self._pool, mix, weighted=self._settings.class_weights is not None)

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
        check_target(entry, values)
        present = [value for value, total in zip(values, shares.sum(axis=0), strict=True) if total > 0]
        target = dict(entry.target) or {value: 1 / len(present) for value in present}
        others = [column for column, value in enumerate(values) if value not in target]
        columns = [shares[:, values.index(value)] for value in target] + [shares[:, others].sum(axis=1)]
        wanted = np.array([*target.values(), max(0.0, 1 - sum(target.values()))])
        return Balance(np.stack(columns, axis=1), wanted, entry.strength)


_FACTORS = (Weights, Random, Typicality, Similarity)
