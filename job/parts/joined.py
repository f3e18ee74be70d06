"""Joins the rows of parts with a listing, into arrays that have the order of the listing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from job import scores
from job.parts import score as image_scores
from job.parts.part import Part
from job.spool import SpooledRows
from job.storage.listing import Listing, pack_etag

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

MISSING, USABLE, UNUSABLE = range(3)
_CHUNK = 10_000


class _Finder:
    """Finds keys with their ETags in a listing, by the hashes of the keys.

    If two keys had one hash, one of them would count as missing. That ends the run with 75, and the next process hashes
    differently.

    Args:
        listing: The listing.
    """

    def __init__(self, listing: Listing) -> None:
        self._keys, self._etags = listing.arrays()
        hashes = np.concatenate(
            [np.empty(0, np.int64)]
            + [_hash(self._keys.slice(start, _CHUNK)) for start in range(0, len(self._keys), _CHUNK)]
        )
        self._order = np.argsort(hashes)
        self._hashes = hashes[self._order]

    def find(self, keys: pa.Array, etags: pa.Array) -> Rows:
        """(m,) rows in the listing; -1 for a key that it does not have, or has with another ETag."""
        if not len(keys) or not len(self._hashes):
            return np.full(len(keys), -1, np.int64)
        hashes = _hash(keys)
        place = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        rows = self._order[place]
        packed = pa.array([pack_etag(etag) for etag in etags.to_pylist()], pa.large_binary())
        is_same = pc.and_(
            pc.equal(self._keys.take(pa.array(rows)), keys.cast(pa.large_string())),
            pc.equal(self._etags.take(pa.array(rows)), packed),
        )
        return np.where(np.asarray(is_same), rows, -1)


def _hash(texts: pa.Array) -> npt.NDArray[np.int64]:
    return np.fromiter(map(hash, texts.to_pylist()), np.int64, len(texts))


@dataclass(frozen=True)
class PartRows:
    """Which rows of a part belong to the listing.

    Attributes:
        rows: (m,) rows in the listing of the usable images.
        table: The rows of the part, in this order.
    """

    rows: Rows
    table: pa.Table


@dataclass
class Columns:
    """What the parts hold of the n images of a listing.

    Attributes:
        listing: The images.
        state: (n,) `MISSING`, `USABLE` or `UNUSABLE`.
        part: (n,) number of the part that holds the row of a usable image, and its row there.
        part_row: See `part`.
        size: (n, 2) width and height.
        byte_size: (n,) sizes of the files.
        num_boxes: (n,) numbers of boxes.
        expected_boxes: (n,) sums of the confidences of these boxes.
        values: (n,) values of each score by name, before `over_pool`, and of weighted ones.
        class_sums: (4, classes) sums over the boxes of each class: 1, 1 for a low confidence, confidence, entropy.
        features: (n, d) features in a temporary file; None if a row has none.
        unusable: Status and error of each unusable image, by its row.
        unread: Errors of images that a process could not read, by their rows.
    """

    listing: Listing
    class_sums: Floats
    state: npt.NDArray[np.uint8] = field(init=False)
    part: npt.NDArray[np.int32] = field(init=False)
    part_row: npt.NDArray[np.int32] = field(init=False)
    size: npt.NDArray[np.int32] = field(init=False)
    byte_size: npt.NDArray[np.int64] = field(init=False)
    num_boxes: npt.NDArray[np.int32] = field(init=False)
    expected_boxes: Floats = field(init=False)
    values: dict[str, Floats] = field(default_factory=dict)
    features: SpooledRows | None = None
    unusable: dict[int, tuple[str, str]] = field(default_factory=dict)
    unread: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.listing)
        self.state, self.part, self.part_row = (
            np.zeros(count, np.uint8),
            np.zeros(count, np.int32),
            np.zeros(count, np.int32),
        )
        self.size, self.byte_size = np.zeros((count, 2), np.int32), np.zeros(count, np.int64)
        self.num_boxes, self.expected_boxes = np.zeros(count, np.int32), np.zeros(count)
        self._finder, self._has_features = _Finder(self.listing), True

    def add(self, number: int, part: Part) -> PartRows:
        """Adds the rows of a part.

        Args:
            number: Number of the part.
            part: The part, with the columns that are not those of boxes.
        """
        keys, status = part.table["key"].combine_chunks(), part.table["status"].combine_chunks()
        found = self._finder.find(keys, part.table["etag"].combine_chunks())
        is_ok = np.asarray(pc.equal(status, "ok"))
        for row in np.flatnonzero(~is_ok & (found >= 0)).tolist():
            kind, error, place = status[row].as_py(), part.table["error"][row].as_py(), int(found[row])
            if kind == "unread":
                self.unread[place] = error
            elif self.state[place] == MISSING:
                self.state[place] = UNUSABLE
                self.unusable[place] = kind, error
        # Not twice: two processes may both have finished an image.
        own = np.flatnonzero(is_ok & (found >= 0))
        own = own[self.state[found[own]] == MISSING]
        rows, first = np.unique(found[own], return_index=True)
        table = part.table.take(pa.array(own[first]))
        self.state[rows] = USABLE
        self.part[rows], self.part_row[rows] = number, own[first]
        for side, name in enumerate(("width", "height")):
            self.size[rows, side] = table[name].fill_null(0).to_numpy()
        self.byte_size[rows] = table["byte_size"].to_numpy()
        self._add_scores(rows, image_scores.read_columns(table, self.class_sums.shape[1]))
        if "feature" in table.column_names:
            self._add_features(rows, table["feature"].combine_chunks())
        return PartRows(rows, table)

    def _add_scores(self, rows: Rows, scored: image_scores.ImageScores) -> None:
        self.num_boxes[rows], self.expected_boxes[rows] = scored.num_boxes, scored.expected_boxes
        self.add_values(rows, scored.values)
        classes = scored.class_counts[:, 0]
        per_class = (*scored.class_counts[:, 1:].T, *scored.class_sums.T)
        for sums, values in zip(self.class_sums, per_class, strict=True):
            sums += np.bincount(classes, values, len(sums))

    def add_values(self, rows: Rows, values: Mapping[str, Floats], suffix: str = "") -> None:
        """Adds values of scores of some rows of the listing."""
        for name, column in values.items():
            if name + suffix not in self.values:
                self.values[name + suffix] = np.zeros(len(self.state))
            self.values[name + suffix][rows] = column

    def _add_features(self, rows: Rows, column: pa.Array) -> None:
        if not len(rows) or not self._has_features:
            return
        if column.null_count:
            self._has_features, self.features = False, None
            return
        vectors = column.flatten().to_numpy().reshape(len(rows), -1)
        if self.features is None:
            self.features = SpooledRows((len(self.state), vectors.shape[1]))
        self.features.scatter(rows, vectors)

    def find_unread(self) -> dict[int, tuple[str, str]]:
        """Status and error of each image that no process could read, by its row."""
        return {row: ("unread", error) for row, error in self.unread.items() if self.state[row] == MISSING}

    def take_usable(self) -> Rows | None:
        """Removes the rows of all other images; returns the rows that stay, None for all.

        Each column is replaced before the next one is copied.
        """
        if (self.state == USABLE).all():
            return None
        rows = np.flatnonzero(self.state == USABLE)
        for name in ("part", "part_row", "size", "byte_size", "num_boxes", "expected_boxes"):
            column: npt.NDArray[Any] = getattr(self, name)
            setattr(self, name, column[rows])
        for name in self.values:
            self.values[name] = self.values[name][rows]
        if self.features is not None:
            self.features.keep(rows)
        return rows

    def over_pool(self) -> dict[str, Floats]:
        """The scores of the images that are left; each column is replaced before the next one is made."""
        names = [name + suffix for suffix in ("", scores.WEIGHTED) for name in scores.TABLE]
        return {
            name: scores.TABLE[name.removesuffix(scores.WEIGHTED)].over_pool(self.values.pop(name))
            for name in names
            if name in self.values
        }
