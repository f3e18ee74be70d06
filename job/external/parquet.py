"""A Parquet file with one row per image.

| column | content |
|---|---|
| ``file_name`` | text |
| ``boxes`` | lists of 4 numbers: left, top, right, bottom in pixels |
| ``scores`` | list of numbers |
| ``classes`` | list of class indices, or of class names |
| ``width``, ``height`` | pixels; optional, may be null |
| ``class_probabilities`` | lists of numbers, one per class, and optionally the background as the last; optional |

A null list counts as an empty list. The class names, by class index, are a JSON list under ``class_names`` in the
metadata of the schema, or else CORAL_CLASSES. If ``classes`` holds names, both may be missing: then the names are
sorted.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from job.errors import SettingsError, one_line
from job.external.batch import IMAGES_PER_BATCH, Batch, Floats, Image, Integers, Reading, check_batch, parse_image
from job.external.categories import check_class_names
from job.external.layouts import CORNERS
from job.external.problems import Problems, is_text, parse_json, shorten

_REQUIRED = ("file_name", "boxes", "scores", "classes")
# For each column: how deep its lists are nested, the kinds of value it may hold, and its content in words.
_COLUMNS: dict[str, tuple[int, tuple[str, ...], str]] = {
    "file_name": (0, ("text",), "text"),
    "boxes": (2, ("whole", "real"), f"lists of 4 numbers, {CORNERS} in pixels"),
    "scores": (1, ("whole", "real"), "lists of numbers"),
    "classes": (1, ("whole", "text"), "lists of class indices or of class names"),
    "width": (0, ("whole", "real"), "whole numbers"),
    "height": (0, ("whole", "real"), "whole numbers"),
    "class_probabilities": (2, ("whole", "real"), "lists of numbers, one per class"),
}
_LIST_OF_FLOATS = pa.list_(pa.float64())


def read(data: bytes, uri: str, classes: tuple[str, ...] | None) -> Reading:
    """Reads a Parquet file.

    Args:
        data: Content of the file.
        uri: URI of the file.
        classes: CORAL_CLASSES, by class index.

    Raises:
        SettingsError: If the content is invalid.
    """
    with _refuse_damaged(uri):
        file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        columns = _check_columns(file.schema_arrow, uri)
        names = _read_class_names(file, uri, classes, columns)
    return Reading(names, CORNERS, _read_batches(file, uri, columns, names))


@contextlib.contextmanager
def _refuse_damaged(uri: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:  # Arrow's are among its other errors
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # Arrow raises each of them for damaged files
        raise SettingsError(
            f"CORAL_PREDICTIONS, {uri}: the file cannot be read as Parquet ({one_line(error).rstrip('.')}). Write it "
            "again."
        ) from None


def _check_columns(schema: pa.Schema, uri: str) -> list[str]:
    """Refuses missing, repeated and wrongly typed columns; returns the names of the present ones."""
    problems = Problems()
    for name, (depth, kinds, content) in _COLUMNS.items():
        count = schema.names.count(name)
        if count == 0 and name in _REQUIRED:
            problems.add(uri, f"there is no column {name}. Add it, with {content}.")
        elif count > 1:
            problems.add(uri, f"there are {count} columns {name}. Keep one of them.")
        elif count:
            column_type = schema.field(name).type
            nested, kind = _inspect_type(column_type)
            # Lists that are all empty may have been written without the type of their values.
            if kind != "nothing" and (nested, kind in kinds) != (depth, True):
                problems.add(uri, f"its column {name} has the type {column_type}. Give {content}.")
    problems.raise_if_any()
    return [name for name in _COLUMNS if name in schema.names]


def _inspect_type(data_type: pa.DataType) -> tuple[int, str]:
    """How deep the lists of a column are nested, and the kind of their values."""
    depth, types, data_type = 0, pa.types, _remove_views(data_type)
    while types.is_list(data_type) or types.is_large_list(data_type) or types.is_fixed_size_list(data_type):
        depth, data_type = depth + 1, data_type.value_type
    if types.is_dictionary(data_type):
        data_type = data_type.value_type
    if types.is_string(data_type) or types.is_large_string(data_type):
        return depth, "text"
    if types.is_integer(data_type):
        return depth, "whole"
    if types.is_floating(data_type):
        return depth, "real"
    return depth, "nothing" if types.is_null(data_type) else str(data_type)


def _read_class_names(
    file: pq.ParquetFile, uri: str, classes: tuple[str, ...] | None, columns: list[str]
) -> tuple[str, ...]:
    advice = (
        "Give the class names as a JSON list under class_names in the metadata of the schema, or set CORAL_CLASSES."
    )
    stored = (file.schema_arrow.metadata or {}).get(b"class_names")
    if stored is not None:
        names = parse_json(stored, f"{uri}, class_names in its metadata")
        if not isinstance(names, list) or not names or not all(map(is_text, names)):
            raise SettingsError(
                f"CORAL_PREDICTIONS, {uri}: its class_names are {shorten(names)}. Give a list of names."
            )
        check_class_names(tuple(names), uri, classes)
        return tuple(names)
    if classes is not None:
        return classes
    if _inspect_type(file.schema_arrow.field("classes").type)[1] != "text":
        raise SettingsError(f"CORAL_PREDICTIONS, {uri}: its classes are indices without names. {advice}")
    if "class_probabilities" in columns:
        raise SettingsError(f"CORAL_PREDICTIONS, {uri}: the order of its class_probabilities is unknown. {advice}")
    column = file.read(columns=["classes"])["classes"]
    column = _replace_view(column.combine_chunks()).cast(pa.list_(pa.string()))
    distinct = sorted(filter(is_text, pc.unique(pc.list_flatten(column)).to_pylist()), key=str.encode)
    if not distinct:
        raise SettingsError(f"CORAL_PREDICTIONS, {uri}: nothing was detected, so its classes have no names. {advice}")
    return tuple(distinct)


def _read_batches(file: pq.ParquetFile, uri: str, columns: list[str], names: tuple[str, ...]) -> Iterator[Batch]:
    start = 0
    with _refuse_damaged(uri):
        for record in file.iter_batches(IMAGES_PER_BATCH, columns=columns):
            plain = _replace_views(record)
            yield _make_batch(plain, _read_images(plain, uri, start), names)
            start += len(record)


def _replace_views(record: pa.RecordBatch) -> pa.RecordBatch:
    """Makes texts and lists of Arrow's views of them, which few functions accept."""
    columns = [_replace_view(column) for column in record.columns]
    return pa.RecordBatch.from_arrays(columns, names=record.schema.names)


