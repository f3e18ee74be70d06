"""Embeddings in a Parquet or CSV file: a column of vectors, or one column per dimension."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from job import columns
from job.columns import NAME_COLUMNS, VECTOR_COLUMNS, describe_type
from job.embed.size import check_dimensions, check_memory
from job.names import shorten

Floats = npt.NDArray[np.floating]

_LABEL_COLUMN = "labels"  # of lightly's own files
_INDEX_COLUMN = "__index_level_"  # of an index that pandas wrote
_BYTES_PER_NUMBER = 12  # as it is in the file, at most 8, and as float32
_NUMBERS = ("whole numbers", "numbers")


def read_parquet(data: bytes) -> tuple[list[str], Floats]:
    """Reads a Parquet file: file names, and (n, d) embeddings.

    Raises:
        ValueError: If the content is invalid.
        pyarrow.ArrowException: If it is not a Parquet file.
    """
    file = pq.ParquetFile(io.BytesIO(data))
    titles = file.schema_arrow.names
    columns.check_columns(titles)
    if columns.find_column(titles, VECTOR_COLUMNS) is None:
        check_dimensions(len(titles) - 1)
    # The names first: a file of a few kilobytes can repeat one name in any number of rows.
    name_column = columns.find_name_column(titles)
    names = columns.read_names(file.read([name_column])[name_column], name_column)
    groups = (file.metadata.row_group(index) for index in range(file.num_row_groups))
    count = sum(group.column(index).num_values for group in groups for index in range(group.num_columns))
    check_memory(count * _BYTES_PER_NUMBER)
    return names, _read_vectors(file.read().drop_columns(name_column))


def read_csv(data: bytes) -> tuple[list[str], Floats]:
    """Reads a CSV file; file names stay text, even if they look like numbers.

    Raises:
        ValueError: If the content is invalid.
        pyarrow.ArrowException: If it is not a CSV file.
    """
    check_dimensions(data.partition(b"\n")[0].count(b","))
    options = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(NAME_COLUMNS, pa.string()), strings_can_be_null=False
    )
    layout = pyarrow.csv.ParseOptions(newlines_in_values=True)
    table = pyarrow.csv.read_csv(io.BytesIO(data), convert_options=options, parse_options=layout)
    columns.check_columns(table.column_names)
    name_column = columns.find_name_column(table.column_names)
    return columns.read_names(table[name_column], name_column), _read_vectors(table.drop_columns(name_column))


def _read_vectors(table: pa.Table) -> Floats:
    table.validate(full=True)  # of text, that it is UTF-8
    title = columns.find_column(table.column_names, VECTOR_COLUMNS)
    if title is not None and describe_type(table[title].type) not in _NUMBERS:
        column = table[title]
        return _parse_lists(column, title) if describe_type(column.type) == "text" else _join(column, title)
    dimensions = [column for column in table.column_names if column != _LABEL_COLUMN]
    if not dimensions:
        raise ValueError(f"has no embeddings: name their column {VECTOR_COLUMNS[0]}")
    return np.stack([_read_dimension(table[column], column) for column in dimensions], axis=1)


def _read_dimension(column: pa.ChunkedArray, title: str) -> Floats:
    if title.startswith(_INDEX_COLUMN):
        raise ValueError(f"has the column {shorten(title)}, an index of pandas: write the file without it")
    if column.null_count:
        raise ValueError(f"has a null in its column {shorten(title)}, row {_first_null(column)}")
    if (kind := describe_type(column.type)) not in _NUMBERS:
        row, value = next(
            ((row, value) for row, value in enumerate(column.to_pylist(), start=1) if not _is_number(value)),
            (1, column[0].as_py() if len(column) else None),
        )
        raise ValueError(
            f"has embeddings that are not numbers: {kind} in its column {shorten(title)}, row {row}: {_say(value)}"
        )
    return np.concatenate([chunk.to_numpy(zero_copy_only=False) for chunk in column.chunks] or [np.empty(0)])


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, str) and float(value) is not None
    except ValueError:
        return False


def _say(value: object) -> str:
    return shorten(value if isinstance(value, str | bool) else str(value))


def _join(column: pa.ChunkedArray, title: str) -> Floats:
    """Joins a column of lists, of fixed or variable size, into one array."""
    data_type = column.type
    if not any(
        is_kind(data_type)
        for is_kind in (
            *(pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
            *(pa.types.is_list_view, pa.types.is_large_list_view),
        )
    ):
        raise ValueError(
            f"has embeddings that are not numbers: {describe_type(data_type)} in its column {shorten(title)}, row 1"
        )
    if column.null_count:
        raise ValueError(f"has a null in its column {shorten(title)}, row {_first_null(column)}")
    lengths = np.concatenate(
        [pc.list_value_length(chunk).to_numpy(zero_copy_only=False) for chunk in column.chunks] or [np.empty(0, int)]
    )
    flat = [chunk.flatten() for chunk in column.chunks]
    ends = np.cumsum(lengths)
    if (nulls := np.concatenate([np.asarray(values.is_null()) for values in flat] or [np.empty(0, bool)])).any():
        row = int(np.searchsorted(ends, nulls.argmax(), side="right"))
        raise ValueError(f"has a null in its column {shorten(title)}, row {row + 1}")
    if (kind := describe_type(data_type.value_type)) not in _NUMBERS and ends.any():
        row = int(np.flatnonzero(lengths)[0])
        raise ValueError(
            f"has embeddings that are not numbers: lists of {kind} in its column {shorten(title)}, row {row + 1}"
        )
    length = _check_lengths(lengths.tolist(), title)
    values = [values.to_numpy(zero_copy_only=False) for values in flat]
    return np.concatenate(values or [np.empty(0)]).reshape(len(lengths), length)


def _check_lengths(lengths: Sequence[int], title: str) -> int:
    first = lengths[0] if lengths else 0
    row = next((row for row, length in enumerate(lengths, start=1) if length != first), None)
    if row is not None:
        raise ValueError(
            f"has embeddings of different lengths in its column {shorten(title)}: {first} numbers in row 1, "
            f"{lengths[row - 1]} in row {row}"
        )
    return first


def _parse_lists(column: pa.ChunkedArray, title: str) -> Floats:
    """Parses lists that were written as text, as in ``[0.1, 0.2]`` or ``[0.1 0.2]``."""
    rows = []
    for row, text in enumerate(column.to_pylist(), start=1):
        if text is None:
            raise ValueError(f"has a null in its column {shorten(title)}, row {row}")
        try:
            rows.append([float(number) for number in text.strip().strip("[]()").replace(",", " ").split()])
        except ValueError:
            raise ValueError(
                f"has embeddings that are not numbers in its column {shorten(title)}, row {row}: {shorten(text)}"
            ) from None
    return np.array(rows).reshape(len(rows), _check_lengths([len(numbers) for numbers in rows], title))


def _first_null(column: pa.ChunkedArray) -> int:
    return int(np.asarray(column.is_null()).argmax()) + 1
