"""The pool: the images of a listing, with what the parts hold of them, column by column."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from job import parts, scores
from job.errors import SettingsError, TryAgain
from job.names import list_first, quantify, shorten
from job.parts import score as image_scores
from job.parts.columns import CLASS_COUNTS, CLASS_SUMS, name_score_columns
from job.parts.score import BOX_COLUMNS, ImageScores
from job.settings.mix import ALL_OTHERS
from job.settings.parse import hint
from job.storage import Entry, Storage

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]

_KEPT_COLUMNS = ("key", "etag", "byte_size", "width", "height", "thumbnail", "feature")
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
        features: (n, d) pooled features of the detector; None if its model has none.
        thumbnails: JPEG files.
        part: Name of the part that holds each row.
        failures: File name and reason of each unusable image, sorted bytewise.
        provenance: What the parts were made with.
        metadata: (n,) columns of CORAL_METADATA by name; see `job.inputs.metadata`.
        absent: File names of the failures that imported predictions or embeddings lack; their files may be good.
    """

    file_names: list[str]
    size: npt.NDArray[np.int32]
    etag: list[str]
    byte_size: npt.NDArray[np.int64]
    num_boxes: npt.NDArray[np.int64]
    expected_boxes: Floats
    class_counts: npt.NDArray[np.int64]
    class_scores: Floats
    class_entropies: Floats
    class_low_confidence: npt.NDArray[np.int64]
    scores: dict[str, Floats]
    features: npt.NDArray[np.float32] | None
    thumbnails: list[bytes]
    part: list[str]
    failures: list[tuple[str, str]]
    provenance: parts.Provenance
    metadata: Mapping[str, pa.Array] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()

    @property
    def has_detections(self) -> bool:
        """Whether a detector was run on the images."""
        return self.provenance.probabilities != parts.NO_DETECTOR

    def rows_by_part(self) -> dict[str, list[int]]:
        """The rows of each part, by its name."""
        rows: dict[str, list[int]] = {}
        for row, part in enumerate(self.part):
            rows.setdefault(part, []).append(row)
        return rows

    def columns(self) -> dict[str, Any]:
        """Values of each usable image that are known before the selection, by the column names of images.parquet."""
        detected = {"num_boxes": self.num_boxes, "expected_boxes": self.expected_boxes, **self.scores}
        return {
            "folder": [name.rpartition("/")[0] for name in self.file_names],
            "byte_size": self.byte_size,
            "width": self.size[:, 0],
            "height": self.size[:, 1],
            **(detected if self.has_detections else {}),
        }


@dataclass(frozen=True)
class Detections:
    """Boxes that were detected on one image; shapes as in `job.parts.Row`."""

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int32]
    class_probabilities: npt.NDArray[np.float16]

    def take(self, kept: npt.NDArray[np.bool_]) -> "Detections":
        """The boxes for which `kept` (n,) is true."""
        return Detections(
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            classes=self.classes[kept],
            class_probabilities=self.class_probabilities[kept],
        )


@dataclass(frozen=True)
class _PartRows:
    """The rows of one part that belong to a listing.

    Attributes:
        name: Name of the part.
        provenance: What the part was made with.
        usable: Rows of usable images.
        failures: File name and reason of each unusable image.
        absent: File names of the failures that imported predictions or embeddings lack.
    """

    name: str
    provenance: parts.Provenance
    usable: pa.Table
    failures: list[tuple[str, str]]
    absent: frozenset[str] = frozenset()


