"""The pool: what the parts say of all images, side by side."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from job import parts, scores
from job.errors import SettingsError, TryAgain
from job.storage import Entry, Storage

Floats = npt.NDArray[np.float64]

# Boxes of a lower score are called faint: the usual threshold for a detection that counts is 0.5.
FAINT = 0.2


@dataclass(frozen=True)
class Pool:
    """All images of one listing, by column; the usable ones and, apart, the failed ones.

    Attributes:
        file_names: File names of the n usable images, sorted bytewise; all arrays below follow this order.
        size: (n, 2) width and height in pixels; 0 where they are not known.
        etag: Of the files when they were read.
        byte_size: (n,) size of the files.
        num_boxes: (n,) boxes detected.
        expected_boxes: (n,) sums of the boxes' scores: so many objects, were these probabilities.
        class_counts: (classes,) boxes of each class in the whole pool; and (classes,) sums over them:
        class_scores: Of their scores.
        class_entropies: Of the entropies of their class probabilities.
        class_faint: Of those whose score is below `FAINT`.
        scores: (n,) for each score of `job.scores`, and once more by its name with ``_weighted`` behind it where
            classes have weights; none at all without a detector.
        features: (n, d) pooled features of the detector; None when its model has none.
        thumbnails: JPEG files.
        part: Name of the part that each row is in.
        failures: File name and reason of each image that cannot be used, sorted bytewise.
        provenance: What the parts were made with.
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
    class_faint: npt.NDArray[np.int64]
    scores: dict[str, Floats]
    features: npt.NDArray[np.float32] | None
    thumbnails: list[bytes]
    part: list[str]
    failures: list[tuple[str, str]]
    provenance: parts.Provenance

    @property
    def has_detections(self) -> bool:
        """Whether a detector has seen the images."""
        return self.provenance.probabilities != parts.NO_DETECTOR

    def rows_by_part(self) -> dict[str, list[int]]:
        """The rows of each part that has some."""
        rows: dict[str, list[int]] = {}
        for row, part in enumerate(self.part):
            rows.setdefault(part, []).append(row)
        return rows


@dataclass(frozen=True)
class Detections:
    """What was detected on one image; shapes as in `job.parts.Row`."""

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int32]
    class_probabilities: npt.NDArray[np.float16]


def load(output: Storage, entries: Iterable[Entry], class_weights: Mapping[str, float] | None = None) -> Pool:
    """Gathers the rows of all images of a listing.

    Rows of images that are not in it, or had another content, are left out.

    Args:
        output: Where the parts are.
        entries: The images.
        class_weights: What boxes of a class count in weighted scores, by its name; 1 for classes that are not in it.

    Raises:
        TryAgain: An image of the listing has no row yet.
        SettingsError: The output holds parts of different settings, or there is no such class.
    """
    wanted = {(each.key, each.etag) for each in entries}
    columns: dict[str, list[Any]] = defaultdict(list)
    by_class: Any = 0
    failures: list[tuple[str, str]] = []
    unread: dict[tuple[str, str], str] = {}
    provenance: parts.Provenance | None = None
    for part in parts.read(output):
        if provenance is not None:
            parts.check_same(output, part.provenance, provenance)
        provenance = part.provenance
        tried = part.table.filter(pa.compute.equal(part.table["status"], "unread"))
        pairs = zip(tried["key"].to_pylist(), tried["etag"].to_pylist(), strict=True)
        unread.update(zip(pairs, tried["error"].to_pylist(), strict=True))
        table = part.table.filter(pa.compute.not_equal(part.table["status"], "unread"))
        weights = weights_of(class_weights, provenance.class_names) if class_weights else None
        by_class = by_class + _add(part.name, table, len(provenance.class_names), wanted, columns, failures, weights)
    failures += [(pair[0], error) for pair, error in unread.items() if pair in wanted]
    wanted -= unread.keys()
    if wanted or provenance is None:
        raise TryAgain(f"{len(wanted)} images have no detections yet: run `predict` to the end first.")
    order = sorted(range(len(columns["key"])), key=lambda i: columns["key"][i].encode())

    def column(name: str) -> npt.NDArray[Any]:
        return np.array([columns[name][i] for i in order])

    values: dict[str, Floats] = {}
    suffixes = ("", scores.WEIGHTED) if class_weights else ("",)
    for suffix in suffixes if provenance.probabilities != parts.NO_DETECTOR else ():
        values["object_frequency" + suffix] = scores.object_frequency(column("richness" + suffix).astype(np.float64))
        values |= {name + suffix: column(name + suffix).astype(np.float64) for name in scores.OF_BOXES}
    features = [columns["feature"][i] for i in order]
    return Pool(
        file_names=[columns["key"][i] for i in order],
        size=np.array([columns["size"][i] for i in order], np.int32).reshape(-1, 2),
        etag=[columns["etag"][i] for i in order],
        byte_size=column("byte_size").astype(np.int64),
        num_boxes=column("num_boxes").astype(np.int64),
        expected_boxes=column("expected_boxes").astype(np.float64),
        class_counts=by_class[0].astype(np.int64),
        class_scores=by_class[1],
        class_entropies=by_class[2],
        class_faint=by_class[3].astype(np.int64),
        scores=values,
        features=None if any(each is None for each in features) else np.array(features, np.float32),
        thumbnails=[columns["thumbnail"][i] for i in order],
        part=[columns["part"][i] for i in order],
        failures=sorted(failures, key=lambda each: each[0].encode()),
        provenance=provenance,
    )


def detections(output: Storage, pool: Pool, rows: Iterable[int]) -> dict[str, Detections]:
    """What was detected on some of the usable images, by file name."""
    return {key: found for _, here in detections_by_part(output, pool, rows) for key, found in here.items()}


