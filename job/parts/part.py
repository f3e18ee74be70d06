"""Parts: Parquet files with the results of the map step. Everything after the map step reads them.

A part holds the rows of up to CORAL_PART_SIZE images. Its metadata holds everything that its content depends on: model,
weights, thresholds, precision and this schema. It is written whole or not at all, so an image is finished if and only
if a part has its row. The name of a part is a hash of its images: the same work again overwrites the same file.

Each of several shards has a folder of its own, so that one that starts again reads no parts of the others.
"""

import contextlib
import hashlib
import io
import logging
import math
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from job.errors import DamagedFileError, ServiceUnavailable, SettingsError
from job.parts import checked, score
from job.parts.checked import DamagedTableError
from job.parts.columns import make_column, make_schema
from job.parts.provenance import Provenance, describe_difference
from job.parts.values import find_problem
from job.prefetch import prefetch
from job.shards import Shard
from job.storage import Entry, Storage, read_required
from job.storage.rangefile import RangeFile

logger = logging.getLogger(__name__)

DEFAULT_SIZE = 512  # images
_MAX_SIZE = 16_384  # images, some 100 MB
_MIN_PARTS = 32  # of a listing for which parts of the default size would be many
NO_DETECTOR = "none"
# Begins the ETag of an imported row whose predictions name its image differently; no file has such an ETag.
RENAMED = "named "
_AFTER_NAME = "\0"  # which no name of a file has
FOLDER = "parts/"
DAMAGED = FOLDER + "damaged/"
_PROVENANCE = b"coralpick"
_NAME = re.compile(re.escape(FOLDER) + r"(?:(\d+)-of-(\d+)/)?part-\w+\.parquet")
_MAX_WHOLE_READ = 1 << 20  # bytes up to which one request for the whole file costs no more than several for less
_MAX_READS = 4
_MAX_BYTES_AHEAD = 1 << 26  # of files, while one part is worked on; in memory their columns take several times as much
_FIELD = {"key": "file_name"}  # fields of a row whose columns have another name


