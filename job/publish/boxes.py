"""Writes detections.parquet: all boxes of all usable images, for data frames."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from job import scores
from job.parts import boxes
from job.parts.pool import Pool, Rows
from job.publish import DETECTIONS
from job.report.needs import Needs
from job.spool import Spool, SpooledRows
from job.storage import Storage

_GROUP_ROWS = 1 << 18
_BOXES_AT_ONCE = 4096  # their probabilities of 80 classes take 3 MB in double precision
_NUMBERS = ("score", "left", "top", "right", "bottom", "entropy")
_SCHEMA = pa.schema(
    [
        ("file_name", pa.string()),
        ("class", pa.string()),
        ("class_index", pa.int32()),
        *((name, pa.float32()) for name in _NUMBERS),
    ]
)


def read_boxes(output: Storage, pool: Pool, needs: Needs) -> "DetectionsFile | None":
    """Reads the boxes once, for the report and for the file of all of them.

    Args:
        output: Folder with the parts.
        pool: The images.
        needs: What the report needs; it gets its boxes.

    Returns:
        The file; None without detections.

    Raises:
        JobError: If a part cannot be read.
    """
    if not pool.has_detections:
        boxes.scan(output, pool, needs.keeper.rows, [needs.keeper])
        return None
    detections_file = DetectionsFile(pool)
    boxes.scan(output, pool, range(len(pool.file_names)), [needs.keeper, needs.sample, detections_file])
    return detections_file


class DetectionsFile:
    """The file, made from the boxes of all images: one row per box, sorted by file name, those of an image as detected.

    The boxes are put in order in a temporary file of some 32 bytes per box.

    Args:
        pool: The images, with detections.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._starts = np.cumsum(pool.num_boxes, dtype=np.int64) - pool.num_boxes
        self._boxes = SpooledRows((int(pool.num_boxes.sum()), 2 + len(_NUMBERS)), np.int32)

    def add(self, rows: Rows, columns: Sequence[npt.NDArray[Any]], counts: Rows) -> None:
        """See `job.parts.boxes.Reader`."""
        corners, confidences, classes, probabilities = columns
        entropies = _compute_entropies(probabilities)
        numbers = np.column_stack([confidences, corners, entropies]).astype(np.float32)
        values = np.column_stack([rows.repeat(counts).astype(np.int32), classes, numbers.view(np.int32)])
        # How parts are cut and ordered varies from run to run, but not where a box belongs.
        in_image = np.arange(len(classes)) - (np.cumsum(counts) - counts).repeat(counts)
        self._boxes.scatter(self._starts[rows].repeat(counts) + in_image, values)

    def write(self, output: Storage) -> None:
        """Writes the file.

        Raises:
            JobError: If it cannot be written.
        """
        class_names, made = pa.array(self._pool.provenance.class_names, pa.string()), Spool()
        with pq.ParquetWriter(made.file, _SCHEMA, compression="zstd") as writer:
            for start in range(0, len(self._boxes), _GROUP_ROWS):
                group = self._boxes.read(start, start + _GROUP_ROWS)
                image, class_index, numbers = group[:, 0], group[:, 1], group[:, 2:].view(np.float32)
                file_names = self._pool.file_names.array.take(pa.array(image)).cast(pa.string())
                columns = [file_names, class_names.take(pa.array(class_index)), class_index, *numbers.T]
                writer.write_table(pa.table([pa.array(column) for column in columns], schema=_SCHEMA))
        output.write(DETECTIONS, made)


def _compute_entropies(probabilities: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
    """(boxes, outcomes) → (boxes,), in blocks that fit into the processor's cache."""
    starts = range(0, len(probabilities), _BOXES_AT_ONCE)
    blocks = [scores.entropy(scores.normalize(probabilities[start : start + _BOXES_AT_ONCE])) for start in starts]
    return np.concatenate([np.empty(0), *blocks])
