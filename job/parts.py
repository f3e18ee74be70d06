"""Parts: the Parquet files in which the map step leaves its results, and from which everything after it works.

A part holds the rows of up to CORAL_PART_SIZE images and, in its metadata, all that its content depends on (model,
weights, thresholds, precision, this schema). It is written whole or not at all, so an image is done if and only if its
row is in a part. The name of a part is a hash of its images: doing the same work again overwrites the same file.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from job.errors import SettingsError
from job.storage import Folder

SCHEMA_VERSION = 1
FOLDER = "parts/"


@dataclass(frozen=True)
class Row:
    """What the map step knows of one image; of an unusable one only the first six, status and error.

    Attributes:
        key: File name relative to the input.
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

    key: str
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


@dataclass(frozen=True)
class Provenance:
    """What a part's content depends on, besides the images.

    Attributes:
        config_sha256: Digest of the detector's configuration with its thresholds and sizes.
        weights_sha256: Digest of the weights file.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        probabilities: Where class probabilities come from.
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


def write(output: Folder, rows: list[Row], provenance: Provenance) -> str:
    """Writes one part and returns its name."""
    rows = sorted(rows, key=lambda row: row.key.encode())
    feature = next((len(row.feature) for row in rows if row.feature is not None), None)
    schema = _schema(len(provenance.class_names) + 1, feature)
    schema = schema.with_metadata({"coralpick": provenance.to_json(), "digest": provenance.digest})
    columns = [_column([getattr(row, each.name) for row in rows], each.type) for each in schema]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), buffer, compression="zstd")
    content = "\n".join([provenance.digest, *(f"{row.key}\t{row.etag}" for row in rows)])
    name = f"{FOLDER}part-{hashlib.sha256(content.encode()).hexdigest()[:24]}.parquet"
    output.write(name, buffer.getvalue())
    return name


def names(output: Folder) -> list[str]:
    """The parts there are, in the order of their names."""
    if not (output.root / FOLDER).is_dir():
        return []
    listed = (FOLDER + each.key for each in Folder(str(output.root / FOLDER)).list())
    return sorted(each for each in listed if each.endswith(".parquet"))


def done(output: Folder, provenance: Provenance) -> set[tuple[str, str]]:
    """Key and etag of every image that has its row.

    Raises:
        SettingsError: The output holds parts of other settings.
    """
    found: set[tuple[str, str]] = set()
    for name in names(output):
        part = open_part(output, name)
        check_same(output, provenance_of(part), provenance)
        table = part.read(columns=["key", "etag", "status"])
        rows = zip(*(table[name].to_pylist() for name in ("key", "etag", "status")), strict=True)
        found.update((key, etag) for key, etag, status in rows if status != "unread")
    return found


def check_same(output: Folder, theirs: Provenance, ours: Provenance) -> None:
    """Refuses parts that were made with something else.

    Raises:
        SettingsError: They were.
    """
    if theirs != ours:
        raise SettingsError(
            f"{output.root} holds results of other settings ({_difference(theirs, ours)}): "
            f"set CORAL_OUTPUT to a new folder, or delete {output.root / FOLDER} to start again."
        )


def open_part(output: Folder, name: str) -> pq.ParquetFile:
    """Opens a part for reading."""
    return pq.ParquetFile(output.root / name)


def provenance_of(part: pq.ParquetFile) -> Provenance:
    """What a part was made with."""
    return Provenance.from_json(part.schema_arrow.metadata[b"coralpick"].decode())


def tables(output: Folder, columns: list[str]) -> Iterator[pa.Table]:
    """Yields the named columns of each part."""
    for name in names(output):
        yield open_part(output, name).read(columns=columns)


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


def _difference(theirs: Provenance, ours: Provenance) -> str:
    words = {
        "config_sha256": "model configuration, thresholds or sizes",
        "weights_sha256": "weights",
        "schema_version": "version of the part files",
    }
    changed = [each.name for each in fields(ours) if getattr(theirs, each.name) != getattr(ours, each.name)]
    return "different " + ", ".join(words.get(name, name.replace("_", " ")) for name in changed)