def detections_by_part(output: Storage, pool: Pool, rows: Iterable[int]) -> Iterator[tuple[str, dict[str, Detections]]]:
    """Yields the name of each part that has some of these images, and what was detected on them, by file name."""
    wanted = {pool.file_names[row]: pool.part[row] for row in rows}
    names = ["boxes", "scores", "classes", "class_probabilities"]
    for part in parts.read(output, ["key", *names], names=set(wanted.values())):
        keys = part.table["key"].to_pylist()
        here = [row for row, key in enumerate(keys) if wanted.get(key) == part.name]
        taken = part.table.take(np.array(here, np.int64))
        ragged = [parts.ragged(taken[name]) for name in names]
        ends = np.cumsum(ragged[1][1])
        found = {}
        for key, end, count in zip(taken["key"].to_pylist(), ends, ragged[1][1], strict=True):
            found[key] = Detections(*(values[end - count : end] for values, _ in ragged))
        yield part.name, found


def _rows_of(table: Any, wanted: set[tuple[str, str]]) -> npt.NDArray[np.int64]:
    """The rows of wanted images, which are taken off `wanted`: two processes may both have done an image."""
    rows = []
    for row, pair in enumerate(zip(table["key"].to_pylist(), table["etag"].to_pylist(), strict=True)):
        if pair in wanted:
            wanted.remove(pair)
            rows.append(row)
    return np.array(rows, np.int64)


def weights_of(given: Mapping[str, float], class_names: Sequence[str]) -> Floats:
    """(classes,) weights over the largest of them."""
    if unknown := sorted(given.keys() - set(class_names)):
        raise SettingsError(
            f"CORAL_CLASS_WEIGHTS names {unknown[0]!r}, which is no class of the detector: "
            f"use {', '.join(class_names[:10])}{' ...' if len(class_names) > 10 else ''}."
        )
    weights = np.array([given.get(name, 1.0) for name in class_names])
    if len(weights) and not weights.any():
        raise SettingsError("CORAL_CLASS_WEIGHTS gives every class the weight 0: leave out those that count.")
    result: Floats = weights / (weights.max(initial=0) or 1.0)
    return result


def _add(
    name: str,
    table: Any,
    num_classes: int,
    wanted: set[tuple[str, str]],
    columns: dict[str, list[Any]],
    failures: list[tuple[str, str]],
    weights: Floats | None,
) -> Floats:
    """Adds the wanted rows of one part, and takes them off `wanted`; returns its sums by class, (4, classes)."""
    table = table.take(_rows_of(table, wanted))
    usable = [status == "ok" for status in table["status"].to_pylist()]
    keys, errors = table["key"].to_pylist(), table["error"].to_pylist()
    failures += [(key, error) for key, error, ok in zip(keys, errors, usable, strict=True) if not ok]
    table = table.filter(pa.array(usable, pa.bool_()))

    box_scores, counts = parts.ragged(table["scores"])
    classes, _ = parts.ragged(table["classes"])
    probabilities = scores.normalised(parts.ragged(table["class_probabilities"])[0])
    boxes = scores.Boxes(counts, parts.ragged(table["boxes"])[0], box_scores.astype(np.float64), probabilities)
    columns["key"] += table["key"].to_pylist()
    sizes = (table[each].fill_null(0).to_pylist() for each in ("width", "height"))
    columns["size"] += zip(*sizes, strict=True)
    columns["etag"] += table["etag"].to_pylist()
    columns["byte_size"] += table["byte_size"].to_pylist()
    columns["num_boxes"] += counts.tolist()
    image = np.repeat(np.arange(len(counts)), counts)
    columns["expected_boxes"] += np.bincount(image, weights=boxes.scores, minlength=len(counts)).tolist()
    columns["thumbnail"] += table["thumbnail"].to_pylist()
    columns["part"] += [name] * len(table)
    if num_classes:
        _add_scores(columns, boxes, classes, num_classes, weights)
    features = table["feature"].combine_chunks()
    if features.null_count:
        columns["feature"] += [None] * len(features)
    else:
        columns["feature"] += list(features.flatten().to_numpy().reshape(-1, features.type.list_size))
    sums = (np.ones(len(classes)), boxes.scores, scores.entropy(probabilities), boxes.scores < FAINT)
    if num_classes == 0:
        return np.zeros((len(sums), 0))
    return np.stack([np.bincount(classes, weights=each, minlength=num_classes) for each in sums])


def _add_scores(
    columns: dict[str, list[Any]],
    boxes: scores.Boxes,
    classes: npt.NDArray[np.integer],
    num_classes: int,
    weights: Floats | None,
) -> None:
    for score, formula in scores.OF_BOXES.items():
        contributions = formula.of_boxes(boxes)
        columns[score] += formula.of_images(contributions, boxes.counts).tolist()
        if weights is not None:
            weighted = formula.of_images(contributions * weights[classes], boxes.counts)
            columns[score + scores.WEIGHTED] += weighted.tolist()
    columns["richness"] += scores.class_richness(classes, boxes.counts, num_classes).tolist()
    if weights is not None:
        richness = scores.class_richness(classes, boxes.counts, num_classes, weights)
        columns["richness" + scores.WEIGHTED] += richness.tolist()


def class_shares(output: Storage, pool: Pool) -> Floats:
    """(n, classes) shares of the boxes of each image that are of each class; zeros for an image without boxes."""
    row = {key: number for number, key in enumerate(pool.file_names)}
    result = np.zeros((len(pool.file_names), len(pool.provenance.class_names)))
    for _, found in detections_by_part(output, pool, range(len(pool.file_names))):
        for key, each in found.items():
            result[row[key]] = np.bincount(each.classes, minlength=result.shape[1]) / max(1, len(each.classes))
    return result
