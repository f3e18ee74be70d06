"""A Parquet file with a row for each image.

| column | content |
|---|---|
| ``file_name`` | text |
| ``boxes`` | lists of 4 numbers: left, top, right, bottom in pixels |
| ``scores`` | list of numbers |
| ``classes`` | list of class indices, or of class names |
| ``width``, ``height`` | pixels; may be missing or null |
| ``class_probabilities`` | lists of numbers, one for each class, none for the background; may be missing |

A list that is null is an empty one. The class names, in the order of their indices, are the JSON list that the schema's
metadata have under ``class_names``, or else CORAL_CLASSES. Where ``classes`` are names, there need be neither: then
they are sorted.
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
from job.external.batch import IMAGES_PER_BATCH, Batch, Floats, Image, Integers, Reading, check, image
from job.external.categories import check_names
from job.external.problems import Problems, is_text, parsed, shown

_LAYOUT = "[left, top, right, bottom]"
_REQUIRED = ("file_name", "boxes", "scores", "classes")
# How deep lists are nested in each column, what is in them, and that in words.
_COLUMNS: dict[str, tuple[int, tuple[str, ...], str]] = {
    "file_name": (0, ("text",), "text"),
    "boxes": (2, ("whole", "real"), f"lists of 4 numbers, {_LAYOUT} in pixels"),
    "scores": (1, ("whole", "real"), "lists of numbers"),
    "classes": (1, ("whole", "text"), "lists of class indices, or of class names"),
    "width": (0, ("whole", "real"), "whole numbers"),
    "height": (0, ("whole", "real"), "whole numbers"),
    "class_probabilities": (2, ("whole", "real"), "lists of numbers, one for each class"),
}
_NESTED = pa.list_(pa.float64())


def read(data: bytes, where: str, classes: tuple[str, ...] | None) -> Reading:
    """Reads a file.

    Args:
        data: Its content.
        where: Its URI.
        classes: CORAL_CLASSES.

    Raises:
        SettingsError: Something is wrong with it.
    """
    with _readable(where):
        file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        columns = _columns(file.schema_arrow, where)
        names = _class_names(file, where, classes, columns)
    return Reading(names, _batches(file, where, columns, names))


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # Arrow has all of them for damaged files
        raise SettingsError(
            f"CORAL_PREDICTIONS, {where}: it cannot be read as Parquet ({one_line(error).rstrip('.')}): write it again."
        ) from None


def _columns(schema: pa.Schema, where: str) -> list[str]:
    """The known columns that are there, once it is sure that each has the kind that it must have."""
    problems = Problems()
    for name, (depth, kinds, words) in _COLUMNS.items():
        count = schema.names.count(name)
        if count == 0 and name in _REQUIRED:
            problems.add(where, f"it has no column {name}: add it, with {words}.")
        elif count > 1:
            problems.add(where, f"it has {count} columns {name}: leave one of them.")
        elif count:
            found = schema.field(name).type
            nested, kind = _kind(found)
            # Lists that are all empty may have come without the kind of what would be in them.
            if kind != "nothing" and (nested, kind in kinds) != (depth, True):
                problems.add(where, f"its column {name} is {found}: make it {words}.")
    problems.settle()
    return [name for name in _COLUMNS if name in schema.names]


def _kind(found: pa.DataType) -> tuple[int, str]:
    """How deep lists are nested in a column, and what is in them."""
    depth, types = 0, pa.types
    while types.is_list(found) or types.is_large_list(found) or types.is_fixed_size_list(found):
        depth, found = depth + 1, found.value_type
    if types.is_dictionary(found):
        found = found.value_type
    if types.is_string(found) or types.is_large_string(found):
        return depth, "text"
    if types.is_integer(found):
        return depth, "whole"
    if types.is_floating(found):
        return depth, "real"
    return depth, "nothing" if types.is_null(found) else str(found)


def _class_names(
    file: pq.ParquetFile, where: str, classes: tuple[str, ...] | None, columns: list[str]
) -> tuple[str, ...]:
    advice = "give them as a JSON list under class_names in the metadata of the schema, or by CORAL_CLASSES."
    stored = (file.schema_arrow.metadata or {}).get(b"class_names")
    if stored is not None:
        names = parsed(stored, f"{where}, class_names in its metadata")
        if not isinstance(names, list) or not names or not all(map(is_text, names)):
            raise SettingsError(
                f"CORAL_PREDICTIONS, {where}: its class_names are {shown(names)}: give a list of names."
            )
        check_names(tuple(names), where, classes)
        return tuple(names)
    if classes is not None:
        return classes
    if _kind(file.schema_arrow.field("classes").type)[1] != "text":
        raise SettingsError(f"CORAL_PREDICTIONS, {where}: its classes are numbers without names: {advice}")
    if "class_probabilities" in columns:
        raise SettingsError(f"CORAL_PREDICTIONS, {where}: which class probability is whose, is not said: {advice}")
    column = file.read(columns=["classes"])["classes"].cast(pa.list_(pa.string()))
    distinct = sorted(filter(is_text, pc.unique(pc.list_flatten(column)).to_pylist()), key=str.encode)
    if not distinct:
        raise SettingsError(f"CORAL_PREDICTIONS, {where}: nothing was detected, so classes have no names: {advice}")
    return tuple(distinct)


def _batches(file: pq.ParquetFile, where: str, columns: list[str], names: tuple[str, ...]) -> Iterator[Batch]:
    start = 0
    with _readable(where):
        for record in file.iter_batches(IMAGES_PER_BATCH, columns=columns):
            yield _batch(record, _images(record, where, start), names)
            start += len(record)


def _images(record: pa.RecordBatch, where: str, start: int) -> list[Image]:
    problems = Problems()
    columns = [_values(record, name) for name in ("file_name", "width", "height")]
    images = []
    for row, (name, width, height) in enumerate(zip(*columns, strict=True), start):
        if is_text(name):
            images.append(image(where, name, width, height, problems))
        else:
            problems.add(where, f"row {row} (from 0) has the file_name {shown(name)}: give the name of the image.")
    problems.settle()
    return images


def _values(record: pa.RecordBatch, name: str) -> list[Any]:
    return record.column(name).to_pylist() if name in record.schema.names else [None] * len(record)


def _batch(record: pa.RecordBatch, images: list[Image], names: tuple[str, ...]) -> Batch:
    boxes, counts = _lists(record, "boxes", _NESTED)
    by_name = _kind(record.schema.field("classes").type)[1] == "text"
    classes, of_classes = _lists(record, "classes", pa.string() if by_name else pa.int64())
    scores, of_scores = _lists(record, "scores", pa.float64())
    lengths = {"boxes": counts, "scores": of_scores, "classes": of_classes}
    given = None
    if "class_probabilities" in record.schema.names:
        given, lengths["class_probabilities"] = _lists(record, "class_probabilities", _NESTED)
    _check_lengths(images, lengths)
    advice = f"give {len(names)} numbers, one for each class, in their order, and none for the background."
    batch = Batch(
        images=images,
        counts=counts,
        boxes=_matrix(boxes, 4, images, counts, f"a box of {{}} numbers: give 4, {_LAYOUT} in pixels."),
        scores=scores.to_numpy(zero_copy_only=False),
        classes=_indices(classes, names, images, counts, by_name=by_name),
        probabilities=None
        if given is None
        else _matrix(given, len(names), images, counts, f"{{}} class_probabilities for a box: {advice}"),
    )
    check(batch, _LAYOUT)
    return batch


def _lists(record: pa.RecordBatch, name: str, kind: pa.DataType) -> tuple[pa.Array, Integers]:
    """What is in the lists of a column, one after the other, and how long each is."""
    column = record.column(name).cast(pa.list_(kind))
    return column.flatten(), _lengths(column)


def _lengths(lists: pa.Array) -> Integers:
    result: Integers = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return result


def _check_lengths(images: list[Image], lengths: dict[str, Integers]) -> None:
    problems = Problems()
    for at, *counts in zip(images, *(each.tolist() for each in lengths.values()), strict=True):
        if len(set(counts)) > 1:
            words = ", ".join(f"{count} {name}" for count, name in zip(counts, lengths, strict=True))
            problems.add(at.where, f"{at} has {words}: give as many of each.")
    problems.settle()


def _matrix(lists: pa.Array, width: int, images: list[Image], counts: Integers, sentence: str) -> Floats:
    """Lists as rows of an array, if each is as long as it must be."""
    problems = Problems()
    lengths, image_of = _lengths(lists), np.repeat(np.arange(len(images)), counts)
    for box in np.flatnonzero(lengths != width).tolist():
        at = images[image_of[box]]
        problems.add(at.where, f"{at} has {sentence.format(lengths[box])}")
    problems.settle()
    result: Floats = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return result


def _indices(
    classes: pa.Array, names: tuple[str, ...], images: list[Image], counts: Integers, *, by_name: bool
) -> Integers:
    problems = Problems()
    known = {each: index for index, each in enumerate(names if by_name else range(len(names)))}
    image_of, result = np.repeat(np.arange(len(images)), counts), np.zeros(len(classes), np.int64)
    for box, each in enumerate(classes.to_pylist()):
        if each in known:
            result[box] = known[each]
            continue
        at = images[image_of[box]]
        among = shown(", ".join(names)) if by_name else f"an index into the {len(names)} class names, from 0"
        problems.add(at.where, f"{at} has the class {shown(each)}, which is not {among}: correct it, or name it there.")
    problems.settle()
    return result
