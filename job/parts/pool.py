"""The pool: the images of a listing, with what the parts hold of them, column by column."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from job import parts, scores
from job.errors import SettingsError, TryAgain
from job.names import list_first, quantify, shorten
from job.parts import score as image_scores
from job.parts.columns import CLASS_COUNTS, CLASS_SUMS, name_score_columns
from job.parts.joined import USABLE, Columns
from job.parts.score import BOX_COLUMNS
from job.settings.mix import ALL_OTHERS
from job.settings.parse import hint
from job.spool import SpooledRows
from job.storage import Entry, Listing, Storage
from job.storage.listing import unpack_etag
from job.texts import Texts

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

_KEPT_COLUMNS = ("key", "etag", "status", "error", "byte_size", "width", "height")
_BYTES_PER_PIXEL_OF_FRAME = 9  # its pixels, and the file that is made of them, twice
_SUM_COLUMNS = ("num_boxes", "expected_boxes", CLASS_COUNTS.name, CLASS_SUMS.name)


@dataclass(frozen=True)
class Pool:
    """All images of one listing, column by column: the usable ones and, apart, the failed ones.

    Attributes:
        file_names: File names of the n usable images, sorted bytewise; all arrays below have this order.
        size: (n, 2) width and height in pixels; 0 if unknown.
        etag: ETags of the files at the time of detection; empty if the detections were made elsewhere.
        byte_size: (n,) sizes of the files.
        num_boxes: (n,) numbers of detected boxes.
        expected_boxes: (n,) sums of the boxes' confidences: the expected number of objects, if these are calibrated.
        class_counts: (classes,) numbers of boxes of each predicted class, in the whole pool.
        class_scores: (classes,) sums of the confidences of these boxes.
        class_entropies: (classes,) sums of the entropies of their class probabilities.
        class_low_confidence: (classes,) numbers of boxes below `job.parts.score.LOW_CONFIDENCE`.
        scores: (n,) values of each score of `job.scores` by name, and of each class-weighted score by its name and
            ``_weighted``; empty without detections.
        features: (n, d) pooled features of the detector, in a temporary file; None if its model has none, or if they
            were not asked for.
        part: (n,) index into `part_names` of the part that holds each image.
        part_row: (n,) row of each image in that part.
        part_names: Names of the parts.
        failures: File name and reason of each unusable image, sorted bytewise.
        provenance: What the parts were made with.
        metadata: (n,) columns of CORAL_METADATA by name; see `job.inputs.metadata`.
        frames: (n,) columns of frames of videos by name; see `job.inputs.frames`. Empty without videos.
        absent: File names of the failures that imported predictions or embeddings lack; their files may be good.
    """

    file_names: Texts
    size: npt.NDArray[np.int32]
    etag: Sequence[str]
    byte_size: npt.NDArray[np.int64]
    num_boxes: npt.NDArray[np.int32]
    expected_boxes: Floats
    class_counts: npt.NDArray[np.int64]
    class_scores: Floats
    class_entropies: Floats
    class_low_confidence: npt.NDArray[np.int64]
    scores: dict[str, Floats]
    features: SpooledRows | None
    part: npt.NDArray[np.int32]
    part_row: npt.NDArray[np.int32]
    part_names: list[str]
    failures: list[tuple[str, str]]
    provenance: parts.Provenance
    metadata: Mapping[str, pa.Array] = field(default_factory=dict)
    frames: Mapping[str, pa.Array] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()

    @property
    def has_detections(self) -> bool:
        """Whether a detector was run on the images."""
        return self.provenance.probabilities != parts.NO_DETECTOR

    def count_file_bytes(self, row: int) -> int:
        """Returns the bytes that an image takes while its file is read; a frame of a video is decoded and encoded."""
        width, height = self.size[row].tolist()
        return int(self.byte_size[row]) or _BYTES_PER_PIXEL_OF_FRAME * width * height

    def rows_by_part(self) -> dict[str, Rows]:
        """The rows of each part, by its name."""
        return dict(self.group(np.arange(len(self.file_names))))

    def group(self, rows: Rows) -> Iterator[tuple[str, Rows]]:
        """Yields the names of the parts that hold some rows, sorted, and the rows in each, as they lie there."""
        if not len(rows):
            return
        rows = rows[np.lexsort((self.part_row[rows], self.part[rows]))]
        groups = np.split(rows, np.flatnonzero(np.diff(self.part[rows])) + 1)
        yield from sorted({self.part_names[self.part[rows[0]]]: rows for rows in groups}.items())

    def columns(self, rows: slice = slice(None)) -> dict[str, Any]:
        """Values of some usable images that are known before the selection, by the column names of images.parquet.

        Args:
            rows: The images; all by default.
        """
        detected = {"num_boxes": self.num_boxes[rows], "expected_boxes": self.expected_boxes[rows]}
        detected |= {name: values[rows] for name, values in self.scores.items()}
        return {
            "folder": pc.replace_substring_regex(self.file_names.array[rows], r"(?s)/?[^/]*\z", ""),
            "byte_size": self.byte_size[rows],
            "width": self.size[rows, 0],
            "height": self.size[rows, 1],
            **(detected if self.has_detections else {}),
        }


def load(
    output: Storage,
    entries: Iterable[Entry],
    class_weights: Mapping[str, float] | None = None,
    class_names: tuple[str, ...] | None = None,
    *,
    with_features: bool = True,
) -> Pool:
    """Reads the rows of all images of a listing.

    Rows of other images, and of images that have changed since, are left out.

    Args:
        output: Folder with the parts.
        entries: The images.
        class_weights: Weight of each class in the weighted scores, by name; other classes have that of ``*``, or 1.
        class_names: Names by class index that replace those of the parts, if these are as many; None to keep them.
        with_features: Whether the features are needed.

    Raises:
        TryAgain: If an image of the listing has no row yet.
        SettingsError: If the output holds parts of different settings, or a class weight names an unknown class.
        DamagedFileError: If a part is damaged, or holds impossible values.
    """
    listing = entries if isinstance(entries, Listing) else Listing.from_entries(entries)
    names = [*_KEPT_COLUMNS, *_SUM_COLUMNS, *name_score_columns().values()]
    names += BOX_COLUMNS if class_weights else ()
    names += ("feature",) if with_features else ()
    columns: Columns | None = None
    provenance: parts.Provenance | None = None
    part_names: list[str] = []
    for number, part in enumerate(_read_same(output, class_names, names)):
        provenance = provenance or part.provenance
        columns = columns or Columns(listing, np.zeros((4, len(provenance.class_names))))
        part_names.append(part.name)
        added = columns.add(number, part)
        if class_weights and provenance.class_names:
            weights = class_weight_array(class_weights, provenance.class_names)
            weighted = image_scores.score_weighted(added.table, weights)
            columns.add_values(added.rows, weighted, scores.WEIGHTED)
    failures = {} if columns is None else columns.unusable | columns.find_unread()
    num_missing = len(listing) - (0 if columns is None else int((columns.state == USABLE).sum()) + len(failures))
    if columns is None or provenance is None or num_missing:
        words = quantify(num_missing, "image has", "images have")
        raise TryAgain(f"{words} no detections yet: run `predict` until it has finished, then try again.")
    return _make_pool(columns, provenance, part_names, failures)


def _read_same(output: Storage, class_names: tuple[str, ...] | None, columns: list[str]) -> Iterator[parts.Part]:
    """Yields the parts, all with the same class names, after a check that they were made with the same settings."""
    provenance: parts.Provenance | None = None
    is_warned = False
    for part in parts.read(output, columns):
        provenance = provenance or part.provenance.with_names(class_names or ())
        parts.check_same(output, part.provenance, provenance)
        if part.provenance != provenance and not is_warned:
            is_warned = True
            logger.warning(describe_new_names(part.provenance.class_names, provenance.class_names))
        yield replace(part, provenance=provenance)


def _make_pool(
    columns: Columns, provenance: parts.Provenance, part_names: list[str], failures: dict[int, tuple[str, str]]
) -> Pool:
    keys, etags = columns.listing.arrays()
    rows = columns.take_usable()
    low, boxes = columns.class_sums[1].astype(np.int64), columns.class_sums[0].astype(np.int64)
    return Pool(
        file_names=Texts(keys if rows is None else keys.take(pa.array(rows))),
        size=columns.size,
        etag=_FileEtags(etags if rows is None else etags.take(pa.array(rows))),
        byte_size=columns.byte_size,
        num_boxes=columns.num_boxes,
        expected_boxes=columns.expected_boxes,
        class_counts=boxes,
        class_scores=columns.class_sums[2],
        class_entropies=columns.class_sums[3],
        class_low_confidence=low,
        scores=columns.over_pool(),
        features=columns.features,
        part=columns.part,
        part_row=columns.part_row,
        part_names=part_names,
        failures=[(keys[row].as_py(), failures[row][1]) for row in sorted(failures)],
        provenance=provenance,
        absent=frozenset(keys[row].as_py() for row, (status, _) in failures.items() if status == "absent"),
    )


class _FileEtags(Sequence[str]):
    """The ETags of the files, packed as in a listing; empty for a file that was not read."""

    def __init__(self, packed: pa.Array) -> None:
        self._packed = packed

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, row: Any) -> Any:
        return parts.file_etag(unpack_etag(self._packed[int(row)].as_py()))


def describe_new_names(old: Sequence[str], new: Sequence[str]) -> str:
    """A warning that some classes have other names than at detection.

    Args:
        old: Class names at detection, by class index.
        new: As many class names of this run. Some of them differ.
    """
    changed = [(before, after) for before, after in zip(old, new, strict=True) if before != after]
    return (
        f"{len(changed)} of {len(old)} classes have another name than at detection, such as {shorten(changed[0][1])} "
        f"instead of {shorten(changed[0][0])}. The results have the names of this run."
    )


def thumbnails(output: Storage, pool: Pool, rows: Iterable[int]) -> dict[int, bytes]:
    """Reads the thumbnails of some images, JPEG files, by their rows; empty for an image that has none."""
    return {
        row: thumbnail or b""
        for _, of_images, table in read_rows(output, pool, rows, ["thumbnail"])
        for row, thumbnail in zip(of_images.tolist(), table["thumbnail"].to_pylist(), strict=True)
    }


def read_rows(
    output: Storage, pool: Pool, rows: Iterable[int], columns: list[str]
) -> Iterator[tuple[str, Rows, pa.Table]]:
    """Yields the name of each part that holds some of these images, their rows, and columns of the part for them."""
    wanted = np.unique(np.fromiter(rows, np.int64))
    of_part = dict(pool.group(wanted))
    for part in parts.read(output, columns, names=set(of_part)):
        of_images = of_part[part.name]
        yield part.name, of_images, part.table.take(pa.array(pool.part_row[of_images], pa.int64()))


def class_weight_array(given: Mapping[str, float], class_names: Sequence[str]) -> Floats:
    """(classes,) weights, divided by the largest weight. A class that is not named has the weight of ``*``, or 1.

    Raises:
        SettingsError: If a name is not a class of the detector, or all weights are 0.
    """
    if unknown := sorted(given.keys() - {ALL_OTHERS, *class_names}):
        raise SettingsError(
            f"CORAL_CLASS_WEIGHTS names {shorten(unknown[0])}, which is not a class of the detector: use "
            f"{list_first(class_names)}{hint(unknown[0], class_names)}."
        )
    weights = np.array([given.get(name, given.get(ALL_OTHERS, 1.0)) for name in class_names])
    if len(weights) and not weights.any():
        raise SettingsError("CORAL_CLASS_WEIGHTS gives every class the weight 0: raise at least one.")
    result: Floats = weights / (weights.max(initial=0) or 1.0)
    return result


def class_shares(output: Storage, pool: Pool) -> Floats:
    """(n, classes) share of each class among the boxes of each image; zeros for an image without boxes."""
    result = np.zeros((len(pool.file_names), len(pool.provenance.class_names)))
    for _, rows, table in read_rows(output, pool, range(len(pool.file_names)), [CLASS_COUNTS.name]):
        counts, classes_per_image = parts.flatten_lists(table[CLASS_COUNTS.name])
        result[rows.repeat(classes_per_image), counts[:, 0]] = counts[:, 1]
    result /= np.maximum(pool.num_boxes, 1)[:, None]
    return result
