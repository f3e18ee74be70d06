"""The job's own files in which damage is always found: tables as Parquet files, and small ones as JSON.

The checksums of Parquet cover its pages, but not their headers and not the footer. So the metadata also has a digest of
the values of each column, which is independent of how they are stored. It is compared when the column is read.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from job import limits
from job.errors import one_line
from job.parts.columns import copy_texts
from job.select.points import Points
from job.spool import Spool, SpooledRows

_GROUP_ROWS = 1 << 14  # at least, of vectors
_TEXTS_AT_ONCE = 10_000
_VALID = b"\xff" * (1 << 20)
_DIGESTS = b"coralpick-digests"
_WRONG_DIGESTS = "its content does not match its digests"
_METADATA = ""  # in place of a column's name: the digest of the rest of the metadata


class DamagedTableError(Exception):
    """The content of a file is not what was written."""


def dump_json(content: Any) -> bytes:
    """Makes the file of a value that JSON can hold, with a digest."""
    return json.dumps({"content": content, "sha256": _digest_json(content)}).encode()


def load_json(data: bytes) -> Any:
    """Returns the value that `dump_json` got, with lists for its tuples.

    Raises:
        DamagedTableError: If the file is damaged, or is not such a file.
    """
    try:
        file = json.loads(data)
        if file["sha256"] != _digest_json(file["content"]):
            raise DamagedTableError("its content does not match its digest")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedTableError(one_line(error)) from error
    return file["content"]


def _digest_json(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def dump(table: pa.Table, metadata: Mapping[bytes, str]) -> bytes:
    """Makes the file of a table.

    Args:
        table: The table.
        metadata: Metadata of the file by key.
    """
    digests = {name: _digest_column(table[name]) for name in table.column_names}
    digests[_METADATA] = _digest_metadata({key: value.encode() for key, value in metadata.items()})
    buffer = io.BytesIO()
    table = table.replace_schema_metadata({**metadata, _DIGESTS: json.dumps(digests, sort_keys=True)})
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def dump_vectors(names: pa.Array, embeddings: Points, metadata: Mapping[bytes, str]) -> Spool:
    """Makes the file of a table of names and vectors that is larger than memory, as `dump` does of one in memory.

    Args:
        names: (n,) texts, the column ``file_name``.
        embeddings: (n, d) single precision, the column ``embedding``. They are read twice, since their digest comes
            before them.
        metadata: Metadata of the file by key.
    """
    width = embeddings.shape[1]
    kind = pa.list_(pa.float32(), width)
    digests = {"file_name": _digest_column(pa.chunked_array([names])), "embedding": _digest_vectors(embeddings)}
    digests[_METADATA] = _digest_metadata({key: value.encode() for key, value in metadata.items()})
    schema = pa.schema(
        {"file_name": pa.string(), "embedding": kind}, {**metadata, _DIGESTS: json.dumps(digests, sort_keys=True)}
    )
    made = Spool()
    with pq.ParquetWriter(made.file, schema, compression="zstd", write_page_checksum=True) as writer:
        for start, group in _group(embeddings):
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(group.ravel()), width)
            writer.write_table(pa.table([copy_texts(names, start, start + len(group)), vectors], schema=schema))
    return made


def load_vectors(source: Any) -> tuple[SpooledRows, dict[bytes, bytes]]:
    """Reads what `dump_vectors` made: the (n, d) vectors, in a temporary file, and the metadata.

    Args:
        source: The file, as a file object.

    Raises:
        DamagedTableError: If the file is damaged, or is not such a file.
        MemoryError: If there is not enough memory.
        ServiceUnavailable: If there is no room for the temporary file.
    """
    with _find_damage():
        file = pq.ParquetFile(source, page_checksum_verification=True)
        metadata, digests = _read_metadata(file)
        vectors = _spool_vectors(file)
        names = _digest_column(file.read(["file_name"])["file_name"])
        if digests != {"file_name": names, "embedding": _digest_vectors(vectors)}:
            raise DamagedTableError(_WRONG_DIGESTS)
    return vectors, metadata


def _spool_vectors(file: pq.ParquetFile) -> SpooledRows:
    """Puts the vectors of a file into a temporary one. Its size is checked first: damage could make it any.

    Raises:
        DamagedTableError: If the numbers of rows do not agree.
    """
    groups, count = range(file.num_row_groups), file.metadata.num_rows
    if sum(file.metadata.row_group(group).num_rows for group in groups) != count:
        raise DamagedTableError("its numbers of rows do not agree")
    vectors: SpooledRows | None = None
    start = 0
    for group in groups:
        column = file.read_row_group(group, ["embedding"])["embedding"].combine_chunks()
        values = column.flatten().to_numpy().reshape(len(column), -1)
        vectors = vectors or SpooledRows((count, values.shape[1]))
        vectors.write(start, values)
        start += len(values)
    return vectors or SpooledRows((0, file.schema_arrow.field("embedding").type.list_size))


def _group(embeddings: Points) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Yields first row and rows of each group that is compressed as one."""
    group: list[npt.NDArray[np.float32]] = []
    begin = end = 0
    for start, block in embeddings.blocks():
        group.append(block.astype(np.float32, copy=False))
        end = start + len(block)
        if end - begin >= _GROUP_ROWS:
            yield begin, np.concatenate(group)
            begin, group = end, []
    if group:
        yield begin, np.concatenate(group)


