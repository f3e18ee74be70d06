"""What the parts and the listings in an output say of their size, without reading their content."""

import contextlib
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from job.parts import listings, part
from job.storage import Entry, Storage
from job.storage.rangefile import RangeFile


@dataclass(frozen=True)
class PartSize:
    """The size of a part.

    Attributes:
        images: Number of its rows.
        boxes_per_image: Mean number of boxes, where an image without boxes counts as one.
        classes: Number of classes of the detector.
        width: Numbers in a feature.
        num_ahead: Number of parts of its size that are read ahead.
    """

    images: int
    boxes_per_image: float
    classes: int
    width: int
    num_ahead: int


def count_images(output: Storage) -> int:
    """Counts the images in the listings of the shards that have finished; 0 if they cannot be read.

    Args:
        output: Folder with the parts.
    """
    files = (_open(output, entry) for entry in listings.list_files(output))
    return sum(file.metadata.num_rows for file in files if file is not None)


def measure_largest(output: Storage) -> PartSize | None:
    """Measures the part with the most bytes; None if there is none that can be read.

    Args:
        output: Folder with the parts.
    """
    largest = max(part.list_files(output), key=lambda entry: entry.size, default=None)
    file = None if largest is None else _open(output, largest)
    if largest is None or file is None or not file.metadata.num_rows:
        return None
    with contextlib.suppress(KeyError, AttributeError):  # not such a file: whoever reads it will say so
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
        boxes = sum(chunk.num_values for chunk in chunks if chunk.path_in_schema.startswith("scores."))
        schema = file.schema_arrow
        return PartSize(
            images=file.metadata.num_rows,
            boxes_per_image=boxes / file.metadata.num_rows,
            classes=schema.field("class_probabilities").type.value_type.list_size - 1,
            width=schema.field("feature").type.list_size,
            num_ahead=part.count_ahead(largest.size),
        )
    return None


def _open(output: Storage, entry: Entry) -> Any:
    with contextlib.suppress(pa.ArrowException, OSError):  # whoever reads the content will say what is wrong
        return pq.ParquetFile(RangeFile(output, entry.key, entry.size))
    return None
