"""Writes predictions of other detectors into parts, so that the reduce step works on them as on the job's own."""

import logging
from collections.abc import Iterable
from dataclasses import replace

from job import external, inputs, parts
from job.context import Run
from job.detect.imported import Imported
from job.embed import from_file
from job.errors import TryAgain
from job.external.boxes import check_boxes
from job.external.layouts import Layout
from job.inputs.match import Match, compare
from job.parts import Provenance, Row, listings
from job.settings import Settings
from job.settings.choices import NONE
from job.shards import Shard
from job.storage import Entry, Listing, Storage

logger = logging.getLogger(__name__)


def import_predictions(run: Run) -> Listing:
    """Reads CORAL_PREDICTIONS and writes it into parts.

    The images are those of CORAL_INPUT. Predictions of other images are left out, and an image without predictions gets
    a row that says so. With CORAL_PREDICTIONS=none, CORAL_EMBEDDING takes their place, and rows have no detections.

    Returns:
        The listing of the images.

    Raises:
        SettingsError: If the predictions are invalid, if they are of none of the images, if their boxes cannot be those
            of the images, or if the output holds other detections.
    """
    settings, output = run.settings, run.output
    without_detector = settings.predictions == NONE
    files = inputs.list_names(settings, run.stop.requested)
    images = external.InputImages(settings, files, run.stop.requested)
    layout: Layout | None = None
    if without_detector:
        rows, provenance = _read_images(settings.embedding)
    else:
        rows, layout, provenance = _read_predictions(run, images)
    run.class_names = provenance.class_names
    kind, noun = ("embeddings", "embedding") if without_detector else ("predictions", "prediction")
    match = run.accept(kind, compare_rows(settings, files, (row.file_name for row in rows)))
    if without := match.describe_without(noun):
        logger.warning(without)
    for doubt in check_boxes(rows, layout, match, images):
        logger.warning(doubt)
    times = {file.key: file for file in files if file.etag}  # of frames
    rows = [_add_file(row, times.get(row.file_name)) for row in rename_rows(rows, match, noun)]
    listing = Listing.from_entries(Entry(row.file_name, row.etag, row.byte_size) for row in rows)
    done = parts.find_done(output, provenance)
    if warning := inputs.describe_replaced(done, listing, Shard()):
        logger.warning(warning)
    remaining = [row for row in rows if (row.file_name, row.etag) not in done]
    listings.begin(output, Shard(0, 1))
    part_size = settings.part_size or parts.choose_size(len(rows))
    for start in range(0, len(remaining), part_size):
        parts.write(output, remaining[start : start + part_size], provenance)
    listings.finish(output, Shard(0, 1), listing)
    logger.info("Imported %s for %d of %d images.", kind, match.counts["matched"], len(rows))
    return listing


def import_for_images(run: Run, files: Listing, shard: Shard) -> Imported:
    """Reads CORAL_PREDICTIONS for images that will be read to embed them.

    Args:
        run: The run, which takes note of what the predictions are.
        files: All images of CORAL_INPUT.
        shard: The shard whose images are read.

    Raises:
        SettingsError: If the predictions are invalid, if they are of none of the images, or if their boxes cannot be
            those of the images.
    """
    rows: list[Row] | None = None
    if run.settings.predictions == NONE:
        provenance = describe_embeddings("")
    else:
        images = external.InputImages(run.settings, files, run.stop.requested, shard.owns)
        rows, layout, provenance = _read_predictions(run, images)
        match = run.accept("predictions", compare_rows(run.settings, files, (row.file_name for row in rows)))
        if without := match.describe_without("prediction"):
            logger.warning(without)
        for doubt in check_boxes(rows, layout, match, images):
            logger.warning(doubt)
        rows = rename_rows(rows, match, "prediction")
    run.class_names, run.imported = provenance.class_names, provenance
    return attach(rows, provenance, files, shard)


def attach(rows: list[Row] | None, provenance: Provenance, files: Listing, shard: Shard) -> Imported:
    """Gives the rows of a shard the ETags of their files, so that an image that changes is read again.

    Args:
        rows: A row for each image of CORAL_INPUT; None if there are no detections.
        provenance: What they were made with.
        files: All images of CORAL_INPUT.
        shard: The shard.
    """
    if rows is None:
        rows = [Row.undetected(file.key) for file in files if shard.owns(file.key)]
    file_of = {file.key: file for file in files if shard.owns(file.key)}
    attached = [_add_file(row, file_of[row.file_name]) for row in rows if row.file_name in file_of]
    return Imported({row.file_name: row for row in attached}, provenance)


