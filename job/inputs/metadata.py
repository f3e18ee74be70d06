"""CORAL_METADATA: what others know of the images, such as camera, time or weather, with one row per image."""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from job import columns
from job.columns import NAME_COLUMNS, describe_type
from job.errors import SettingsError, one_line
from job.inputs import frames
from job.inputs.match import Match, compare
from job.names import list_first, shorten
from job.settings.choices import SCORES
from job.settings.entries import BalanceEntry, Entry, Threshold, Weights
from job.settings.parse import hint
from job.storage import Listing, read_file

# The columns that images.parquet has without metadata.
OWN_COLUMNS = (
    *("file_name", "status", "error", "folder", "byte_size", "width", "height", "num_boxes", "expected_boxes"),
    *SCORES,
    *(f"{score}_weighted" for score in SCORES),
    *("rank", "value", "distance", "nearest", "reason", "factors", "labelled", "map_x", "map_y"),
)
UNKNOWN = "unknown"  # stands for null where a column is text for BALANCE
_KINDS = {
    "text": pa.string(),
    "whole numbers": pa.int64(),
    "numbers": pa.float64(),
    "booleans": pa.bool_(),
    "dates": pa.string(),
    "times": pa.string(),
    "nulls": pa.string(),
}
_MAX_EXAMPLES = 3
# Leading zeros, and more digits than a 64-bit float keeps.
_CODE = r"^[+-]?(0\d|\d{16,}$)"


@dataclass(frozen=True)
class Metadata:
    """A table of metadata.

    Attributes:
        uri: Path or bucket URI of the file.
        file_names: File names in the order of the rows.
        columns: Text, 64-bit integers, 64-bit floats or booleans, by the names of the columns. NaN is null.
        sha256: SHA-256 of the file.
    """

    uri: str
    file_names: list[str]
    columns: dict[str, pa.Array]
    sha256: str

    def rename(self, match: Match) -> "Metadata":
        """The rows of the images in CORAL_INPUT, with the names of their files."""
        rows = [row for row, name in enumerate(self.file_names) if name in match.file_names]
        return replace(
            self,
            file_names=[match.file_names[self.file_names[row]] for row in rows],
            columns={name: column.take(pa.array(rows, pa.int64())) for name, column in self.columns.items()},
        )

    def describe_missing(self, file_names: Sequence[str]) -> str | None:
        """A sentence on those of these images that have no row; None if all have one."""
        present = set(self.file_names)
        missing = [name for name in file_names if name not in present]
        if not missing:
            return None
        return (
            f"CORAL_METADATA={self.uri!r} has no row for {len(missing)} of {len(file_names)} images, such as "
            f"{shorten(missing[0])}: their values are unknown."
        )

    def take(self, file_names: Sequence[str]) -> dict[str, pa.Array]:
        """The columns for these images, in this order; null for images without a row."""
        row_of = {name: row for row, name in enumerate(self.file_names)}
        rows = pa.array([row_of.get(name) for name in file_names], pa.int64())
        return {name: column.take(rows) for name, column in self.columns.items()}


def read(uri: str) -> Metadata:
    """Reads a .csv, .parquet or .jsonl file with a column ``file_name``.

    Dates and times become text. Column names other than ``file_name`` are accepted for the file names if there is no
    ``file_name`` (`job.columns.NAME_COLUMNS`).

    Raises:
        SettingsError: If the file cannot be read or its content is invalid.
    """
    try:
        data = read_file(uri)
        table = _parse(uri, data)
        columns.check_columns(table.column_names)
        title = columns.prefer_file_name(table.column_names)
        file_names = columns.read_names(table[title], title)
        table.validate(full=True)  # of text, that it is UTF-8
        content = {name: _convert(table[name], name) for name in table.column_names if name != title}
        if not content:
            raise ValueError(f"has no column besides {shorten(title)}")
    except MemoryError:  # Arrow's are among its other errors
        raise
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or one_line(error).rstrip(".")
        raise _invalid(uri, f"cannot be read: {reason}") from None
    except ValueError as error:
        raise _invalid(uri, str(error)) from None
    return Metadata(uri, file_names, content, hashlib.sha256(data).hexdigest())


def match(metadata: Metadata, listing: Listing, input_uri: str) -> Match:
    """Compares the file names with those of the images.

    Args:
        metadata: The table.
        listing: The images.
        input_uri: CORAL_INPUT.

    Raises:
        SettingsError: If an image is named twice, in two spellings.
    """
    result = compare(f"CORAL_METADATA={metadata.uri!r}", metadata.file_names, listing, input_uri)
    result.require_distinct()
    return result


def check_strategy(
    metadata: Metadata, entries: Iterable[Entry], file_names: Sequence[str] | None, max_failed: float
) -> None:
    """Checks, before any work, that the strategy can use the columns that it names.

    Images that later turn out to be unusable need no metadata, so as many may be without it as may be unusable.

    Args:
        metadata: The table.
        entries: Entries of CORAL_STRATEGY.
        file_names: File names of the images; None if they are not known yet.
        max_failed: Largest share of the images that may be unusable, in [0, 1].

    Raises:
        SettingsError: If a column does not exist, holds the wrong kind of values, or lacks values.
    """
    accepted = [*metadata.columns, *OWN_COLUMNS, *frames.COLUMNS]
    for entry in entries:
        if not isinstance(entry, BalanceEntry | Threshold | Weights) or not entry.column:
            continue
        name, column = entry.column, metadata.columns.get(entry.column)
        if column is None and name not in (*OWN_COLUMNS, *frames.COLUMNS):
            raise SettingsError(
                f"CORAL_STRATEGY names the column {shorten(name)}, which neither images.parquet nor CORAL_METADATA "
                f"has: use {list_first(accepted)}{hint(name, accepted)}."
            )
        if column is None:
            continue
        if isinstance(entry, BalanceEntry):
            to_texts(name, column[:0])
            continue
        to_numbers(name, column[:0], [])
        if file_names is not None:
            values = metadata.take(file_names)[name]
            if values.null_count > max_failed * len(file_names):
                to_numbers(name, values, file_names)