def _replace_view(column: pa.Array) -> pa.Array:
    plain = _remove_views(column.type)
    if plain.equals(column.type):
        return column
    if not pa.types.is_large_list(plain):
        return column.cast(plain)
    # Arrow 26 casts a view of lists to lists without their last offset.
    is_null = np.array([*column.is_null().to_pylist(), False])
    offsets = pa.array(np.cumsum([0, *_count_values(column)]), pa.int64(), mask=is_null)
    return pa.LargeListArray.from_arrays(offsets, _replace_view(column.flatten()))


def _remove_views(data_type: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_string_view(data_type):
        return pa.large_string()
    if types.is_list_view(data_type) or types.is_large_list_view(data_type):
        return pa.large_list(_remove_views(data_type.value_type))
    if types.is_list(data_type) or types.is_large_list(data_type):
        values = _remove_views(data_type.value_type)
        return data_type if values.equals(data_type.value_type) else pa.large_list(values)
    return data_type


def _read_images(record: pa.RecordBatch, uri: str, start: int) -> list[Image]:
    problems = Problems()
    columns = [_read_values(record, name) for name in ("file_name", "width", "height")]
    images = []
    for row, (name, width, height) in enumerate(zip(*columns, strict=True), start):
        if is_text(name):
            images.append(parse_image(uri, name, width, height, problems))
        else:
            problems.add(
                uri, f"row {row} (counted from 0) has the file_name {shorten(name)}. Give the name of the image."
            )
    problems.raise_if_any()
    return images


def _read_values(record: pa.RecordBatch, name: str) -> list[Any]:
    return record.column(name).to_pylist() if name in record.schema.names else [None] * len(record)


def _make_batch(record: pa.RecordBatch, images: list[Image], names: tuple[str, ...]) -> Batch:
    boxes, counts = _flatten(record, "boxes", _LIST_OF_FLOATS)
    by_name = _inspect_type(record.schema.field("classes").type)[1] == "text"
    classes, class_counts = _flatten(record, "classes", pa.string() if by_name else pa.int64())
    scores, score_counts = _flatten(record, "scores", pa.float64())
    lengths = {"boxes": counts, "scores": score_counts, "classes": class_counts}
    probabilities = None
    if "class_probabilities" in record.schema.names:
        probabilities, lengths["class_probabilities"] = _flatten(record, "class_probabilities", _LIST_OF_FLOATS)
    _check_lengths(images, lengths)
    advice = (
        f"Give {len(names)} numbers: one per class, in the order of the classes; that of the background may follow."
    )
    has_background = False
    if probabilities is not None and len(probabilities):
        has_background = bool((_count_values(probabilities) == len(names) + 1).all())
    batch = Batch(
        images=images,
        counts=counts,
        boxes=_to_matrix(boxes, 4, images, counts, f"a box of {{}} numbers. Give 4: {CORNERS} in pixels."),
        scores=scores.to_numpy(zero_copy_only=False),
        classes=_to_class_indices(classes, names, images, counts, by_name=by_name),
        probabilities=None
        if probabilities is None
        else _to_matrix(
            probabilities,
            len(names) + has_background,
            images,
            counts,
            f"{{}} class_probabilities for a box. {advice}",
        ),
    )
    check_batch(batch, CORNERS, len(names))
    return batch


def _flatten(record: pa.RecordBatch, name: str, value_type: pa.DataType) -> tuple[pa.Array, Integers]:
    """The values in the lists of a column, one list after the other, and the length of each list."""
    column = record.column(name).cast(pa.list_(value_type))
    return column.flatten(), _count_values(column)


def _count_values(lists: pa.Array) -> Integers:
    result: Integers = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return result


def _check_lengths(images: list[Image], lengths: dict[str, Integers]) -> None:
    problems = Problems()
    for image, *counts in zip(images, *(lists.tolist() for lists in lengths.values()), strict=True):
        if len(set(counts)) > 1:
            words = ", ".join(f"{count} {name}" for count, name in zip(counts, lengths, strict=True))
            problems.add(image.uri, f"{image} has {words}. Give the same number of each.")
    problems.raise_if_any()


def _to_matrix(lists: pa.Array, width: int, images: list[Image], counts: Integers, sentence: str) -> Floats:
    """Makes an array with the lists as its rows.

    Args:
        lists: A list of numbers per box.
        width: Required length of each list.
        images: Images of the boxes.
        counts: (images,) number of boxes of each image.
        sentence: What an image with a list of another length has; {} stands for that length.

    Raises:
        SettingsError: If a list has another length.
    """
    problems = Problems()
    lengths, image_of = _count_values(lists), np.repeat(np.arange(len(images)), counts)
    for box in np.flatnonzero(lengths != width).tolist():
        image = images[image_of[box]]
        problems.add(image.uri, f"{image} has {sentence.format(lengths[box])}")
    problems.raise_if_any()
    result: Floats = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return result


def _to_class_indices(
    classes: pa.Array, names: tuple[str, ...], images: list[Image], counts: Integers, *, by_name: bool
) -> Integers:
    problems = Problems()
    indices = {value: index for index, value in enumerate(names if by_name else range(len(names)))}
    image_of, result = np.repeat(np.arange(len(images)), counts), np.zeros(len(classes), np.int64)
    for box, value in enumerate(classes.to_pylist()):
        if value in indices:
            result[box] = indices[value]
            continue
        image = images[image_of[box]]
        valid = f"one of {shorten(', '.join(names))}" if by_name else f"an index from 0 to {len(names) - 1}"
        problems.add(
            image.uri,
            f"{image} has the class {shorten(value)}, which is not {valid}. Correct it, or add the class name.",
        )
    problems.raise_if_any()
    return result
