"""Writes predictions of other detectors into parts, so that the reduce step works on them as on the job's own."""

import logging

from job import external, parts
from job.context import Run
from job.embed import from_file
from job.parts import Provenance, Row, listings
from job.settings.resolve import NONE
from job.shards import Shard
from job.storage import Entry, Listing

logger = logging.getLogger(__name__)


def import_predictions(run: Run) -> Listing:
    """Reads CORAL_PREDICTIONS and writes it into parts.

    With CORAL_PREDICTIONS=none, the images are those of CORAL_EMBEDDING, and their rows have no detections.

    Returns:
        The listing of the images.

    Raises:
        SettingsError: If the predictions are invalid, or the output holds other detections.
    """
    settings, output = run.settings, run.output
    without_detector = settings.predictions == NONE
    rows, provenance = _read_images(settings.embedding) if without_detector else _read_predictions(run)
    run.class_names = provenance.class_names
    listing = Listing.from_entries(Entry(row.file_name, row.etag, row.byte_size) for row in rows)
    done = parts.find_done(output, provenance)
    remaining = [row for row in rows if (row.file_name, row.etag) not in done]
    listings.begin(output, Shard(0, 1))
    for start in range(0, len(remaining), settings.part_size):
        parts.write(output, remaining[start : start + settings.part_size], provenance)
    listings.finish(output, Shard(0, 1), listing)
    logger.info("Imported %s for %d images.", "embeddings" if without_detector else "predictions", len(rows))
    return listing


def _read_predictions(run: Run) -> tuple[list[Row], Provenance]:
    settings = run.settings
    predictions = external.read(
        str(settings.predictions),
        settings.classes,
        stop=run.stop.requested,
        min_score=settings.score_threshold,
        images=external.InputImages(settings, run.stop.requested),
    )
    for warning in predictions.warnings:
        logger.warning("%s", warning)
    provenance = Provenance(
        config_sha256=f"min_score={settings.score_threshold!r}",
        weights_sha256=predictions.sha256,
        precision="",
        probabilities=predictions.probabilities,
        class_names=predictions.class_names,
    )
    return predictions.rows, provenance


def _read_images(embedding: str) -> tuple[list[Row], Provenance]:
    names, _, digest = from_file.read(embedding)
    rows = [Row.undetected(name) for name in sorted(names, key=str.encode)]
    provenance = Provenance(
        config_sha256="", weights_sha256=digest, precision="", probabilities=parts.NO_DETECTOR, class_names=()
    )
    return rows, provenance
