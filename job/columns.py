"""Tables that others made, with one row per image: which column holds the file names, and what a column holds."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from job.names import shorten, shorten_text

# The accepted names of the column, or array, of file names. Lightly's own files have the fourth.
NAME_COLUMNS = (
    *("file_name", "file_names", "filename", "filenames", "file", "files", "path", "paths"),
    *("image", "images", "image_path", "image_paths", "name", "names"),
)
# The accepted names of the column, or array, of embeddings.
VECTOR_COLUMNS = ("embedding", "embeddings", "feature", "features", "vector", "vectors")
_MAX_CHARACTERS = 80
_MAX_COLUMNS_IN_WORDS = 5


def list_names(columns: Sequence[str]) -> str:
    """The first few columns, for an error message."""
    more = ", ..." if len(columns) > _MAX_COLUMNS_IN_WORDS else ""
    return ", ".join(map(shorten_text, columns[:_MAX_COLUMNS_IN_WORDS])) + more


def find_column(columns: Sequence[str], accepted: Sequence[str]) -> str | None:
    """Finds the one column that has an accepted name; None if there is none.

    Raises:
        ValueError: If several columns have an accepted name.
    """
    candidates = [column for column in columns if column in accepted]
    if len(candidates) > 1:
        first, second = map(shorten, candidates[:2])
        raise ValueError(f"has the columns {first} and {second}, and either could be meant: keep one of them")
    return candidates[0] if candidates else None


def find_name_column(columns: Sequence[str]) -> str:
    """Finds the column of file names.

    Raises:
        ValueError: If there is none, or several columns have an accepted name.
    """
    name = find_column(columns, NAME_COLUMNS)
    if name is None:
        raise ValueError(f"has no column {NAME_COLUMNS[0]}, only {list_names(columns) or 'none at all'}")
    return name


def prefer_file_name(columns: Sequence[str]) -> str:
    """Finds the column of file names: ``file_name``, whatever else there is, or else as `find_name_column` does.

    Raises:
        ValueError: If there is none, or several columns have an accepted name and none is ``file_name``.
    """
    return NAME_COLUMNS[0] if NAME_COLUMNS[0] in columns else find_name_column(columns)


def check_columns(columns: Sequence[str]) -> None:
    """Refuses columns without a name, and two columns of the same name.

    Raises:
        ValueError: If there is such a column.
    """
    if len(set(columns)) < len(columns) or "" in columns:
        raise ValueError("has an unnamed column, or two columns of the same name")


def read_names(column: pa.ChunkedArray, title: str) -> list[str]:
    """Reads the column of file names.

    Args:
        column: The column.
        title: Name of the column.

    Raises:
        ValueError: If it is not text, or a name is null, empty or repeated.
    """
    if len(column) and (kind := describe_type(column.type)) != "text":
        raise ValueError(f"has {kind} in its column {shorten(title)}, from row 1 on, where file names should be")
    if not pa.types.is_null(column.type):
        _check_texts(column.cast(pa.large_binary()), title)
    values = column.to_pylist()
    check_names(values, title)
    return [str(value) for value in values]


def _check_texts(column: pa.ChunkedArray, title: str) -> None:
    """Refuses repeated names and bytes that are not UTF-8, before a Python object is made of each name.

    Args:
        column: The names, as bytes.
        title: Name of the column.

    Raises:
        ValueError: If there is such a name.
    """
    counts = pc.value_counts(column)
    names, numbers = counts.field("values"), counts.field("counts")
    try:
        names.cast(pa.large_string())
    except pa.ArrowInvalid:
        name = next(name for name in names if not _is_utf8(name.as_py() or b""))
        row, shown = pc.index(column, name).as_py() + 1, shorten(name.as_py())
        raise ValueError(f"has a file name that is not UTF-8 in {shorten(title)}, row {row}: {shown}") from None
    is_repeated = pc.and_(pc.greater(numbers, 1), pc.greater(pc.binary_length(names), 0))
    if len(repeated := names.filter(is_repeated)):
        raise ValueError(f"has two rows of {shorten(min(repeated.to_pylist()).decode())}")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def check_names(values: Iterable[str | None], title: str) -> None:
    """Refuses names that are null, empty or repeated, and a list without names.

    Raises:
        ValueError: If there is such a name, or none.
    """
    names: list[str] = []
    for row, name in enumerate(values, start=1):
        if not name:
            raise ValueError(f"has {'a null' if name is None else 'an empty file name'} in {shorten(title)}, row {row}")
        names.append(name)
    if not names:
        raise ValueError("has no rows")
    if len(set(names)) < len(names):
        in_order = sorted(names)
        repeated = next(name for name, following in pairwise(in_order) if name == following)
        raise ValueError(f"has two rows of {shorten(repeated)}")


def describe_type(data_type: pa.DataType) -> str:
    """What a column holds, in words: text, whole numbers, numbers, booleans, dates, times or the name of its type."""
    types = pa.types
    if types.is_dictionary(data_type):
        data_type = data_type.value_type
    if types.is_string(data_type) or types.is_large_string(data_type) or types.is_string_view(data_type):
        return "text"
    if types.is_integer(data_type):
        return "whole numbers"
    if types.is_floating(data_type):
        return "numbers"
    if types.is_boolean(data_type):
        return "booleans"
    if types.is_date(data_type):
        return "dates"
    if types.is_temporal(data_type):
        return "times"
    return "nulls" if types.is_null(data_type) else f"values of the type {data_type}"[:_MAX_CHARACTERS]
