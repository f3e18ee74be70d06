"""Writes detections.parquet: all boxes of all usable images, for data frames."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from job import scores
from job.parts import pool as pools
from job.parts.pool import Pool
from job.publish import DETECTIONS
from job.storage import Storage

_GROUP_ROWS = 1 << 18
_SCHEMA = pa.schema(
    [
        ("file_name", pa.string()),
        ("class", pa.string()),
        ("class_index", pa.int32()),
        *((name, pa.float32()) for name in ("score", "left", "top", "right", "bottom", "entropy")),
    ]
)


def write_detections(output: Storage, pool: Pool) -> None:
    """Writes one row per box, sorted by file name, the boxes of an image as they were detected.

    Parts are read one by one. Only some 40 bytes per box are held in memory, and the compressed file.

    Args:
        output: Folder of the results, with the parts.
        pool: The images, with detections.

    Raises:
        JobError: If a part cannot be read, or the file cannot be written.
    """
    row = {file_name: number for number, file_name in enumerate(pool.file_names)}
    images, classes, numbers = [np.empty(0, np.int32)], [np.empty(0, np.int32)], [np.empty((0, 6), np.float32)]
    for _, by_file_name in pools.detections_by_part(output, pool, range(len(pool.file_names))):
        for file_name, found in by_file_name.items():
            entropies = scores.entropy(scores.normalize(found.class_probabilities))
            images.append(np.full(len(found.scores), row[file_name], np.int32))
            classes.append(found.classes)
            numbers.append(np.column_stack([found.scores, found.boxes, entropies]).astype(np.float32))
    image = np.concatenate(images)
    order = np.argsort(image, kind="stable")  # how parts are cut and ordered varies from run to run
    class_index, values = np.concatenate(classes), np.concatenate(numbers)
    file_names, class_names = pa.array(pool.file_names, pa.string()), pa.array(pool.provenance.class_names, pa.string())
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, _SCHEMA, compression="zstd") as writer:
        for start in range(0, len(order), _GROUP_ROWS):
            group = order[start : start + _GROUP_ROWS]
            names = (file_names.take(pa.array(image[group])), class_names.take(pa.array(class_index[group])))
            columns = [*names, class_index[group], *values[group].T]
            writer.write_table(pa.table([pa.array(column) for column in columns], schema=_SCHEMA))
    output.write(DETECTIONS, buffer.getvalue())
