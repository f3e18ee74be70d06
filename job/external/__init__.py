"""Predictions of other detectors, as rows of parts, so that `select` works on them as on the job's own.

The content at the URI decides the format:

- a file that begins with ``PAR1``: Parquet, see `job.external.parquet`;
- a JSON file with images, categories and annotations: COCO, see `job.external.coco`;
- a folder with schema.json, or with a tasks.json of one task: Lightly's, see `job.external.lightly`.

Boxes are in pixels of the image after its EXIF orientation, as everywhere in the job. Nothing here needs torch.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from job import scores
from job.errors import SettingsError, Stopped
from job.external import coco, lightly, parquet
from job.external.batch import MIXED_PROBABILITIES, Batch, Reading, make_rows
from job.external.problems import Problems, shorten
from job.parts import Row
from job.stopping import MESSAGE
from job.storage import Storage, open_location, read_required
from job.uris import Location

_FORMATS = (
    "The supported formats are a COCO JSON file (an object with images, categories and annotations), a folder in "
    "Lightly's format (of one task, with schema.json, or .lightly/predictions, with tasks.json), and a Parquet file "
    "(with the columns file_name, boxes, scores and classes)."
)


@dataclass(frozen=True)
class Predictions:
    """Predictions of another detector.

    Attributes:
        rows: One row per image, sorted by the bytes of the file name. Boxes are sorted by score, highest first. Rows
            have status ``ok``, an empty etag and thumbnail, byte_size 0, no feature, and None for an unknown size.
        class_names: Class names, by class index.
        sha256: SHA-256 of the file; for Lightly's format, of the names and digests of the task's files.
        probabilities: ``external`` if class probabilities were given, else ``synthetic``; see
            `job.external.distributions`.
        warnings: What the user should know, as whole sentences.
    """

    rows: list[Row]
    class_names: tuple[str, ...]
    sha256: str
    probabilities: str
    warnings: tuple[str, ...]


def read(uri: str, classes: tuple[str, ...] | None, *, stop: threading.Event, min_score: float = 0.0) -> Predictions:
    """Reads predictions in any supported format.

    Args:
        uri: Path or bucket URI of the file or folder.
        classes: CORAL_CLASSES, by class index. Required if the predictions do not name their classes; if they do, it
            must be the same names.
        stop: Ends the reading when it is set.
        min_score: Boxes of a lower score are dropped.

    Raises:
        SettingsError: If the format is not supported, or the content is invalid.
        AccessDenied: If the permission to read a file is missing.
        ServiceUnavailable: If a file cannot be read.
        Stopped: If `stop` is set.
    """
    digest = hashlib.sha256()
    reading = _open(uri, classes, stop, digest.update)
    rows: list[Row] = []
    uri_of: dict[str, str] = {}
    with_probabilities: set[bool] = set()
    for batch in reading.batches:
        if stop.is_set():
            raise Stopped(MESSAGE)
        _check_repetitions(batch, uri_of)
        if len(batch.scores):
            with_probabilities.add(batch.probabilities is not None)
        if len(with_probabilities) > 1:
            raise SettingsError(f"CORAL_PREDICTIONS={uri!r}: {MIXED_PROBABILITIES}")
        rows += make_rows(batch, len(reading.class_names), min_score)
    if not rows:
        raise SettingsError(f"CORAL_PREDICTIONS={uri!r} contains no images. Add an entry for each image of the pool.")
    rows.sort(key=lambda row: row.file_name.encode())
    probabilities = "external" if True in with_probabilities else "synthetic"
    # With one class, nothing is missing: what the score leaves is the background.
    is_incomplete = False in with_probabilities and len(reading.class_names) > 1
    warnings = (_describe_missing_probabilities(),) if is_incomplete else ()
    return Predictions(rows, reading.class_names, digest.hexdigest(), probabilities, warnings)


def _describe_missing_probabilities() -> str:
    others = [name for name in scores.TABLE if name not in scores.OF_PROBABILITIES]
    return (
        f"The predictions have no class probabilities, so {', '.join(scores.OF_PROBABILITIES)} use only the detection "
        f"confidence. Add probabilities, or set CORAL_SCORE to one of {', '.join(others)}."
    )


def _check_repetitions(batch: Batch, uri_of: dict[str, str]) -> None:
    """Refuses repeated images.

    Args:
        batch: The next batch.
        uri_of: The file of each image so far, by file name. The images of the batch are added.

    Raises:
        SettingsError: If an image of the batch is repeated.
    """
    problems = Problems()
    for image in batch.images:
        if (earlier := uri_of.get(image.file_name)) is not None:
            repetition = "appears twice" if earlier == image.uri else f"is also in {earlier}"
            problems.add(image.uri, f"{image} {repetition}. Give each image once.")
        uri_of[image.file_name] = image.uri
    problems.raise_if_any()


def _open(
    uri: str, classes: tuple[str, ...] | None, stop: threading.Event, update_digest: Callable[[bytes], None]
) -> Reading:
    try:
        location = Location.parse(uri)
    except ValueError as error:
        raise SettingsError(f"CORAL_PREDICTIONS={uri!r} {error}.") from None
    parent_location, name = location.split()
    if name:
        parent = open_location(parent_location, stop=stop)
        if parent.stat(name) is not None:
            data = read_required(parent, name)
            update_digest(data)
            return _read_file(data, location.normalized, classes)
    folder = open_location(location, stop=stop)
    if (task_folder := lightly.find_task_folder(folder, stop)) is None:
        raise _unsupported(location.normalized, _describe(location.normalized, folder))
    return lightly.read(task_folder, classes, stop, update_digest)


def _read_file(data: bytes, uri: str, classes: tuple[str, ...] | None) -> Reading:
    if data.startswith(b"PAR1"):
        return parquet.read(data, uri, classes)
    try:
        content: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _unsupported(uri, f"is neither Parquet nor JSON ({error})") from None
    if isinstance(content, dict) and not content.keys().isdisjoint(("images", "annotations")):
        return coco.read(content, uri, classes)
    if isinstance(content, list) and all(isinstance(entry, dict) and "image_id" in entry for entry in content):
        raise SettingsError(
            f"CORAL_PREDICTIONS={uri!r} is a list of COCO results, which has no file names. Merge it with its data set "
            'into one file: {"images": its images, "categories": its categories, "annotations": this list}.'
        )
    if isinstance(content, dict) and not content.keys().isdisjoint(("predictions", "task_type")):
        raise _unsupported(uri, "looks like one file of Lightly's format. Give the folder")
    raise _unsupported(uri, f"is JSON with other content: {shorten(content)}")


def _describe(uri: str, folder: Storage) -> str:
    try:
        first = next(folder.list(), None)
    except SettingsError as error:
        raise SettingsError(f"CORAL_PREDICTIONS={uri!r} does not exist: {error}") from None
    return "is a folder with neither schema.json nor tasks.json" if first else "is neither a file nor a folder of files"


def _unsupported(uri: str, problem: str) -> SettingsError:
    return SettingsError(f"CORAL_PREDICTIONS={uri!r} {problem}. {_FORMATS}")