@dataclass(frozen=True)
class Row:
    """The result of the map step for one image; only the first five fields are set for an unusable image.

    Attributes:
        file_name: File name relative to the input.
        etag: ETag of the file when it was read.
        byte_size: Size of the file in bytes.
        status: ``ok``; ``failed`` if the file itself is unusable; ``unread`` if the file could not be read, so that a
            later start tries again; ``absent`` if imported predictions or embeddings lack the image.
        error: Why the image is unusable.
        width: Width in pixels, after the EXIF orientation is applied.
        height: Height in pixels, after the EXIF orientation is applied.
        boxes: (n, 4) float32; left, top, right, bottom in pixels of the original image.
        scores: (n,) float32 detection confidences in [0, 1], in descending order.
        classes: (n,) int32, indices into the class names.
        class_probabilities: (n, classes + 1) float16; see `job.detect.probabilities`.
        box_features: (n, d) float16; see `job.detect.box_features`. None if the boxes have none.
        thumbnail: JPEG file.
        feature: (d,) float16, pooled backbone feature of the detector; None if its model has no backbone.
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
    box_features: npt.NDArray[np.float16] | None = None
    thumbnail: bytes | None = None
    feature: npt.NDArray[np.float16] | None = None

    @classmethod
    def undetected(cls, file_name: str) -> "Row":
        """The row of an image that no detector was run on."""
        return cls(
            file_name=file_name,
            etag="",
            byte_size=0,
            status="ok",
            boxes=np.empty((0, 4), np.float32),
            scores=np.empty(0, np.float32),
            classes=np.empty(0, np.int32),
            class_probabilities=np.empty((0, 1), np.float16),
            thumbnail=b"",
        )


_FIELDS = {field.name for field in fields(Row)}


def choose_size(images: int) -> int:
    """Chooses the size of parts: for a large listing, a power of two of which it has from 16 to 32 parts.

    So a killed run loses at most a 16th of its work, and one that starts again has few files to read.

    Args:
        images: Number of images of the listing, finished ones included.
    """
    return min(_MAX_SIZE, max(DEFAULT_SIZE, 1 << (max(1, images // _MIN_PARTS) - 1).bit_length()))


def write(output: Storage, rows: list[Row], provenance: Provenance, shard: Shard | None = None) -> str:
    """Scores the rows, writes them as one part of a shard and returns its name."""
    rows = sorted(rows, key=lambda row: row.file_name.encode())
    feature = next((len(row.feature) for row in rows if row.feature is not None), None)
    box_feature = next((row.box_features.shape[1] for row in rows if row.box_features is not None), None)
    schema = make_schema(len(provenance.class_names) + 1, feature, box_feature)
    columns: dict[str, pa.Array] = {}
    for column in schema:
        name = _FIELD.get(column.name, column.name)
        if name in _FIELDS:
            columns[column.name] = make_column([getattr(row, name) for row in rows], column.type)
    columns |= score.make_columns(pa.table(columns), len(provenance.class_names))
    table = pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
    return write_table(output, table, provenance, shard)


def write_table(output: Storage, table: pa.Table, provenance: Provenance, shard: Shard | None = None) -> str:
    """Writes one part of a shard, whose rows are sorted bytewise by key, and returns its name."""
    # The status is part of the name, so that a process that could not read an image never overwrites a good part.
    rows = zip(*(table[column].to_pylist() for column in ("key", "etag", "status")), strict=True)
    content = "\n".join([provenance.digest, *("\t".join(row) for row in rows)])
    folder = f"{FOLDER}{shard.index}-of-{shard.count}/" if shard and shard.count > 1 else FOLDER
    name = f"{folder}part-{hashlib.sha256(content.encode()).hexdigest()[:24]}.parquet"
    output.write(name, checked.dump(table, {_PROVENANCE: provenance.to_json()}))
    return name


@dataclass(frozen=True)
class Part:
    """A part, or some columns of it.

    Attributes:
        name: Key of the part in the output.
        provenance: What the part was made with.
        table: Rows of the part.
    """

    name: str
    provenance: Provenance
    table: pa.Table


def list_files(output: Storage) -> list[Entry]:
    """Lists the files of all parts in the order of their names."""
    files = {entry.key: entry for entry in output.list(FOLDER, lambda key: _NAME.fullmatch(key) is not None)}
    return sorted(files.values(), key=lambda entry: entry.key)


def may_hold(key: str, shard: Shard) -> bool:
    """Whether a part may have images of a shard; it may be of a run with another number of shards.

    Args:
        key: Name of the part.
        shard: The shard.
    """
    match = _NAME.fullmatch(key)
    index, count = (int(match[1]), int(match[2])) if match and match[1] else (0, 1)
    # An image is in shard i of n if its hash is i modulo n, so two shards share images if these remainders agree.
    return (index - shard.index) % math.gcd(count, shard.count) == 0


def read(output: Storage, columns: list[str] | None = None, *, names: set[str] | None = None) -> Iterator[Part]:
    """Yields the parts in the order of their names.

    Args:
        output: Folder with the parts.
        columns: Columns to read; all by default.
        names: Names of the parts to read; all by default.

    Raises:
        DamagedFileError: If a part is damaged, or holds impossible values.
        ServiceUnavailable: If one of the names is not there any more.
        SettingsError: If a part was written by a version of the job with another schema.
    """
    entries = [entry for entry in list_files(output) if names is None or entry.key in names]
    if removed := (names or set()) - {entry.key for entry in entries}:
        raise ServiceUnavailable(f"{output.uri}/{min(removed)} was removed while the job ran: run the job again.")
    ahead = count_ahead(max((entry.size for entry in entries), default=0))
    with ThreadPoolExecutor(ahead, thread_name_prefix="parts") as executor:
        yield from prefetch(executor, lambda entry: _read(output, entry, columns), entries, ahead=ahead)


def count_ahead(largest: int) -> int:
    """Counts the parts that are read ahead.

    Args:
        largest: Bytes of the largest file.
    """
    return min(_MAX_READS, max(1, _MAX_BYTES_AHEAD // max(1, largest)))


def _read(output: Storage, entry: Entry, columns: list[str] | None) -> Part:
    name = f"{output.uri}/{entry.key}"
    source: Any = RangeFile(output, entry.key, entry.size)
    if columns is None or entry.size <= _MAX_WHOLE_READ:
        source = io.BytesIO(read_required(output, entry.key))
    try:
        table = checked.load(source, columns)
        provenance = Provenance.from_json(table.schema.metadata[_PROVENANCE].decode(), name)
        if problem := find_problem(table, len(provenance.class_names), columns):
            raise DamagedTableError(problem)
    except (DamagedTableError, KeyError, TypeError, ValueError) as error:
        _check_version(source, name)
        raise DamagedFileError.of(output.uri, entry.key, error, "delete it and run the job again") from error
    return Part(entry.key, provenance, table)


def _check_version(source: Any, name: str) -> None:
    """Checks the version of a file that is no part of this version, which is no damage.

    Raises:
        SettingsError: If it is a part of another version.
    """
    with contextlib.suppress(pa.ArrowException, OSError, KeyError, TypeError, ValueError, AttributeError):
        Provenance.from_json(pq.read_schema(source).metadata[_PROVENANCE].decode(), name)


def set_aside(output: Storage, key: str) -> None:
    """Renames a damaged part or ledger, so that its work is done again; nothing is lost that could be of use."""
    output.write(DAMAGED + key.removeprefix(FOLDER), read_required(output, key))
    output.delete(key)
    logger.warning("%s/%s is damaged. It is now in %s, and its work is done again.", output.uri, key, DAMAGED[:-1])


def file_etag(etag: str) -> str:
    """Returns the ETag of a row's file; empty if the file was not read."""
    return etag.partition(_AFTER_NAME)[2] if etag.startswith(RENAMED) else etag


