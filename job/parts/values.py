"""What the values of a part must be, whoever wrote it: an output may be in a place where others can write."""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from job.parts.columns import (
    BOX_FEATURES,
    CLASS_COUNTS,
    CLASS_SUMS,
    flatten_lists,
    make_schema,
    name_score_columns,
)

_PER_BOX = ("boxes", "scores", "classes", "class_probabilities")
_PER_CLASS = (CLASS_COUNTS.name, CLASS_SUMS.name)
_CLASSES = {"classes": 1, CLASS_COUNTS.name: CLASS_COUNTS.type.value_type.list_size}
_SUMS = ("num_boxes", "expected_boxes")
_LARGEST = np.finfo(np.float64).max
_HALF = np.dtype(np.float16)
_EXPONENT = 0x7C00  # the bits that are all set in half precision if a value is not finite
_MINUS_ZERO = 0x8000


def find_problem(table: pa.Table, num_classes: int, columns: Collection[str] | None = None) -> str | None:
    """Finds what is wrong with the rows of a part; None if nothing is.

    Args:
        table: The part, or some columns of it.
        num_classes: Number of the detector's classes.
        columns: Names of the columns that the table must have; None for all.
    """
    feature, box_feature = (
        table.schema.field(name).type if name in table.column_names else None for name in ("feature", BOX_FEATURES)
    )
    box_feature = box_feature.value_type if box_feature is not None and pa.types.is_list(box_feature) else None
    schema = make_schema(num_classes + 1, _find_length(feature), _find_length(box_feature))
    expected = {field.name: field for field in schema}
    names = list(expected if columns is None else columns)
    if table.column_names != names or list(table.schema) != [expected.get(name) for name in names]:
        return "its columns are not those of a part"
    if "status" in table.column_names:
        table = table.filter(pc.equal(table["status"], "ok"))
    return next(_find_problems(table, num_classes), None)


def _find_length(kind: pa.DataType | None) -> int | None:
    return kind.list_size if kind is not None and pa.types.is_fixed_size_list(kind) else None


def _find_problems(table: pa.Table, num_classes: int) -> Iterator[str]:
    present = set(table.column_names)
    is_usable = "status" in present
    lists = {name: flatten_lists(table[name]) for name in (*_PER_BOX, *_PER_CLASS) if name in present}
    for names, words in ((_PER_BOX, "boxes, scores and classes"), (_PER_CLASS, "counts and sums of classes")):
        counts = [lists[name][1] for name in names if name in present]
        has_nulls = is_usable and any(table[name].null_count for name in names if name in present)
        if has_nulls or not all(np.array_equal(count, counts[0]) for count in counts):
            yield f"an image has different numbers of {words}"
    values = {name: of_lists for name, (of_lists, _) in lists.items()}
    for name in present & {*_SUMS, *name_score_columns().values()}:
        if is_usable and table[name].null_count and (num_classes or name in _SUMS):
            yield f"a usable image has no {name}"
        values[name] = table[name].drop_null().to_numpy()
    classes = [values[name].reshape(-1, width)[:, 0] for name, width in _CLASSES.items() if name in present]
    if not all(((some >= 0) & (some < num_classes)).all() for some in classes):
        yield "a class does not exist"
    for name in present & values.keys() - {"boxes"}:
        if not _are_between(values[name], _LARGEST):
            yield f"{name} has a value that is negative or not finite"
    for name in present & {"scores", "class_probabilities"}:
        if not _are_between(values[name], 1):
            yield f"{name} has a value above 1"
    if "boxes" in present and not np.isfinite(values["boxes"]).all():
        yield "a box is not finite"
    features = table["feature"].combine_chunks().flatten().to_numpy() if "feature" in present else np.empty(0, _HALF)
    if not _are_finite(features):
        yield "a feature is not finite"
    if BOX_FEATURES in present:
        yield from _find_problems_of_box_features(table)
    thumbnails = table["thumbnail"].to_pylist() if "thumbnail" in present else []
    if any(thumbnail and not thumbnail.startswith(b"\xff\xd8") for thumbnail in thumbnails):
        yield "a thumbnail is not a JPEG file"


def _are_between(values: npt.NDArray[Any], highest: float) -> bool:
    """Whether all values are from 0 to the highest.

    Of values in half precision, which are many, the bits are compared: they have the order of the values, and take a
    thirtieth of the time.
    """
    if values.dtype != _HALF:
        return bool(((values >= 0) & (values <= highest)).all())
    bits = values.view(np.uint16)
    limit = np.array(min(highest, np.finfo(_HALF).max), _HALF).view(np.uint16)
    return bool(((bits <= limit) | (bits == _MINUS_ZERO)).all())


def _are_finite(values: npt.NDArray[np.float16]) -> bool:
    """Whether no value is infinite or no number, by the bits, as in `_are_between`."""
    return not ((values.view(np.uint16) & _EXPONENT) == _EXPONENT).any()


def _find_problems_of_box_features(table: pa.Table) -> Iterator[str]:
    features, counts = flatten_lists(table[BOX_FEATURES])
    if not _are_finite(features):
        yield "a feature of a box is not finite"
    has_features = table[BOX_FEATURES].is_valid().to_numpy()
    for name in ("boxes", "scores"):
        if name in table.column_names and not np.array_equal(
            counts[has_features], flatten_lists(table[name])[1][has_features]
        ):
            yield "an image has different numbers of boxes and of their features"