def load(source: Any, columns: list[str] | None = None) -> pa.Table:
    """Reads a table, or some of its columns, with its metadata.

    Args:
        source: The file, as a file object.
        columns: Names of the columns; all by default.

    Raises:
        DamagedTableError: If the file is damaged, or is not such a file.
        MemoryError: If there is not enough memory.
    """
    with _find_damage():
        file = pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)
        table = file.read(columns=columns)
        metadata, digests = _read_metadata(file)
        actual = {name: _digest_column(table[name]) for name in table.column_names}
        if actual != {name: digests[name] for name in columns or digests}:
            raise DamagedTableError(_WRONG_DIGESTS)
    return table.replace_schema_metadata(metadata)


@contextlib.contextmanager
def _find_damage() -> Iterator[None]:
    """Takes the errors of a damaged file, which may have any, for what they are."""
    try:
        yield
    except pa.ArrowMemoryError:
        raise
    except (pa.ArrowException, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        if limits.lacks_memory(error):
            raise MemoryError from error
        raise DamagedTableError(" ".join(str(error).split())[:200]) from error


def _read_metadata(file: pq.ParquetFile) -> tuple[dict[bytes, bytes], dict[str, str]]:
    """The metadata of a file, and the digest of each column.

    Raises:
        DamagedTableError: If the metadata is damaged.
    """
    metadata = dict(file.schema_arrow.metadata)
    digests = json.loads(metadata.pop(_DIGESTS))
    if digests.pop(_METADATA) != _digest_metadata(metadata):
        raise DamagedTableError(_WRONG_DIGESTS)
    return metadata, digests


def _digest_metadata(metadata: Mapping[bytes, bytes]) -> str:
    return hashlib.sha256(b"\0".join(part for item in sorted(metadata.items()) for part in item)).hexdigest()[:32]


def _digest_column(column: pa.ChunkedArray) -> str:
    hasher = hashlib.sha256()
    _update(hasher, column.combine_chunks())
    return hasher.hexdigest()[:32]


def _digest_vectors(vectors: Points) -> str:
    """The digest of a column of vectors, as `_digest_column` computes it, from blocks."""
    count, width = vectors.shape
    hasher = hashlib.sha256()
    _update_valid(hasher, count, pa.list_(pa.float32(), width))
    hasher.update(str(width).encode())
    _update_valid(hasher, count * width, pa.float32())
    for _, block in vectors.blocks():
        hasher.update(np.ascontiguousarray(block, "<f4").data)
    return hasher.hexdigest()[:32]


def _update(hasher: Any, array: pa.Array) -> None:
    if array.null_count:
        hasher.update(_describe(len(array), array.type))
        hasher.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    else:
        _update_valid(hasher, len(array), array.type)
    array = array.drop_null()
    if pa.types.is_list(array.type):
        hasher.update(array.value_lengths().to_numpy().astype("<i8").tobytes())
        _update(hasher, array.flatten())
    elif pa.types.is_fixed_size_list(array.type):
        hasher.update(str(array.type.list_size).encode())
        _update(hasher, array.flatten())
    elif _is_flat(array.type):
        hasher.update(array.to_numpy(zero_copy_only=False).tobytes())
    else:  # text or bytes
        array = array.cast(pa.large_binary())
        hasher.update(pc.binary_length(array).to_numpy().astype("<i8").tobytes())
        for start in range(0, len(array), _TEXTS_AT_ONCE):
            hasher.update(b"".join(array.slice(start, _TEXTS_AT_ONCE).to_pylist()))


def _describe(count: int, kind: pa.DataType) -> bytes:
    return f"{count} {np.dtype(kind.to_pandas_dtype()) if _is_flat(kind) else ''}".encode()


def _update_valid(hasher: Any, count: int, kind: pa.DataType) -> None:
    """Hashes what comes before the values of a column if none is null: with a bit for each of them."""
    hasher.update(_describe(count, kind))
    whole, rest = divmod(count, 8)
    for start in range(0, whole, len(_VALID)):
        hasher.update(_VALID[: whole - start])
    hasher.update(bytes([0xFF << (8 - rest) & 0xFF]) if rest else b"")


def _is_flat(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