def renamed_etag(name: str, etag: str) -> str:
    """Returns the ETag of an imported row whose predictions name its image differently.

    Args:
        name: The name in the predictions.
        etag: ETag of the file; empty if the file is not read.
    """
    return f"{RENAMED}{name}{_AFTER_NAME}{etag}" if etag else RENAMED + name


def find_done(output: Storage, provenance: Provenance, shard: Shard | None = None) -> set[tuple[str, str]]:
    """Finds the finished images of a shard, and sets damaged parts aside.

    Args:
        output: Folder with the parts.
        provenance: What the parts of this run are made with.
        shard: The shard; None for all images.

    Returns:
        File name and ETag of every image that has a row. Images of other shards may be among them.

    Raises:
        SettingsError: If the output holds parts made with other settings.
    """
    while True:
        try:
            return _find_done(output, provenance, shard or Shard())
        except DamagedFileError as error:
            set_aside(output, error.key)


def _find_done(output: Storage, provenance: Provenance, shard: Shard) -> set[tuple[str, str]]:
    done: set[tuple[str, str]] = set()
    files = [entry.key for entry in list_files(output)]
    own = {key for key in files if may_hold(key, shard)}
    others = [key for key in files if key not in own]
    # Of the other shards, one part tells whether this run has other settings.
    for part in read(output, ["key", "etag", "status"], names=own | set(others[:1])):
        check_same(output, part.provenance, provenance)
        rows = zip(*(part.table[name].to_pylist() for name in ("key", "etag", "status")), strict=True)
        done.update((key, etag) for key, etag, status in rows if status != "unread")
    return done


def check_same(output: Storage, present: Provenance, expected: Provenance) -> None:
    """Checks that parts in the output were made with the expected detector and settings.

    Raises:
        SettingsError: If the output holds parts made with another detector, threshold, size or precision.
    """
    if not present.matches(expected):
        difference = describe_difference(present, expected)
        raise SettingsError(
            f"{output.uri} holds results of other settings ({difference}): set CORAL_OUTPUT to a new folder, or delete "
            f"{output.uri}/{FOLDER} to start again."
        )
