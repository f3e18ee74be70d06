"""Writes the exports to the output: ``exports/`` for the picks, ``predictions/coco.json`` for all images."""

import io
import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from job.context import Selected
from job.exports import coco, copies, table
from job.exports.detected import DetectedImage, Export, make_detected_image
from job.exports.format import Format
from job.exports.lightly import task_name
from job.exports.prelabels import MAX_IOU, Counts, PreLabels, make_pre_labels
from job.exports.uris import to_task_uri
from job.exports.xml import can_represent
from job.parts.boxes import Detections, detections_by_part
from job.parts.owned import OwnedOutput
from job.parts.pool import Pool
from job.spool import Spool, SpooledBytes
from job.storage import Storage

logger = logging.getLogger(__name__)

FOLDER = "exports/"
ALL_IMAGES = "predictions/coco.json"
_ALL_BOXES = PreLabels()


def write(
    output: OwnedOutput,
    pool: Pool,
    picks: Sequence[str],
    uri_of: Callable[[str], str],
    detections: Mapping[str, Detections],
    formats: Collection[str],
    rules: PreLabels = _ALL_BOXES,
    task_uri_of: Callable[[str], str] | None = None,
    selected: Sequence[Selected] = (),
) -> None:
    """Writes the picks in some formats, and removes what an earlier run wrote in any format.

    Args:
        output: Folder of the results.
        pool: The images.
        picks: File names of the picks, best first.
        uri_of: Converts a file name to the URI of the image; see `job.exports.uris`.
        detections: Detections on the picks, by file name.
        formats: Names in `job.exports.table.FORMATS`.
        rules: Which boxes become pre-labels, and the names of their classes.
        task_uri_of: Converts a file name to the address of the image in Label Studio; made from `uri_of` by default.
        selected: How the picks are described in the results.

    Raises:
        JobError: If the output cannot be used.
    """
    counts = Counts()
    images = [
        make_pre_labels(pool, row, uri_of(name), detections[name], rules, counts)
        for name, row in zip(picks, pool.file_names.find(picks).tolist(), strict=True)
    ]
    requested = [table.FORMATS[name] for name in formats]
    if requested:
        _log_boxes(counts, rules)
        _warn(images, requested)
    class_names, _ = rules.name_classes(pool.provenance.class_names)
    task_uri_of = task_uri_of or (lambda file_name: to_task_uri(uri_of(file_name)))
    export = Export(
        images, class_names, task_name(pool.provenance), task_uri_of, {pick.file_name: pick for pick in selected}
    )
    files = {FOLDER + path: content for entry in requested for path, content in entry.render(export)}
    output.write_all(files, FOLDER, keeps=[copies.LIST])


def remove(output: OwnedOutput) -> None:
    """Removes what an earlier run wrote in any format, for a run without detections.

    Raises:
        JobError: If the output cannot be used.
    """
    output.write_all({}, FOLDER, keeps=[copies.LIST])


def write_all_images(
    output: Storage, pool: Pool, uri_of: Callable[[str], str], *, with_probabilities: bool = True
) -> None:
    """Writes the detections on all usable images in COCO's format, in the order of the pool.

    Parts are read one by one, and nothing of them is kept in memory: how parts are cut and ordered varies from run to
    run, so their annotations wait in a temporary file, as large as the result.

    Args:
        output: Folder of the results.
        pool: The images.
        uri_of: Converts a file name to the URI of the image; see `job.exports.uris`.
        with_probabilities: Whether to write the class probabilities.

    Raises:
        JobError: If a part cannot be read, or the file cannot be written.
    """
    row = {file_name: number for number, file_name in enumerate(pool.file_names)}
    entries = (
        coco.make_entry(number, file_name, uri_of(file_name), width, height)
        for number, (file_name, (width, height)) in enumerate(
            zip(pool.file_names, pool.size.tolist(), strict=True), start=1
        )
    )
    num_kept = num_cut = num_dropped = 0
    lines = SpooledBytes(len(row))
    for _, by_file_name in detections_by_part(output, pool, range(len(pool.file_names))):
        for file_name, detections in by_file_name.items():
            number = row[file_name]
            image = make_detected_image(pool, number, "", detections, with_probabilities=with_probabilities)
            lines.write(number, b"\n".join(coco.render_annotations(image)))
            num_kept, num_cut = num_kept + len(image.boxes), num_cut + image.num_cut
            num_dropped += image.num_dropped
    if num_cut or num_dropped:
        logger.info(
            "%s: %d of %d boxes were cut at the edge of their image, and %d outside it or empty were left out.",
            ALL_IMAGES,
            num_cut,
            num_dropped + num_kept,
            num_dropped,
        )
    content = Spool()
    writer = io.BufferedWriter(content.file)
    coco.write(writer, pool.provenance.class_names, task_name(pool.provenance), entries, map(bytes.splitlines, lines))
    writer.flush()
    writer.detach()
    output.write(ALL_IMAGES, content)


def _log_boxes(counts: Counts, rules: PreLabels) -> None:
    """Says what became of the boxes of the picks; a warning if a box has no place in its image."""
    logger.log(
        logging.WARNING if counts.outside else logging.INFO,
        "%d of %d boxes on the picks are in the exports; %d of these were cut at the edge of their image. Left out: "
        "%d below CORAL_EXPORT_MIN_SCORE=%g, %d that repeat a box of higher confidence (IoU above %g), %d outside "
        "their image or empty.",
        counts.kept,
        counts.boxes,
        counts.cut,
        counts.low,
        rules.min_score,
        counts.repeated,
        MAX_IOU,
        counts.outside,
    )


def _warn(images: list[DetectedImage], formats: Sequence[Format]) -> None:
    unsized = sum(not image.has_size for image in images)
    unnamed = sum(not can_represent(image.file_name, image.uri) for image in images)
    left_out = [entry.name for entry in formats if entry.unsized == "left out"]
    without_boxes = [entry.name for entry in formats if entry.unsized == "without boxes"]
    xml = [entry.name for entry in formats if entry.is_xml]
    for count, names, problem in (
        (unsized, left_out, "have unknown width and height and are left out of"),
        (unsized, without_boxes, "have unknown width and height and have no boxes in"),
        (unnamed, xml, "have names that XML cannot represent and are left out of"),
    ):
        if count and names:
            logger.warning("%d of %d picks %s %s.", count, len(images), problem, ", ".join(names))
