"""Embeddings that were made elsewhere: a Parquet or CSV file with a vector for each file name."""

import hashlib
import io
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet as pq

from job.errors import SettingsError
from job.storage import Entry, read_file

_NAMES = ("file_name", "filenames")  # the second is that of lightly's own files, which have a column of labels, too
_LABELS = "labels"


def read(uri: str) -> tuple[list[str], npt.NDArray[np.float32], str]:
    """Reads a file of embeddings.

    In Parquet, ``embedding`` is a column of lists. In CSV, every column but ``file_name`` (or lightly's ``filenames``
    and ``labels``) is a dimension.

    Args:
        uri: A path, or a URI of a bucket.

    Returns:
        File names; (n, d) in their order; and the SHA-256 of the file.

    Raises:
        SettingsError: It cannot be read, or something in it is wrong.
    """
    try:
        data = read_file(uri)
        table = pq.read_table(io.BytesIO(data)) if uri.endswith(".parquet") else _csv(data)
    except (OSError, pa.ArrowException) as error:
        raise _wrong(uri, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    name = next((each for each in _NAMES if each in table.column_names), None)
    if name is None:
        raise _wrong(uri, f"has no column file_name, but {', '.join(table.column_names[:5])}")
    if len(set(table.column_names)) < len(table.column_names) or "" in table.column_names:
        raise _wrong(uri, "has columns without a name, or two of one name")
    names = [str(each) for each in table[name].to_pylist()]
    if "" in names:
        raise _wrong(uri, "has an empty file name")
    if len(set(names)) < len(names):
        twice = sorted(names)[next(i for i, each in enumerate(sorted(names)[1:]) if each == sorted(names)[i])]
        raise _wrong(uri, f"has two embeddings of {twice!r}")
    vectors = _vectors(uri, table.drop_columns([name]))
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise _wrong(uri, f"has numbers that are not finite for {', '.join(repr(names[row]) for row in bad[:3])}")
    return names, vectors, hashlib.sha256(data).hexdigest()


def find_missing(uri: str, names: Sequence[str], listing: Iterable[Entry], max_failed: float) -> list[str]:
    """Finds the images of a listing that have no embedding, before any work.

    Images that turn out to be unusable need no embedding, so a few may be missing.

    Args:
        uri: The file of embeddings.
        names: File names in it.
        listing: The images.
        max_failed: Share of the images that may be unusable.

    Raises:
        SettingsError: If more embeddings are missing than images may be unusable.
    """
    embedded, file_names = set(names), [entry.key for entry in listing]
    missing = [name for name in file_names if name not in embedded]
    if len(missing) > max_failed * len(file_names):
        raise _missing(uri, missing, len(file_names))
    return missing


def _missing(uri: str, missing: Sequence[str], count: int) -> SettingsError:
    shown = ", ".join(map(repr, missing[:3])) + (" ..." if len(missing) > 3 else "")
    return _wrong(uri, f"has none for {len(missing)} of {count} images: {shown}")


def _csv(data: bytes) -> pa.Table:
    """Names stay texts, whatever they look like."""
    texts = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(_NAMES, pa.string()), strings_can_be_null=False)
    return pyarrow.csv.read_csv(io.BytesIO(data), convert_options=texts)


def of_pool(uri: str, keys: Sequence[str]) -> tuple[npt.NDArray[np.float32], str]:
    """(n, d) embeddings in the order of the pool, and the SHA-256 of the file.

    Raises:
        SettingsError: As `read`; or an image has none.
    """
    names, vectors, digest = read(uri)
    row = {name: number for number, name in enumerate(names)}
    if missing := [key for key in keys if key not in row]:
        raise _missing(uri, missing, len(keys))
    return vectors[[row[key] for key in keys]], digest


def _vectors(uri: str, table: pa.Table) -> npt.NDArray[np.float32]:
    try:
        if "embedding" in table.column_names:
            column = table["embedding"].combine_chunks()
            lengths = set(pa.compute.list_value_length(column).to_pylist())
            if len(lengths) != 1 or None in lengths:
                raise _wrong(uri, "has embeddings of different lengths")
            flat = column.flatten().to_numpy(zero_copy_only=False)
            result: npt.NDArray[np.float32] = flat.astype(np.float32).reshape(len(column), lengths.pop())
            return result
        columns = [each for each in table.column_names if each != _LABELS]
        numbers = [table[each].to_numpy() for each in columns]
        return np.stack([each.astype(np.float32) for each in numbers], axis=1)
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise _wrong(uri, f"has embeddings that are no numbers ({error})") from None


def _wrong(uri: str, what: str) -> SettingsError:
    return SettingsError(f"CORAL_EMBEDDING={uri!r} {what}: give a row with its embedding for every image.")