def _add_file(row: Row, file: Entry | None) -> Row:
    """Gives a row the ETag and the size of its file, unless that is unknown or there are no predictions of it."""
    if file is None or row.status == "absent":
        return row
    name = row.etag.removeprefix(parts.RENAMED)
    etag = parts.renamed_etag(name, file.etag) if row.etag else file.etag
    return replace(row, etag=etag, byte_size=file.size)


def find_embedded(run: Run) -> Listing | None:
    """Finds the images that `predict` has embedded, and checks that their rows are of CORAL_PREDICTIONS.

    Returns:
        The listing of all shards; None if the settings need no embeddings of images, and the output has none.

    Raises:
        TryAgain: If a shard has not finished.
        SettingsError: If the predictions are invalid, or if they are of none of the images.
    """
    settings, output = run.settings, run.output
    if not settings.embeds_images and not _has_embedder(output):
        return None
    try:
        listing = listings.read(output, settings.shard_count, allow_missing=settings.allow_missing)
    except TryAgain as error:
        raise TryAgain(
            f"{error} CORAL_PREDICTIONS provides no embeddings, and CORAL_EMBEDDING={settings.embedding!r} makes them "
            "from the images in `predict` or `run`. To select without images, set CORAL_EMBEDDING to a file of "
            "embeddings, or CORAL_STRATEGY to active_learning or random."
        ) from None
    provenance = describe_embeddings("")
    if settings.predictions != NONE:
        images = external.InputImages(settings, listing, run.stop.requested, lambda _: False)
        rows, _, provenance = _read_predictions(run, images)
        if not settings.allow_missing:  # other predictions may be of the images of a missing shard
            run.accept("predictions", compare_rows(settings, listing, (row.file_name for row in rows)))
    run.class_names, run.imported = provenance.class_names, provenance
    return listing


def _has_embedder(output: Storage) -> bool:
    first = next(iter(parts.list_files(output)), None)
    found = parts.read(output, ["key"], names={first.key} if first else set())
    return any(part.provenance.embedder for part in found)


def compare_rows(settings: Settings, files: Listing, names: Iterable[str]) -> Match:
    """Compares the images that have predictions, or else embeddings, with those of CORAL_INPUT.

    Args:
        settings: The settings.
        files: The images of CORAL_INPUT.
        names: Names of the images that have predictions or embeddings.

    Raises:
        SettingsError: If none of them is in CORAL_INPUT, or an image is named twice.
    """
    without_detector = settings.predictions == NONE
    name, uri = ("EMBEDDING", settings.embedding) if without_detector else ("PREDICTIONS", settings.predictions)
    match = compare(f"CORAL_{name}={uri!r}", names, files, settings.input)
    match.require_any()
    match.require_distinct()
    return match


def rename_rows(rows: list[Row], match: Match, noun: str) -> list[Row]:
    """Gives rows the names of their files, leaves out those without a file, and adds those of all other files.

    The ETag says how a row came to its file: a later run with other names makes other rows.
    """
    renamed = []
    for row in rows:
        file_name = match.file_names.get(row.file_name)
        if file_name == row.file_name:
            renamed.append(row)
        elif file_name is not None:
            renamed.append(replace(row, file_name=file_name, etag=parts.RENAMED + row.file_name))
    reason = f"no {noun} in {match.setting.partition('=')[0]}"
    absent = [Row(file_name, "absent", 0, "absent", reason) for file_name in match.without]
    return sorted(renamed + absent, key=lambda row: row.file_name.encode())


def _read_predictions(run: Run, images: external.InputImages) -> tuple[list[Row], Layout | None, Provenance]:
    settings = run.settings
    predictions = external.read(
        str(settings.predictions),
        settings.classes,
        stop=run.stop.requested,
        min_score=settings.score_threshold,
        images=images,
    )
    for warning in predictions.warnings:
        logger.warning("%s", warning)
    return predictions.rows, predictions.layout, describe_predictions(settings, predictions)


def describe_predictions(settings: Settings, predictions: external.Predictions) -> Provenance:
    """What the parts of imported predictions depend on."""
    return Provenance(
        config_sha256=f"min_score={settings.score_threshold!r}",
        weights_sha256=predictions.sha256,
        precision="",
        probabilities=predictions.probabilities,
        class_names=predictions.class_names,
    )


def describe_embeddings(sha256: str) -> Provenance:
    """What the parts depend on if there are embeddings alone.

    Args:
        sha256: SHA-256 of the file of embeddings; empty if the images are embedded.
    """
    return Provenance(
        config_sha256="", weights_sha256=sha256, precision="", probabilities=parts.NO_DETECTOR, class_names=()
    )


def _read_images(embedding: str) -> tuple[list[Row], Provenance]:
    names, _, digest = from_file.read(embedding)
    return [Row.undetected(name) for name in sorted(names, key=str.encode)], describe_embeddings(digest)
