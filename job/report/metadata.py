"""The columns of CORAL_METADATA in the report: the value of each pick, and how the picks spread beside the pool."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from job.names import quantify, shorten_text
from job.report.content import Distribution

MAX_COLUMNS = 8
MAX_VALUES = 12  # of a column that is shown value by value
_NUM_BINS = 8


def list_values(columns: Mapping[str, pa.Array], row: int) -> dict[str, Any]:
    """The values of one image in the first columns, by the names of the columns; without unknown ones.

    Args:
        columns: (n,) values of the pool in each column.
        row: Row of the image.
    """
    values = {name: column[row].as_py() for name, column in list(columns.items())[:MAX_COLUMNS]}
    return {shorten_text(name): _to_text(value) for name, value in values.items() if value is not None}


def make_distributions(columns: Mapping[str, pa.Array], picks: Sequence[int]) -> list[Distribution]:
    """Counts values in the pool and in the picks, for the first columns.

    Columns of numbers with many different values are cut into intervals of equal width. Columns of text in which most
    images have a value of their own, such as times, are left out.

    Args:
        columns: (n,) values of the pool in each column.
        picks: Rows of the picks.
    """
    rows = pa.array(picks, pa.int64())
    made = (make_distribution(shorten_text(name), column, column.take(rows)) for name, column in columns.items())
    return [distribution for distribution in made if distribution is not None][:MAX_COLUMNS]


def make_distribution(name: str, column: pa.Array, picked: pa.Array) -> Distribution | None:
    """Counts values of images and of the picks among them; None if most images have a text of their own.

    Args:
        name: Name of the column.
        column: (n,) values of the pool, or of a sample of it.
        picked: (m,) values of the picks.
    """
    grouped = group(pa.concat_arrays([column, picked]), len(column))
    if grouped is None:
        return None
    labels, groups = grouped
    pool = np.bincount(groups[: len(column)], minlength=len(labels))
    picks = np.bincount(groups[len(column) :], minlength=len(labels))
    rows = [
        (label, count / max(1, len(column)), of_picks / max(1, len(picked)), count, of_picks)
        for label, count, of_picks in zip(labels, pool.tolist(), picks.tolist(), strict=True)
        if count or of_picks
    ]
    return Distribution(name, rows)


def group(column: pa.Array, num_counted: int | None = None) -> tuple[list[str], npt.NDArray[np.int64]] | None:
    """Groups images by a column.

    Columns of numbers with many different values are cut into intervals of equal width.

    Args:
        column: (n,) values.
        num_counted: Number of first values by whose frequency the groups are ordered; all by default.

    Returns:
        The names of the groups, the last of which is that of unknown values; and (n,) numbers of groups. None if the
        column is text and most images have a value of their own, such as a time.
    """
    is_known = np.asarray(column.is_valid())
    encoded = column.drop_null().dictionary_encode()
    values: list[Any] = encoded.dictionary.to_pylist()
    groups = np.full(len(column), len(values))  # the last group is that of unknown values
    groups[is_known] = np.asarray(encoded.indices)
    if len(values) > MAX_VALUES and column.type in (pa.int64(), pa.float64()):
        return _cut(column, is_known)
    if len(values) > max(MAX_VALUES, is_known.sum() // 2):
        return None
    return _order(values, groups, num_counted)


def _order(
    values: list[Any], group: npt.NDArray[np.int64], num_counted: int | None
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The most frequent values first, or numbers and booleans by value; the rest as one, and unknown ones last."""
    counts = np.bincount(group[:num_counted], minlength=len(values) + 1)
    is_text = any(isinstance(value, str) for value in values)
    order = sorted(range(len(values)), key=lambda index: (-counts[index] if is_text else 0, values[index]))
    shown = order[: MAX_VALUES - 1] if len(order) > MAX_VALUES else order
    labels = [_to_text(values[index]) for index in shown]
    place = np.full(len(values) + 1, len(shown))
    place[shown] = np.arange(len(shown))
    if len(shown) < len(order):
        labels.append(quantify(len(order) - len(shown), "other value"))
    place[-1] = len(labels)
    return [*labels, "unknown"], place[group]


def _cut(column: pa.Array, is_known: npt.NDArray[np.bool_]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Intervals of equal width; the last group is that of unknown values."""
    numbers = column.drop_null().to_numpy(zero_copy_only=False).astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    with np.errstate(over="ignore", invalid="ignore"):  # of numbers near the largest possible one
        edges = np.linspace(finite.min(), finite.max(), _NUM_BINS + 1)
    group = np.full(len(column), _NUM_BINS)
    group[is_known] = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, _NUM_BINS - 1)
    labels = [f"{low:,.4g} to {high:,.4g}" for low, high in pairwise(edges)]
    return [*labels, "unknown"], group


def _to_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:,.6g}" if isinstance(value, float) else shorten_text(str(value))
