"""Compares the boxes and sizes of predictions with the files in CORAL_INPUT.

At most 32 files are read, for their headers, and the boxes of at most 10,000 images are compared. If CORAL_INPUT is a
list of names, no file is read.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from job.errors import SettingsError
from job.external.geometry import MIN_BOXES, Evidence, find_problem
from job.external.input_images import InputImages
from job.external.layouts import Layout
from job.inputs.headers import Size
from job.inputs.match import Match
from job.names import quantify, shorten
from job.parts import Row

T = TypeVar("T")

_MAX_FILES = 32
_MAX_IMAGES = 10_000
_UNKNOWN = (0, 0)
_ROUNDING_PIXELS = 1

_CAUSES = {
    "turned": "These are the sizes before the EXIF orientation. Give sizes after it, and boxes that are in pixels of "
    "the oriented images.",
    "exchanged": "Width and height are exchanged: correct them.",
    "scaled": "The predictions are of copies of another size, to which boxes and exports refer. Scale boxes and sizes "
    "to these files, or set CORAL_INPUT to the copies.",
    "wrong": "The boxes fit the files: correct the sizes in the predictions, or leave them out.",
    "other": "These may be other images of the same names: give predictions of these files.",
}


def check_boxes(rows: Sequence[Row], layout: Layout | None, match: Match, images: InputImages) -> list[str]:
    """Compares the boxes of predictions with the sizes of their images.

    Args:
        rows: The predictions.
        layout: How their format writes a box; None if the job has written it.
        match: The file of each image that has predictions.
        images: The images in CORAL_INPUT.

    Returns:
        What may be wrong, as whole sentences.

    Raises:
        SettingsError: If the boxes cannot be boxes in pixels of their images.
    """
    boxed = [row for row in rows if row.file_name in match.file_names and row.boxes is not None and len(row.boxes)]
    boxed = _spread(boxed, _MAX_IMAGES)
    file_of = {row.file_name: match.file_names[row.file_name] for row in _spread(boxed, _MAX_FILES)}
    of_files, unreadable = images.read_sizes(file_of.values())
    read = {name: of_files[file_name] for name, file_name in file_of.items() if file_name in of_files}
    warnings = []
    if unreadable:
        warnings.append(
            f"The boxes on {len(unreadable)} of {len(file_of)} images were not compared with the files, which cannot "
            f"be read: {unreadable[0]}."
        )
    differing = {row.file_name: kind for row in boxed if (kind := _compare(row, read.get(row.file_name))) is not None}
    finding = find_problem(_gather(boxed, read), layout)
    if differing:
        evidence = _gather([row for row in boxed if row.file_name in read], read, by_file=True)
        by_file = find_problem(evidence, layout)
        fit_only_files = finding is not None and by_file is None and len(evidence.boxes) >= MIN_BOXES
        warnings.append(_describe_sizes(boxed, differing, read, fit_only_files=fit_only_files))
        is_exchanged = not {"turned", "exchanged"}.isdisjoint(differing.values())
        # Boxes that fit the sizes beside them may be those of a copy; exchanged sizes are never right.
        finding = by_file if is_exchanged or fit_only_files else finding
    if finding is not None:
        if finding.is_certain:
            raise SettingsError(f"{match.setting}: {finding.sentences}")
        warnings.append(finding.sentences)
    return [f"{match.setting}: {warning}" for warning in warnings]


def _spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` items, evenly spread."""
    count = min(count, len(items))
    return [items[len(items) * number // count] for number in range(count)]


def _compare(row: Row, size: Size | None) -> str | None:
    """How the size of an image in the predictions differs from that of its file; None if it does not, or is unknown."""
    if size is None or not row.width or not row.height or (row.width, row.height) == (size.width, size.height):
        return None
    if (row.width, row.height) == (size.height, size.width):
        return "turned" if size.is_turned else "exchanged"
    difference = abs(row.height * size.width - row.width * size.height)
    return "scaled" if difference <= _ROUNDING_PIXELS * (size.width + size.height) else "other"


def _describe_sizes(
    boxed: Sequence[Row], differing: Mapping[str, str], read: Mapping[str, Size], *, fit_only_files: bool
) -> str:
    kinds = list(differing.values())
    kind = max(_CAUSES, key=kinds.count)
    row = next(row for row in boxed if differing.get(row.file_name) == kind)
    size = read[row.file_name]
    have_another = quantify(
        len(differing),
        f"of {len(read)} images has another size in its file",
        f"of {len(read)} images have another size in their files",
    )
    return (
        f"{have_another} than in the predictions: "
        f"{shorten(row.file_name)} has {size.width}x{size.height} pixels, not {row.width}x{row.height}. "
        f"{_CAUSES['wrong' if fit_only_files else kind]}"
    )


def _gather(boxed: Sequence[Row], read: Mapping[str, Size], *, by_file: bool = False) -> Evidence:
    """The boxes with the sizes of their images.

    Args:
        boxed: The predictions of some images.
        read: Sizes of the files, by the name of the image in the predictions.
        by_file: Whether the sizes of the files count, and not those in the predictions.
    """
    size, stored = [], []
    for row in boxed:
        of_file = read.get(row.file_name)
        given = (row.width, row.height) if row.width and row.height and not by_file else _UNKNOWN
        if given == _UNKNOWN and of_file is not None:
            given = of_file.width, of_file.height
        size.append(given)
        stored.append(given[::-1] if of_file is not None and of_file.is_turned else given)
    boxes = [np.asarray(row.boxes, np.float64) for row in boxed]
    counts = [len(of_image) for of_image in boxes]
    evidence = Evidence(
        names=[row.file_name for row in boxed],
        boxes=np.concatenate([np.empty((0, 4)), *boxes]),
        image_of=np.repeat(np.arange(len(boxed)), np.array(counts, np.int64)),
        size=np.array(size, np.float64).reshape(-1, 2),
        stored=np.array(stored, np.float64).reshape(-1, 2),
    )
    has_area = np.logical_and.reduce(evidence.boxes[:, 2:] > evidence.boxes[:, :2], axis=1)
    return evidence.take(has_area)