def load(
    output: Storage,
    entries: Iterable[Entry],
    class_weights: Mapping[str, float] | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Pool:
    """Reads and scores the rows of all images of a listing.

    Rows of other images, and of images that have changed since, are left out.

    Args:
        output: Folder with the parts.
        entries: The images.
        class_weights: Weight of each class in the weighted scores, by name; other classes have that of ``*``, or 1.
        class_names: Names by class index that replace those of the parts, if these are as many; None to keep them.

    Raises:
        TryAgain: If an image of the listing has no row yet.
        SettingsError: If the output holds parts of different settings, or a class weight names an unknown class.
        DamagedFileError: If a part is damaged, or holds impossible values.
    """
    columns = [*_KEPT_COLUMNS, "status", "error", *_SUM_COLUMNS, *name_score_columns().values()]
    columns += BOX_COLUMNS if class_weights else ()
    rows: list[_PartRows] = []
    scored: list[ImageScores] = []
    weighted: list[dict[str, Floats]] = []
    for part in _read_rows(output, entries, class_names, columns):
        class_names = part.provenance.class_names
        scored.append(image_scores.read_columns(part.usable, len(class_names)))
        if class_weights and class_names:
            weights = class_weight_array(class_weights, class_names)
            weighted.append(image_scores.score_weighted(part.usable, weights))
        rows.append(_without_boxes(part))
    return _join(rows, scored, weighted)


def _read_rows(
    output: Storage, entries: Iterable[Entry], class_names: tuple[str, ...] | None, columns: list[str]
) -> Iterator[_PartRows]:
    """Yields the rows of a listing, part by part; images that no process could read come last, without rows."""
    missing = {(entry.key, entry.etag) for entry in entries}
    unread: dict[tuple[str, str], str] = {}
    part: parts.Part | None = None
    provenance: parts.Provenance | None = None
    is_warned = False
    for part in parts.read(output, columns):
        provenance = provenance or part.provenance.with_names(class_names or ())
        parts.check_same(output, part.provenance, provenance)
        if part.provenance != provenance and not is_warned:
            is_warned = True
            logger.warning(describe_new_names(part.provenance.class_names, provenance.class_names))
        own_rows, failures, absent = [], [], set()
        values = (part.table[name].to_pylist() for name in ("key", "etag", "status", "error"))
        for row, (key, etag, status, error) in enumerate(zip(*values, strict=True)):
            if status == "unread":
                unread[key, etag] = error
            elif (key, etag) in missing:  # not twice: two processes may both have finished an image
                missing.remove((key, etag))
                if status == "ok":
                    own_rows.append(row)
                else:
                    failures.append((key, error))
                    if status == "absent":
                        absent.add(key)
        usable = part.table.take(pa.array(own_rows, pa.int64()))
        yield _PartRows(part.name, provenance, usable, failures, frozenset(absent))
    if part is None or provenance is None or missing - unread.keys():
        words = quantify(len(missing - unread.keys()), "image has", "images have")
        raise TryAgain(f"{words} no detections yet: run `predict` until it has finished, then try again.")
    failures = [(key, error) for (key, etag), error in unread.items() if (key, etag) in missing]
    yield _PartRows(part.name, provenance, part.table.slice(0, 0), failures)


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


def _without_boxes(rows: _PartRows) -> _PartRows:
    """The rows without the columns that nothing needs once the images are scored."""
    return _PartRows(rows.name, rows.provenance, rows.usable.select(_KEPT_COLUMNS), rows.failures, rows.absent)


def _join(rows: Sequence[_PartRows], scored: Sequence[ImageScores], weighted: Sequence[Mapping[str, Floats]]) -> Pool:
    names = [name for part in rows for name in part.usable["key"].to_pylist()]
    order = sorted(range(len(names)), key=lambda row: names[row].encode())
    part_names = [part.name for part in rows for _ in range(len(part.usable))]
    provenance = rows[0].provenance
    classes, boxes, low_confidence = np.concatenate([part.class_counts for part in scored]).T
    confidences, entropies = np.concatenate([part.class_sums for part in scored]).T

    def per_class(per_image: npt.NDArray[Any]) -> Floats:
        return np.bincount(classes, per_image, len(provenance.class_names)).astype(np.float64)

    def listed(column: str) -> list[Any]:
        values = [value for part in rows for value in part.usable[column].to_pylist()]
        return [values[row] for row in order]

    def joined(arrays: Iterable[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        return np.concatenate(list(arrays))[order]

    values: dict[str, Floats] = {}
    if provenance.probabilities != parts.NO_DETECTOR:
        given = {"": [part.values for part in scored], scores.WEIGHTED: weighted}
        for suffix, by_part in given.items():
            for score in scores.TABLE.values() if by_part else ():
                values[score.name + suffix] = score.over_pool(joined(part[score.name] for part in by_part))
    features = _features(rows)
    return Pool(
        file_names=[names[row] for row in order],
        size=np.array([[width or 0 for width in listed(side)] for side in ("width", "height")], np.int32).T,
        etag=[parts.file_etag(etag) for etag in listed("etag")],
        byte_size=np.array(listed("byte_size"), np.int64),
        num_boxes=joined(part.num_boxes for part in scored),
        expected_boxes=joined(part.expected_boxes for part in scored),
        class_counts=per_class(boxes).astype(np.int64),
        class_scores=per_class(confidences),
        class_entropies=per_class(entropies),
        class_low_confidence=per_class(low_confidence).astype(np.int64),
        scores=values,
        features=None if features is None else features[order],
        thumbnails=listed("thumbnail"),
        part=[part_names[row] for row in order],
        failures=sorted((failure for part in rows for failure in part.failures), key=lambda pair: pair[0].encode()),
        provenance=provenance,
        absent=frozenset().union(*(part.absent for part in rows)),
    )


def _features(rows: Sequence[_PartRows]) -> npt.NDArray[np.float32] | None:
    """(n, d) features in the order of the parts; None if a row has none."""
    columns = [part.usable["feature"].combine_chunks() for part in rows if len(part.usable)]
    if not columns or any(column.null_count for column in columns):
        return None
    return np.concatenate(
        [column.flatten().to_numpy().reshape(len(column), -1).astype(np.float32) for column in columns]
    )


def detections(output: Storage, pool: Pool, rows: Iterable[int]) -> dict[str, Detections]:
    """Reads the detections on some of the usable images, by file name."""
    by_part = detections_by_part(output, pool, rows)
    return {name: boxes for _, in_part in by_part for name, boxes in in_part.items()}


def detections_by_part(output: Storage, pool: Pool, rows: Iterable[int]) -> Iterator[tuple[str, dict[str, Detections]]]:
    """Yields the name of each part that holds some of these images, and the detections on them, by file name."""
    wanted = {pool.file_names[row]: pool.part[row] for row in rows}
    columns = ["boxes", "scores", "classes", "class_probabilities"]
    for part in parts.read(output, ["key", *columns], names=set(wanted.values())):
        names = part.table["key"].to_pylist()
        own_rows = [row for row, name in enumerate(names) if wanted.get(name) == part.name]
        table = part.table.take(np.array(own_rows, np.int64))
        ragged = [parts.flatten_lists(table[column]) for column in columns]
        counts = ragged[1][1]
        by_name = {}
        for name, end, count in zip(table["key"].to_pylist(), np.cumsum(counts), counts, strict=True):
            by_name[name] = Detections(*(values[end - count : end] for values, _ in ragged))
        yield part.name, by_name


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
    row = {name: number for number, name in enumerate(pool.file_names)}
    result = np.zeros((len(pool.file_names), len(pool.provenance.class_names)))
    for _, by_name in detections_by_part(output, pool, range(len(pool.file_names))):
        for name, boxes in by_name.items():
            counts = np.bincount(boxes.classes, minlength=result.shape[1])
            result[row[name]] = counts / max(1, len(boxes.classes))
    return result
