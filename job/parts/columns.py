"""The columns of a part, and the values of lists in them as arrays."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from job import scores

# One entry for each class that is predicted on an image: the class, its boxes and its low-confidence boxes; and the
# sums of the confidences and entropies of its boxes.
CLASS_COUNTS = pa.field("class_counts", pa.list_(pa.list_(pa.int32(), 3)))
CLASS_SUMS = pa.field("class_sums", pa.list_(pa.list_(pa.float32(), 2)))

BOX_FEATURES = "box_features"


def name_score_columns() -> dict[str, str]:
    """The columns with the values of each score before `over_pool`, by the name of the score.

    The value of object_frequency says how rich an image is in objects and classes.
    """
    return {name: f"score_{name}" for name in scores.TABLE}


def copy_texts(texts: pa.Array, start: int, stop: int) -> pa.Array:
    """Copies rows of a long column of texts as `pa.string`.

    Arrow refuses to cast a slice if there are 2 GiB of other texts before it.
    """
    return texts.take(pa.array(np.arange(start, stop))).cast(pa.string())


def flatten_lists(column: pa.ChunkedArray) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Joins the lists of a column into one array, and counts the values of each row.

    Args:
        column: Lists of numbers, or lists of fixed-size lists of numbers; null counts as an empty list.

    Returns:
        Values of shape (total,) or (total, k), and counts of shape (rows,).
    """
    array = column.combine_chunks()
    counts = array.value_lengths().fill_null(0).to_numpy().astype(np.int64)
    values = array.flatten()
    if pa.types.is_fixed_size_list(values.type):
        return values.flatten().to_numpy().reshape(-1, values.type.list_size), counts
    return values.to_numpy(), counts


def make_schema(probabilities: int, feature: int | None, box_feature: int | None) -> pa.Schema:
    """Makes the schema of a part.

    Args:
        probabilities: Number of probabilities of a box: one more than there are classes.
        feature: Length of the feature of an image; None if there is none.
        box_feature: Length of the feature of a box; None if there is none.
    """
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("etag", pa.string(), nullable=False),
            pa.field("byte_size", pa.int64(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            ("error", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("num_boxes", pa.int32()),
            ("expected_boxes", pa.float64()),
            *((column, pa.float64()) for column in name_score_columns().values()),
            CLASS_COUNTS,
            CLASS_SUMS,
            ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
            ("scores", pa.list_(pa.float32())),
            ("classes", pa.list_(pa.int32())),
            ("class_probabilities", pa.list_(pa.list_(pa.float16(), probabilities))),
            (BOX_FEATURES, pa.list_(pa.list_(pa.float16(), box_feature if box_feature is not None else 1))),
            ("thumbnail", pa.binary()),
            ("feature", pa.list_(pa.float16(), feature if feature is not None else 1)),
        ]
    )


def make_column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Makes a column of a part from the values of its rows; of lists, each row is an array or None."""
    if not pa.types.is_list(kind):
        return pa.array(values, kind)
    if not pa.types.is_fixed_size_list(kind.value_type):
        return pa.array(values, kind)
    # pyarrow does not accept two-dimensional arrays: the rows go in flat, with their offsets.
    size = kind.value_type.list_size
    present = [rows.reshape(-1, size) for rows in values if rows is not None]
    flat = np.concatenate(present).ravel() if present else np.empty(0)
    rows = pa.FixedSizeListArray.from_arrays(pa.array(flat, kind.value_type.value_type), size)
    offsets = np.cumsum([0, *(0 if rows is None else len(rows) for rows in values)])
    masked = pa.array(offsets, pa.int32(), mask=np.array([*(value is None for value in values), False]))
    return pa.ListArray.from_arrays(masked, rows)
