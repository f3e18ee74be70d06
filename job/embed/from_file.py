"""Reads embeddings that were made elsewhere: a Parquet or CSV file with one vector per file name."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet as pq

from job.errors import SettingsError, one_line
from job.storage import Entry, read_file

_NAME_COLUMNS = ("file_name", "filenames")  # lightly's own files have the second, and a column of labels
_LABEL_COLUMN = "labels"
_MAX_EXAMPLES = 3


def read(uri: str) -> tuple[list[str], npt.NDArray[np.float32], str]:
    """Reads a file of embeddings.

    In Parquet, ``embedding`` is a column of lists. In CSV, every column except ``file_name`` (or lightly's
    ``filenames`` and ``labels``) is a dimension.

    Args:
        uri: Path or bucket URI of the file.

    Returns:
        The file names; the embeddings (n, d) in the same order; and the SHA-256 of the file.

    Raises:
        SettingsError: If the file cannot be read or its content is invalid.
    """
    try:
        data = read_file(uri)
        table = pq.read_table(io.BytesIO(data)) if uri.endswith(".parquet") else _parse_csv(data)
    except (OSError, pa.ArrowException) as error:
        raise _invalid(
            uri, f"cannot be read: {getattr(error, 'strerror', None) or one_line(error).rstrip('.')}"
        ) from None
    name_column = next((column for column in _NAME_COLUMNS if column in table.column_names), None)
    if name_column is None:
        raise _invalid(uri, f"has no column file_name, only {', '.join(table.column_names[:5])}")
    if len(set(table.column_names)) < len(table.column_names) or "" in table.column_names:
        raise _invalid(uri, "has an unnamed column, or two columns of the same name")
    names = [str(name) for name in table[name_column].to_pylist()]
    if "" in names:
        raise _invalid(uri, "has an empty file name")
    if len(set(names)) < len(names):
        in_order = sorted(names)
        repeated = next(name for name, following in pairwise(in_order) if name == following)
        raise _invalid(uri, f"has two embeddings of {repeated!r}")
    vectors = _read_vectors(uri, table.drop_columns([name_column]))
    not_finite = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(not_finite):
        examples = ", ".join(repr(names[row]) for row in not_finite[:_MAX_EXAMPLES])
        raise _invalid(uri, f"has numbers that are not finite for {examples}")
    return names, vectors, hashlib.sha256(data).hexdigest()


def find_missing(uri: str, names: Sequence[str], listing: Iterable[Entry], max_failed: float) -> list[str]:
    """Finds the images of a listing that have no embedding, before any work.

    Images that later turn out to be unusable need no embedding, so as many may be missing as may be unusable.

    Args:
        uri: Path or bucket URI of the file, for the error message.
        names: File names in it.
        listing: The images.
        max_failed: Largest share of the images that may be unusable, in [0, 1].

    Raises:
        SettingsError: If more embeddings are missing than images may be unusable.
    """
    embedded, file_names = set(names), [entry.key for entry in listing]
    missing = [name for name in file_names if name not in embedded]
    if len(missing) > max_failed * len(file_names):
        raise _incomplete(uri, missing, len(file_names))
    return missing


def read_for_pool(uri: str, file_names: Sequence[str]) -> tuple[npt.NDArray[np.float32], str]:
    """Reads the embeddings of a pool.

    Args:
        uri: Path or bucket URI of the file.
        file_names: File names of the pool.

    Returns:
        The embeddings (n, d) in the order of the pool, and the SHA-256 of the file.

    Raises:
        SettingsError: If the file is invalid, or an image has no embedding.
    """
    names, vectors, digest = read(uri)
    row_of = {name: row for row, name in enumerate(names)}
    if missing := [name for name in file_names if name not in row_of]:
        raise _incomplete(uri, missing, len(file_names))
    return vectors[[row_of[name] for name in file_names]], digest


def _parse_csv(data: bytes) -> pa.Table:
    """Parses a CSV file; file names stay text, even if they look like numbers."""
    options = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(_NAME_COLUMNS, pa.string()), strings_can_be_null=False
    )
    return pyarrow.csv.read_csv(io.BytesIO(data), convert_options=options)


def _read_vectors(uri: str, table: pa.Table) -> npt.NDArray[np.float32]:
    try:
        if "embedding" in table.column_names:
            column = table["embedding"].combine_chunks()
            lengths = set(pa.compute.list_value_length(column).to_pylist())
            if len(lengths) != 1 or None in lengths:
                raise _invalid(uri, "has embeddings of different lengths")
            flat = column.flatten().to_numpy(zero_copy_only=False)
            result: npt.NDArray[np.float32] = flat.astype(np.float32).reshape(len(column), lengths.pop())
            return result
        dimensions = [table[name].to_numpy() for name in table.column_names if name != _LABEL_COLUMN]
        return np.stack([dimension.astype(np.float32) for dimension in dimensions], axis=1)
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise _invalid(uri, f"has embeddings that are not numbers ({error})") from None


def _incomplete(uri: str, missing: Sequence[str], count: int) -> SettingsError:
    examples = ", ".join(map(repr, missing[:_MAX_EXAMPLES])) + (" ..." if len(missing) > _MAX_EXAMPLES else "")
    return _invalid(uri, f"has no embedding for {len(missing)} of {count} images: {examples}")


def _invalid(uri: str, problem: str) -> SettingsError:
    return SettingsError(f"CORAL_EMBEDDING={uri!r} {problem}. Give a file with one embedding per image.")