def to_numbers(name: str, column: pa.Array, file_names: Sequence[str]) -> npt.NDArray[np.float64]:
    """The values of a column for WEIGHTS and THRESHOLD.

    Args:
        name: Name of the column.
        column: (n,) its values.
        file_names: (n,) names of the images.

    Raises:
        SettingsError: If the column does not hold numbers, or lacks the value of an image.
    """
    if column.type not in (pa.int64(), pa.float64()):
        kind = "booleans" if column.type == pa.bool_() else "text"
        raise SettingsError(
            f"CORAL_STRATEGY uses the column {shorten(name)} of CORAL_METADATA as numbers, but it holds {kind}: "
            "use BALANCE."
        )
    unknown = np.flatnonzero(column.is_null())
    if len(unknown):
        examples = ", ".join(shorten(file_names[row]) for row in unknown[:_MAX_EXAMPLES])
        raise SettingsError(
            f"CORAL_STRATEGY uses the column {shorten(name)} of CORAL_METADATA, which has no value for {len(unknown)} "
            f"of {len(column)} images: {examples}. Add a number for each image."
        )
    result: npt.NDArray[np.float64] = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return result


def to_texts(name: str, column: pa.Array) -> list[str]:
    """The values of a column for BALANCE, as text: ``true`` and ``false`` for booleans, ``unknown`` for null.

    Raises:
        SettingsError: If the column holds numbers that are not whole.
    """
    if column.type == pa.float64():
        raise SettingsError(
            f"CORAL_STRATEGY balances the column {shorten(name)} of CORAL_METADATA, which holds numbers that are not "
            "whole: use WEIGHTS or THRESHOLD, or give it as text."
        )
    return [UNKNOWN if text is None else text for text in column.cast(pa.string()).to_pylist()]


def _parse(uri: str, data: bytes) -> pa.Table:
    if uri.endswith(".parquet"):
        return pq.read_table(io.BytesIO(data))
    if uri.endswith(".jsonl"):
        return _parse_lines(data.decode("utf-8-sig"))
    return _parse_csv(data)


def _parse_csv(data: bytes) -> pa.Table:
    """Parses CSV; numbers that are codes, such as ``007``, stay text, with their whole column."""
    table = _read_csv(data, NAME_COLUMNS)
    numeric = [field.name for field in table.schema if describe_type(field.type) in ("whole numbers", "numbers")]
    if len(set(table.column_names)) < len(table.column_names) or not numeric:
        return table
    texts = _read_csv(data, (*NAME_COLUMNS, *numeric))
    for position, name in enumerate(table.column_names):
        if name in numeric and _are_codes(texts[name], table[name].type):
            table = table.set_column(position, name, texts[name])
    return table


def _read_csv(data: bytes, text_columns: Sequence[str]) -> pa.Table:
    options = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(text_columns, pa.string()),
        null_values=[""],  # "NA" and "None" may be values
        strings_can_be_null=True,
    )
    layout = pyarrow.csv.ParseOptions(newlines_in_values=True)
    return pyarrow.csv.read_csv(io.BytesIO(data), convert_options=options, parse_options=layout)


def _are_codes(texts: pa.ChunkedArray, kind: pa.DataType) -> bool:
    """Whether a column of numbers has texts that these numbers would not give back."""
    trimmed = pc.utf8_trim_whitespace(texts)
    if pa.types.is_integer(kind):
        return not pc.all(pc.equal(trimmed.cast(kind).cast(pa.string()), trimmed)).as_py()
    return bool(pc.any(pc.match_substring_regex(trimmed, _CODE)).as_py())


def _parse_lines(text: str) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"has a line {number} that is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"has a line {number} that is not an object with the field file_name: {shorten(row)}")
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _make_array(name, [row.get(name) for row in rows]) for name in names})


def _make_array(name: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except MemoryError:  # Arrow's are among its other errors
        raise
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(f"has values of several types in its column {shorten(name)}: {one_line(error)}") from None


def _convert(column: pa.ChunkedArray, name: str) -> pa.Array:
    if name in OWN_COLUMNS:
        raise ValueError(
            f"has the column {shorten(name)}, which images.parquet has already: rename it, for example "
            f"to {shorten('my_' + name)}"
        )
    kind = describe_type(column.type)
    if kind not in _KINDS:
        raise ValueError(
            f"has {kind} in its column {shorten(name)}: give text, numbers or booleans, or remove the column"
        )
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    result = column.cast(_KINDS[kind]).combine_chunks()
    return pc.if_else(pc.is_nan(result), None, result) if kind == "numbers" else result


def _invalid(uri: str, problem: str) -> SettingsError:
    return SettingsError(f"CORAL_METADATA={uri!r} {problem}. Give a file with one row per image, with its file_name.")
