"""The boxes of the pool's images, read part by part."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from job import parts
from job.errors import DamagedFileError
from job.parts import pool as pools
from job.parts.pool import Pool, Rows
from job.parts.score import BOX_COLUMNS
from job.storage import Storage


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


class Reader(Protocol):
    """Something that needs the boxes of many images, in whatever order they come."""

    def add(self, rows: Rows, columns: Sequence[npt.NDArray[Any]], counts: Rows) -> None:
        """Gets the boxes of some images.

        Args:
            rows: (m,) rows of the images in the pool.
            columns: The boxes of all of them, as in `Detections`.
            counts: (m,) how many of the boxes belong to each image.
        """


def scan(output: Storage, pool: Pool, rows: Iterable[int], readers: Sequence[Reader]) -> None:
    """Reads the boxes of images once, for several readers: they may be more than can be read twice in reasonable time.

    Args:
        output: Folder with the parts.
        pool: The images.
        rows: Rows of the images.
        readers: Who gets them.

    Raises:
        JobError: If a part cannot be read.
    """
    for _, of_images, columns, counts in read_boxes(output, pool, rows):
        for reader in readers:
            reader.add(of_images, columns, counts)


def locate(rows: Rows, among: Rows) -> Rows:
    """Finds some rows among others: (m,) their places, -1 for a row that is not there.

    Args:
        rows: (m,) the rows.
        among: The others, rising. They may be many more, since they are neither sorted nor copied.
    """
    places = np.searchsorted(among, rows)
    is_there = places < len(among)
    is_there[is_there] = among[places[is_there]] == rows[is_there]
    return np.where(is_there, places, -1)


class Keeper:
    """A reader that keeps the detections on a few images.

    Args:
        pool: The images.
        rows: Rows of the few.

    Attributes:
        rows: Rows of the few, rising.
        detections: The detections by file name.
    """

    def __init__(self, pool: Pool, rows: Collection[int]) -> None:
        self._pool, self.rows = pool, np.array(sorted(rows), np.int64)
        self.detections: dict[str, Detections] = {}

    def add(self, rows: Rows, columns: Sequence[npt.NDArray[Any]], counts: Rows) -> None:
        """See `Reader`."""
        ends = np.cumsum(counts)
        for place in np.flatnonzero(locate(rows, self.rows) >= 0).tolist():
            own = slice(ends[place] - counts[place], ends[place])
            # Copies: a view would keep the boxes of the whole part in memory.
            self.detections[self._pool.file_names[rows[place]]] = Detections(
                *(column[own].copy() for column in columns)
            )


def detections(output: Storage, pool: Pool, rows: Iterable[int]) -> dict[str, Detections]:
    """Reads the detections on some of the usable images, by file name."""
    by_part = detections_by_part(output, pool, rows)
    return {name: boxes for _, in_part in by_part for name, boxes in in_part.items()}


def detections_by_part(output: Storage, pool: Pool, rows: Iterable[int]) -> Iterator[tuple[str, dict[str, Detections]]]:
    """Yields the name of each part that holds some of these images, and the detections on them, by file name."""
    for part, of_images, columns, counts in read_boxes(output, pool, rows):
        ends = np.cumsum(counts)
        yield (
            part,
            {
                pool.file_names[row]: Detections(*(values[end - count : end] for values in columns))
                for row, end, count in zip(of_images, ends, counts, strict=True)
            },
        )


def read_boxes(
    output: Storage, pool: Pool, rows: Iterable[int], columns: Sequence[str] = BOX_COLUMNS
) -> Iterator[tuple[str, Rows, list[npt.NDArray[Any]], Rows]]:
    """Reads the boxes of some images.

    Args:
        output: Folder with the parts.
        pool: The images.
        rows: Rows of the images.
        columns: What to read of the boxes; all by default.

    Yields:
        For each part that holds some of them: its name; the rows of these images; the values of the boxes of all of
        them in each column, as in `Detections`; and how many of the boxes belong to each image.
    """
    for part, of_images, table in pools.read_rows(output, pool, rows, list(columns)):
        ragged = [parts.flatten_lists(table[column]) for column in columns]
        counts = ragged[0][1]
        check_counts(output, pool, part, of_images, counts)
        yield part, of_images, [values for values, _ in ragged], counts


def check_counts(output: Storage, pool: Pool, part: str, images: Rows, counts: Rows) -> None:
    """Checks the numbers of boxes of some images in a part.

    Raises:
        DamagedFileError: If an image has another number than the pool says.
    """
    if not np.array_equal(counts, pool.num_boxes[images]):
        raise DamagedFileError.of(
            output.uri, part, "an image has another number of boxes", "delete it and run the job again"
        )
