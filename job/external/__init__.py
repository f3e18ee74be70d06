"""Predictions that were made elsewhere, as rows of parts, so that `select` works on them as on the job's own.

What lies at the URI says which format it is:

- a file that begins with ``PAR1``: Parquet, see `job.external.parquet`;
- a JSON file with images, categories and annotations: COCO, see `job.external.coco`;
- a folder with schema.json, or with a tasks.json of one task: Lightly's, see `job.external.lightly`.

Boxes are in pixels of the image after its EXIF orientation, as everywhere. Nothing here needs torch.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from job import parts
from job.errors import SettingsError, Stopped
from job.external import coco, lightly, parquet
from job.external.batch import MIXED, Batch, Reading, rows_of
from job.external.problems import Problems, shown
from job.stopping import MESSAGE
from job.storage import Storage, open_location, read_required
from job.uris import Location

_FORMATS = (
    "Known are a COCO JSON file (an object with images, categories and annotations), a folder of Lightly's predictions "
    "(of one task, with schema.json, or .lightly/predictions, with tasks.json), and a Parquet file (with the columns "
    "file_name, boxes, scores and classes)."
)


@dataclass(frozen=True)
class Predictions:
    """What a detector elsewhere has found.

    Attributes:
        rows: One an image, sorted bytewise by key, with status ``ok``, an empty etag and thumbnail, byte_size 0 and no
            feature; width and height are None where they are not known. Boxes are sorted by falling score.
        class_names: By class index.
        sha256: Of the file; of Lightly's format, of the names and digests of the task's files.
        probabilities: ``external`` where class probabilities were given, ``synthetic`` otherwise; see
            `job.external.distributions`.
    """

    rows: list[parts.Row]
    class_names: tuple[str, ...]
    sha256: str
    probabilities: str


def read(uri: str, classes: tuple[str, ...] | None, *, stop: threading.Event, min_score: float = 0.0) -> Predictions:
    """Reads predictions of any known format.

    Args:
        uri: A path, or a URI of a bucket.
        classes: CORAL_CLASSES, by class index. Needed where the predictions do not name their classes; where they do,
            it must say the same.
        stop: When set, the reading ends.
        min_score: Boxes of a lower score are left out.

    Raises:
        SettingsError: They are of no known format, or something in them is wrong.
        AccessDenied: A file may not be read.
        ServiceUnavailable: A file cannot be read.
        Stopped: `stop` is set.
    """
    digest = hashlib.sha256()
    reading = _open(uri, classes, stop, digest.update)
    rows: list[parts.Row] = []
    names: dict[str, str] = {}
    given: set[bool] = set()
    for batch in reading.batches:
        if stop.is_set():
            raise Stopped(MESSAGE)
        _check_names(batch, names)
        if len(batch.scores):
            given.add(batch.probabilities is not None)
        if len(given) > 1:
            raise SettingsError(f"CORAL_PREDICTIONS={uri!r}: {MIXED}")
        rows += rows_of(batch, len(reading.class_names), min_score)
    if not rows:
        raise SettingsError(f"CORAL_PREDICTIONS={uri!r} has no images in it: give an entry for each image of the pool.")
    rows.sort(key=lambda row: row.file_name.encode())
    return Predictions(rows, reading.class_names, digest.hexdigest(), "external" if True in given else "synthetic")


def _check_names(batch: Batch, names: dict[str, str]) -> None:
    """Refuses an image that came before; `names` has the file of each that did, and gets those of the batch."""
    problems = Problems()
    for each in batch.images:
        if (before := names.get(each.name)) is not None:
            both = "twice" if before == each.where else f"and so does {before}"
            problems.add(each.where, f"it has {each}, {both}: give each image once.")
        names[each.name] = each.where
    problems.settle()


def _open(uri: str, classes: tuple[str, ...] | None, stop: threading.Event, note: Callable[[bytes], None]) -> Reading:
    try:
        location = Location.of(uri)
    except ValueError as error:
        raise SettingsError(f"CORAL_PREDICTIONS={uri!r} {error}.") from None
    folder, name = location.split()
    if name:
        beside = open_location(folder, stop=stop)
        if beside.stat(name) is not None:
            data = read_required(beside, name)
            note(data)
            return _of_file(data, location.normal, classes)
    here = open_location(location, stop=stop)
    if (task := lightly.task_folder(here, stop)) is None:
        raise _unknown(location.normal, _what_else(location.normal, here))
    return lightly.read(task, classes, stop, note)


def _of_file(data: bytes, where: str, classes: tuple[str, ...] | None) -> Reading:
    if data.startswith(b"PAR1"):
        return parquet.read(data, where, classes)
    try:
        content: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _unknown(where, f"is neither Parquet nor JSON ({error})") from None
    if isinstance(content, dict) and not content.keys().isdisjoint(("images", "annotations")):
        return coco.read(content, where, classes)
    if isinstance(content, list) and all(isinstance(each, dict) and "image_id" in each for each in content):
        raise SettingsError(
            f"CORAL_PREDICTIONS={where!r} is a list of COCO results, in which images have no names: make one file of "
            'them and of the data set that they are about: {"images": its images, "categories": its categories, '
            '"annotations": this list}.'
        )
    if isinstance(content, dict) and not content.keys().isdisjoint(("predictions", "task_type")):
        raise _unknown(where, "looks like one file of Lightly's predictions: name the folder")
    raise _unknown(where, f"is JSON of another kind, {shown(content)}")


def _what_else(uri: str, folder: Storage) -> str:
    try:
        found = next(folder.list(), None)
    except SettingsError as error:
        raise SettingsError(f"CORAL_PREDICTIONS={uri!r} is not there: {error}") from None
    return "is a folder with neither schema.json nor tasks.json" if found else "is no file, nor a folder of files"


def _unknown(uri: str, what: str) -> SettingsError:
    return SettingsError(f"CORAL_PREDICTIONS={uri!r} {what}. {_FORMATS}")
