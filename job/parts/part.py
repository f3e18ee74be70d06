"""Parts: the Parquet files in which the map step leaves its results, and from which everything after it works.

A part holds the rows of up to CORAL_PART_SIZE images and, in its metadata, all that its content depends on (model,
weights, thresholds, precision, this schema). It is written whole or not at all, so an image is done if and only if its
row is in a part. The name of a part is a hash of its images: doing the same work again overwrites the same file.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from job.errors import JobError, SettingsError
from job.prefetch import prefetch
from job.storage import Entry, Storage, read_required
from job.storage.rangefile import RangeFile

SCHEMA_VERSION = 1
NO_DETECTOR = "none"
FOLDER = "parts/"
_PROVENANCE = b"coralpick"
_PREFIX = FOLDER + "part-"
_READ_WHOLE = 1 << 20  # bytes up to which one request for all is no dearer than some for little
_SIMULTANEOUS = 4
_FIELD = {"key": "file_name"}  # columns that are called otherwise than the fields of a row


@dataclass(frozen=True)
class Row:
    """What the map step knows of one image; of an unusable one only the first six, status and error.

    Attributes:
        file_name: Relative to the input.
        etag: Of the file when it was read.
        byte_size: Size of the file.
        status: ``ok``; ``failed`` where the file itself is of no use; ``unread`` where it could not be had, which a
            later start tries again.
        error: Why it failed.
        width: Pixels, after the EXIF orientation.
        height: Pixels, likewise.
        boxes: (n, 4) float32; left, top, right, bottom in pixels of the original image.
        scores: (n,) float32 in [0, 1], falling.
        classes: (n,) int32, indices into the class names.
        class_probabilities: (n, classes + 1) float16; see `job.detect.probabilities`.
        thumbnail: JPEG file.
        feature: (d,) float16, the detector's pooled backbone feature; None when its model has none.
    """

    file_name: str
    etag: str
    byte_size: int
    status: str
    error: str | None = None
    width: int | None = None
    height: int | None = None
    boxes: npt.NDArray[np.float32] | None = None
    scores: npt.NDArray[np.float32] | None = None
    classes: npt.NDArray[np.int32] | None = None
    class_probabilities: npt.NDArray[np.float16] | None = None
    thumbnail: bytes | None = None
    feature: npt.NDArray[np.float16] | None = None

    @classmethod
    def undetected(cls, file_name: str) -> "Row":
        """Of an image that no detector has seen."""
        boxes, probabilities = np.empty((0, 4), np.float32), np.empty((0, 1), np.float16)
        nothing, none = np.empty(0, np.float32), np.empty(0, np.int32)
        return cls(file_name, "", 0, "ok", None, None, None, boxes, nothing, none, probabilities, b"")


@dataclass(frozen=True)
class Provenance:
    """What a part's content depends on, besides the images.

    Attributes:
        config_sha256: Digest of the detector's configuration with its thresholds and sizes.
        weights_sha256: Digest of the weights file.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        probabilities: Where class probabilities come from; ``none`` where there was no detector.
        class_names: Names by class index.
        schema_version: Of this module.
    """

    config_sha256: str
    weights_sha256: str
    precision: str
    probabilities: str
    class_names: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """JSON, the same text for the same values."""
        return json.dumps({each.name: getattr(self, each.name) for each in fields(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Provenance":
        """Reads what `to_json` wrote."""
        values = json.loads(text)
        return cls(**values | {"class_names": tuple(values["class_names"])})


def write(output: Storage, rows: list[Row], provenance: Provenance) -> str:
    """Writes one part and returns its name."""
    rows = sorted(rows, key=lambda row: row.file_name.encode())
    feature = next((len(row.feature) for row in rows if row.feature is not None), None)
    schema = _schema(len(provenance.class_names) + 1, feature)
    schema = schema.with_metadata({_PROVENANCE: provenance.to_json()})
    columns = [_column([getattr(row, _FIELD.get(each.name, each.name)) for row in rows], each.type) for each in schema]
    return write_table(output, pa.Table.from_arrays(columns, schema=schema), provenance)


def write_table(output: Storage, table: pa.Table, provenance: Provenance) -> str:
    """Writes one part, whose rows are sorted bytewise by key, and returns its name."""
    # With the status: a process that could not read some images must not overwrite the part of one that could.
    rows = zip(*(table[column].to_pylist() for column in ("key", "etag", "status")), strict=True)
    content = "\n".join([provenance.digest, *("\t".join(row) for row in rows)])
    name = f"{_PREFIX}{hashlib.sha256(content.encode()).hexdigest()[:24]}.parquet"
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    output.write(name, buffer.getvalue())
    return name


@dataclass(frozen=True)
class Part:
    """A part, or some columns of one.

    Attributes:
        name: Its key in the output.
        provenance: What it was made with.
        table: Its rows.
    """

    name: str
    provenance: Provenance
    table: pa.Table


def files(output: Storage) -> list[Entry]:
    """The parts there are, in the order of their names."""
    found = {each.key: each for each in output.list(FOLDER, lambda key: key.startswith(_PREFIX))}
    return sorted(found.values(), key=lambda each: each.key)


def read(output: Storage, columns: list[str] | None = None, *, names: set[str] | None = None) -> Iterator[Part]:
    """Yields the parts in the order of their names.

    Args:
        output: Where they lie.
        columns: Those to read; all by default.
        names: Parts to read; all by default.

    Raises:
        JobError: One is damaged.
    """
    with ThreadPoolExecutor(_SIMULTANEOUS, thread_name_prefix="parts") as pool:
        entries = [each for each in files(output) if names is None or each.key in names]
        yield from prefetch(pool, lambda each: _read(output, each, columns), entries, ahead=_SIMULTANEOUS)


def _read(output: Storage, entry: Entry, columns: list[str] | None) -> Part:
    source: Any = RangeFile(output, entry.key, entry.size)
    if columns is None or entry.size <= _READ_WHOLE:
        source = io.BytesIO(read_required(output, entry.key))
    try:
        file = pq.ParquetFile(source, pre_buffer=True)
        provenance = Provenance.from_json(file.schema_arrow.metadata[_PROVENANCE].decode())
        return Part(entry.key, provenance, file.read(columns=columns))
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        where = f"{output.uri}/{entry.key}"
        raise JobError(f"{where} is damaged ({error}): delete it, and run the job again.") from error


def done(output: Storage, provenance: Provenance) -> set[tuple[str, str]]:
    """Key and etag of every image that has its row.

    Raises:
        SettingsError: The output holds parts of other settings.
    """
    found: set[tuple[str, str]] = set()
    for part in read(output, ["key", "etag", "status"]):
        check_same(output, part.provenance, provenance)
        rows = zip(*(part.table[name].to_pylist() for name in ("key", "etag", "status")), strict=True)
        found.update((key, etag) for key, etag, status in rows if status != "unread")
    return found


def check_same(output: Storage, theirs: Provenance, ours: Provenance) -> None:
    """Refuses parts that were made with something else.

    Raises:
        SettingsError: They were.
    """
    if theirs != ours:
        raise SettingsError(
            f"{output.uri} holds results of other settings ({difference(theirs, ours)}): "
            f"set CORAL_OUTPUT to a new folder, or delete {output.uri}/{FOLDER} to start again."
        )


def ragged(column: pa.ChunkedArray) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """A column of lists as one array of all their values, and how many each row has.

    Args:
        column: Lists of numbers, or of fixed-size lists of numbers; null counts as empty.

    Returns:
        Values of shape (total,) or (total, k), and counts of shape (rows,).
    """
    array = column.combine_chunks()
    counts = array.value_lengths().fill_null(0).to_numpy().astype(np.int64)
    values = array.flatten()
    if pa.types.is_fixed_size_list(values.type):
        return values.flatten().to_numpy().reshape(-1, values.type.list_size), counts
    return values.to_numpy(), counts


def _schema(probabilities: int, feature: int | None) -> pa.Schema:
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("etag", pa.string(), nullable=False),
            pa.field("byte_size", pa.int64(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            ("error", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
            ("scores", pa.list_(pa.float32())),
            ("classes", pa.list_(pa.int32())),
            ("class_probabilities", pa.list_(pa.list_(pa.float16(), probabilities))),
            ("thumbnail", pa.binary()),
            ("feature", pa.list_(pa.float16(), feature if feature is not None else 1)),
        ]
    )


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if not pa.types.is_list(kind):
        return pa.array(values, kind)
    if not pa.types.is_fixed_size_list(kind.value_type):
        return pa.array(values, kind)
    # pyarrow does not take two-dimensional arrays: the rows go in flat, with their offsets.
    size = kind.value_type.list_size
    present = [each.reshape(-1, size) for each in values if each is not None]
    flat = np.concatenate(present).ravel() if present else np.empty(0)
    rows = pa.FixedSizeListArray.from_arrays(pa.array(flat, kind.value_type.value_type), size)
    offsets = np.cumsum([0, *(0 if each is None else len(each) for each in values)])
    masked = pa.array(offsets, pa.int32(), mask=np.array([*(each is None for each in values), False]))
    return pa.ListArray.from_arrays(masked, rows)


def difference(theirs: Provenance, ours: Provenance) -> str:
    """What two provenances differ in, in words."""
    words = {
        "config_sha256": "model configuration, thresholds or sizes",
        "weights_sha256": "weights",
        "schema_version": "version of the part files",
    }
    changed = [each.name for each in fields(ours) if getattr(theirs, each.name) != getattr(ours, each.name)]
    return "different " + ", ".join(words.get(name, name.replace("_", " ")) for name in changed)
