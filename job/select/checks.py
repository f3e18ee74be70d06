"""Checks of what callers give to the selection: each raises ValueError with one sentence."""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from job.select.apart import Apart
from job.select.points import Array, Vectors, to_unit_length

# Row numbers, or a boolean mask of all rows.
Rows = Collection[int] | Collection[bool] | npt.NDArray[np.integer] | npt.NDArray[np.bool_]

_MAX_EXAMPLES = 5  # of invalid values in an error message


def check_rows(name: str, rows: Rows, count: int) -> list[int]:
    """Checks row numbers, and converts a boolean mask to them.

    Args:
        name: Name of the argument, for error messages.
        rows: Row numbers from 0 to `count` - 1, or a mask of `count`.
        count: Number of images.

    Returns:
        The rows, in their order, each once.

    Raises:
        ValueError: If the rows are anything else.
    """
    try:
        values = np.asarray(rows if hasattr(rows, "__array__") else list(rows))
    except (TypeError, ValueError):  # it cannot be iterated, or is ragged
        values = np.empty((), object)
    if values.size == 0 and values.ndim == 1:
        return []
    if values.dtype == bool and values.shape == (count,):
        return [int(row) for row in np.flatnonzero(values)]
    if values.dtype.kind not in "iu" or values.ndim != 1:
        raise ValueError(
            f"{name} must be integers from 0 to {count - 1}, or a boolean mask of shape ({count},), but have the type "
            f"{values.dtype} and the shape {values.shape}"
        )
    outside = values[(values < 0) | (values >= count)]
    if len(outside):
        raise ValueError(f"{name} must be rows from 0 to {count - 1}, but contain {_list(outside.tolist())}")
    return list(dict.fromkeys(values.tolist()))


def check_count(count: int) -> None:
    """Checks the number of images to pick.

    Raises:
        ValueError: If it is not an integer of at least 0.
    """
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 0:
        raise ValueError(f"count must be an integer of at least 0, but is {count!r}")


def check_apart(apart: Apart, count: int) -> None:
    """Checks the groups and positions of the images.

    Raises:
        ValueError: If there is not one of each per image, a position is not finite, or the least distance is not
            above 0.
    """
    shapes = apart.groups.shape, apart.positions.shape
    if shapes != ((count,), (count,)) or apart.groups.dtype.kind not in "iu":
        raise ValueError(f"apart needs {count} integer groups and {count} positions, but their shapes are {shapes}")
    if not np.isfinite(apart.positions).all() or not apart.least > 0:
        raise ValueError("apart needs finite positions and a least distance above 0")


def check_names(names: Sequence[str] | None, count: int) -> None:
    """Checks that there is one name per image, or that there are none.

    Raises:
        ValueError: If there are more or fewer names than images.
    """
    if names is not None and len(names) != count:
        raise ValueError(f"there are {len(names)} names and {count} embeddings: give one name per embedding")


def check_values(name: str, values: Array, count: int, file_names: Sequence[str] | None = None) -> Array:
    """Checks that there is one finite value, not negative, per image.

    Args:
        name: Name of the values, for error messages.
        values: The values.
        count: Number of images.
        file_names: (count,) file names, for error messages; row numbers by default.

    Returns:
        (count,) the values in float64.

    Raises:
        ValueError: If there are more or fewer values than images, or a value is not finite or is negative.
    """
    values = np.asarray(values, np.float64)
    if values.shape != (count,):
        raise ValueError(f"{name} have the shape {values.shape} and do not match {count} embeddings")
    invalid = np.flatnonzero(~((values >= 0) & (values < np.inf)))
    if len(invalid):
        labels = file_names if file_names is not None else range(count)
        shown = _list([f"{labels[row]}: {values[row]:g}" for row in invalid.tolist()])
        raise ValueError(f"{name} must be finite and not negative, but are not for {shown}")
    return values


def check_elsewhere(vectors: Array | Vectors | None, dimension: int) -> Vectors:
    """Checks the embeddings of labelled images that are not among those to select from.

    Args:
        vectors: (k, d) embeddings, of any length; None for none.
        dimension: d of the embeddings to select from.

    Returns:
        (k, d) the embeddings, of unit length.

    Raises:
        ValueError: If they have another dimension, or one is not finite.
    """
    if vectors is None:
        return np.empty((0, dimension), np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise ValueError(f"labelled_elsewhere must have the shape (k, {dimension}), not {vectors.shape}")
    invalid = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(invalid):
        raise ValueError(f"labelled_elsewhere must be finite, but is not in the rows {_list(invalid.tolist())}")
    return to_unit_length(vectors)


def _list(values: Sequence[object]) -> str:
    more = f" and {len(values) - _MAX_EXAMPLES} more" if len(values) > _MAX_EXAMPLES else ""
    return ", ".join(map(str, values[:_MAX_EXAMPLES])) + more
