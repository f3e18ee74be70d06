"""Exports in the output: ``exports/`` for the picks, ``predictions/coco.json`` for all images."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from job.exports import coco, cvat, fiftyone, label_studio, voc, yolo
from job.exports.detected import DetectedImage, Export, detected
from job.exports.lightly import task_name
from job.exports.xml import can_hold
from job.parts import pool as pools
from job.parts.pool import Detections, Pool
from job.prefetch import prefetch
from job.storage import Storage

logger = logging.getLogger(__name__)

FOLDER = "exports/"
ALL = "predictions/coco.json"
_FORMATS: dict[str, Callable[[Export], Iterator[tuple[str, bytes]]]] = {
    "coco": coco.files,
    "yolo": yolo.files,
    "voc": voc.files,
    "label_studio": label_studio.files,
    "cvat": cvat.files,
    "fiftyone": fiftyone.files,
}
FORMATS = tuple(_FORMATS)
_NEED_SIZES = ("yolo", "voc", "cvat", "fiftyone")
_WITHOUT_BOXES = ("label_studio",)
_ARE_XML = ("voc", "cvat")
# All that a run can leave. Nothing else in the folder is touched: it may be an annotator's work, or a link to images.
_SINGLE_FILES = (
    *("coco.json", "label_studio.json", "label_studio.xml", "cvat.xml", "fiftyone/labels.json", "fiftyone/data.json"),
    *("yolo/data.yaml", "yolo/train.txt", "yolo/images.jsonl"),
)
_FILES_BY_IMAGE = {"yolo/labels/": ".txt", "voc/": ".xml"}
_SIMULTANEOUS = 32


def write(
    output: Storage,
    pool: Pool,
    picks: Sequence[str],
    uri_of: Callable[[str], str],
    detections: Mapping[str, Detections],
    formats: Sequence[str],
) -> None:
    """Writes the picks in some formats, and removes what an earlier run has left of these and all others.

    Args:
        output: Folder of the results.
        pool: The images.
        picks: File names, best first.
        uri_of: From a file name to where the image is; see `job.exports.uris`.
        detections: On the picks, by file name.
        formats: Some of `FORMATS`.

    Raises:
        JobError: The output cannot be used.
    """
    row = {key: number for number, key in enumerate(pool.file_names)}
    images = [detected(pool, row[name], uri_of(name), detections[name]) for name in picks]
    _warn(images, formats)
    export = Export(images, pool.provenance.class_names, task_name(pool.provenance))
    files = {FOLDER + key: content for name in formats for key, content in _FORMATS[name](export)}
    with ThreadPoolExecutor(_SIMULTANEOUS, thread_name_prefix="exports") as executor:
        for _ in prefetch(executor, output.delete, _stale(output, set(files)), ahead=4 * _SIMULTANEOUS):
            pass
        for _ in prefetch(executor, lambda item: output.write(*item), files.items(), ahead=4 * _SIMULTANEOUS):
            pass


def write_all_coco(output: Storage, pool: Pool, uri_of: Callable[[str], str]) -> None:
    """Writes the detections on all usable images in COCO's format, in the order of the pool.

    Parts are read one after the other; of them all, boxes and the text of the file are held in memory.

    Raises:
        JobError: A part cannot be read, or the file cannot be written.
    """
    row = {key: number for number, key in enumerate(pool.file_names)}
    parts = pools.detections_by_part(output, pool, range(len(pool.file_names)))
    images = [detected(pool, row[name], "", found) for _, here in parts for name, found in here.items()]
    images.sort(key=lambda each: each.number)  # parts are cut, and ordered, in other ways from run to run
    entries = (
        coco.entry(number, name, uri_of(name), width, height)
        for number, (name, (width, height)) in enumerate(zip(pool.file_names, pool.size.tolist(), strict=True), start=1)
    )
    model = task_name(pool.provenance)
    output.write(ALL, coco.document(pool.provenance.class_names, model, entries, images))


def _warn(images: list[DetectedImage], formats: Sequence[str]) -> None:
    unsized = sum(not each.has_size for each in images)
    unnamed = sum(not can_hold(each.name, each.uri) for each in images)
    for count, concerned, problem in (
        (unsized, _NEED_SIZES, "have no known width and height: they are left out of"),
        (unsized, _WITHOUT_BOXES, "have no known width and height: they have no boxes in"),
        (unnamed, _ARE_XML, "have names that XML cannot hold: they are left out of"),
    ):
        if count and (names := [name for name in formats if name in concerned]):
            logger.warning("%d of %d picks %s %s.", count, len(images), problem, ", ".join(names))


def _stale(output: Storage, expected: set[str]) -> list[str]:
    found = [FOLDER + name for name in _SINGLE_FILES]
    for folder, suffix in _FILES_BY_IMAGE.items():
        found += {each.key for each in output.list(FOLDER + folder) if each.key.endswith(suffix)}
    return [key for key in found if key not in expected]
