"""The pool: what the parts say of all images, side by side."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from job import parts, scores
from job.errors import TryAgain
from job.storage import Entry, Storage

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """All images of one listing, by column; the usable ones and, apart, the failed ones.

    Attributes:
        keys: File names of the n usable images, sorted bytewise; all arrays below follow this order.
        size: (n, 2) width and height in pixels.
        etag: Of the files when they were read.
        byte_size: (n,) size of the files.
        num_boxes: (n,) boxes detected.
        scores: (n,) for each score of `job.scores`.
        features: (n, d) pooled features of the detector; None when its model has none.
        thumbnails: JPEG files.
        part: Name of the part that each row is in.
        failures: File name and reason of each image that cannot be used, sorted bytewise.
        provenance: What the parts were made with.
    """

    keys: list[str]
    size: npt.NDArray[np.int32]
    etag: list[str]
    byte_size: npt.NDArray[np.int64]
    num_boxes: npt.NDArray[np.int64]
    scores: dict[str, Floats]
    features: npt.NDArray[np.float32] | None
    thumbnails: list[bytes]
    part: list[str]
    failures: list[tuple[str, str]]
    provenance: parts.Provenance

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


def load(output: Storage, entries: Iterable[Entry]) -> Pool:
    """Gathers the rows of all images of a listing.

    Rows of images that are not in it, or had another content, are left out.

    Raises:
        TryAgain: An image of the listing has no row yet.
        SettingsError: The output holds parts of different settings.
    """
    wanted = {(each.key, each.etag) for each in entries}
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
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
        _add(part.name, table, len(provenance.class_names), wanted, columns, failures)
    failures += [(pair[0], error) for pair, error in unread.items() if pair in wanted]
    wanted -= unread.keys()
    if wanted or provenance is None:
        raise TryAgain(f"{len(wanted)} images have no detections yet: run `predict` to the end first.")
    order = sorted(range(len(columns["key"])), key=lambda i: columns["key"][i].encode())

    def column(name: str) -> npt.NDArray[Any]:
        return np.array([columns[name][i] for i in order])

    values = {name: column(name).astype(np.float64) for name in _PER_IMAGE}
    values = {"object_frequency": scores.object_frequency(column("richness")), **values}
    features = [columns["feature"][i] for i in order]
    return Pool(
        keys=[columns["key"][i] for i in order],
        size=np.array([columns["size"][i] for i in order], np.int32).reshape(-1, 2),
        etag=[columns["etag"][i] for i in order],
        byte_size=column("byte_size").astype(np.int64),
        num_boxes=column("num_boxes").astype(np.int64),
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
    wanted = {pool.keys[row]: pool.part[row] for row in rows}
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


_PER_IMAGE = ("objectness_least_confidence", *scores.UNCERTAINTIES)
_COLUMNS = ("key", "etag", "size", "byte_size", "num_boxes", "richness", "feature", "thumbnail", "part", *_PER_IMAGE)


def _add(
    name: str,
    table: Any,
    num_classes: int,
    wanted: set[tuple[str, str]],
    columns: dict[str, list[Any]],
    failures: list[tuple[str, str]],
) -> None:
    """Adds the wanted rows of one part, and takes them off `wanted`."""
    table = table.take(_rows_of(table, wanted))
    usable = [status == "ok" for status in table["status"].to_pylist()]
    keys, errors = table["key"].to_pylist(), table["error"].to_pylist()
    failures += [(key, error) for key, error, ok in zip(keys, errors, usable, strict=True) if not ok]
    table = table.filter(pa.array(usable, pa.bool_()))

    box_scores, counts = parts.ragged(table["scores"])
    classes, _ = parts.ragged(table["classes"])
    probabilities = scores.normalised(parts.ragged(table["class_probabilities"])[0])
    columns["key"] += table["key"].to_pylist()
    columns["size"] += zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True)
    columns["etag"] += table["etag"].to_pylist()
    columns["byte_size"] += table["byte_size"].to_pylist()
    columns["num_boxes"] += counts.tolist()
    columns["thumbnail"] += table["thumbnail"].to_pylist()
    columns["part"] += [name] * len(table)
    columns["richness"] += scores.class_richness(classes, counts, num_classes).tolist()
    columns["objectness_least_confidence"] += scores.objectness_least_confidence(
        box_scores.astype(np.float64), counts
    ).tolist()
    for score, formula in scores.UNCERTAINTIES.items():
        columns[score] += scores.per_image_maximum(formula(probabilities), counts)[0].tolist()
    features = table["feature"].combine_chunks()
    if features.null_count:
        columns["feature"] += [None] * len(features)
    else:
        columns["feature"] += list(features.flatten().to_numpy().reshape(-1, features.type.list_size))
