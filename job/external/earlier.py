"""The detections of an earlier CORAL_OUTPUT: rows of its parts, with their class probabilities as they are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from job import parts
from job.errors import SettingsError
from job.external.categories import check_class_names
from job.parts import Part, Provenance, Row, listings
from job.storage import Storage


def matches(folder: Storage) -> bool:
    """Whether a folder is the output of a run."""
    return bool(parts.list_files(folder))


@dataclass(frozen=True)
class Output:
    """The output of an earlier run.

    Attributes:
        folder: The folder.
    """

    folder: Storage

    def read(
        self, classes: tuple[str, ...] | None, min_score: float, update_digest: Callable[[bytes], None]
    ) -> tuple[list[Row], Provenance]:
        """Reads the rows of all images, unusable ones included.

        Args:
            classes: CORAL_CLASSES, by class index.
            min_score: Boxes of a lower score are dropped.
            update_digest: Called with what the content of the parts depends on.

        Returns:
            The rows, sorted by the bytes of the file name, and what they were made with, without corrected names.

        Raises:
            SettingsError: If the output has no detections, or CORAL_CLASSES has more or fewer names than its classes.
            TryAgain: If the run has not finished its detections.
            JobError: If a part cannot be read.
        """
        folder = self.folder
        remaining = {(entry.key, entry.etag) for entry in listings.read(folder)}
        rows: list[Row] = []
        unread: dict[tuple[str, str], Row] = {}
        provenance: Provenance | None = None
        for part in parts.read(folder):
            provenance = provenance or part.provenance
            parts.check_same(folder, part.provenance, provenance)
            for row in _make_rows(part, min_score):
                if row.status == "unread":
                    unread[row.file_name, row.etag] = row
                elif (row.file_name, row.etag) in remaining:
                    remaining.remove((row.file_name, row.etag))
                    if row.status != "absent":  # that run had no predictions of the image, either
                        rows.append(row)
        if provenance is None or provenance.probabilities == parts.NO_DETECTOR:
            raise SettingsError(
                f"CORAL_PREDICTIONS={folder.uri!r} is the output of a run without detections. Give that of a run with "
                "a detector."
            )
        # The names may be corrected after the detection, as in that run itself.
        is_corrected = classes is not None and len(classes) == len(provenance.class_names)
        check_class_names(provenance.class_names, folder.uri, None if is_corrected else classes)
        rows += [row for key, row in unread.items() if key in remaining]
        rows.sort(key=lambda row: row.file_name.encode())
        update_digest(provenance.to_json().encode())
        for row in rows:
            update_digest(f"{row.file_name}\0{row.etag}\0{row.status}\n".encode())
        return [replace(row, etag="", byte_size=0) for row in rows], provenance


def _make_rows(part: Part, min_score: float) -> Iterator[Row]:
    def split(name: str) -> list[npt.NDArray[Any]]:
        values, counts = parts.flatten_lists(part.table[name])
        return np.split(values, np.cumsum(counts)[:-1])

    columns = ("key", "etag", "byte_size", "status", "error", "width", "height", "thumbnail")
    plain = zip(*(part.table[name].to_pylist() for name in columns), strict=True)
    ragged = zip(*map(split, ("boxes", "scores", "classes", "class_probabilities")), strict=True)
    for (key, etag, size, status, error, width, height, thumbnail), arrays in zip(plain, ragged, strict=True):
        if status != "ok":
            yield Row(file_name=key, etag=etag, byte_size=size, status=status, error=error)
            continue
        kept = arrays[1] >= np.float32(min_score)
        boxes, scores, classes, probabilities = (values[kept] for values in arrays)
        yield Row(
            file_name=key,
            etag=etag,
            byte_size=size,
            status=status,
            width=width,
            height=height,
            boxes=boxes,
            scores=scores,
            classes=classes,
            class_probabilities=probabilities,
            thumbnail=thumbnail,
        )
