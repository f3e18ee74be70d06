"""Detections made elsewhere, taken into parts, so that the reduce step works on them as on the job's own."""

import logging

from job import external, parts
from job.context import Run
from job.embed import from_file
from job.errors import SettingsError
from job.parts import Provenance, Row, listings
from job.settings.resolve import NONE
from job.shards import Shard
from job.storage import Entry, Listing

logger = logging.getLogger(__name__)


def take_in(run: Run) -> Listing:
    """Reads CORAL_PREDICTIONS, writes it into parts, and returns the listing of its images.

    Raises:
        SettingsError: Something in it is wrong, or the output holds other detections.
    """
    settings, output = run.settings, run.output
    rows, made_with = _without_detector(settings.embedding) if settings.predictions == NONE else _read(run)
    listing = Listing.of(Entry(row.file_name, row.etag, row.byte_size) for row in rows)
    done = parts.find_done(output, made_with)
    left = [row for row in rows if (row.file_name, row.etag) not in done]
    listings.begin(output, Shard(0, 1))
    for start in range(0, len(left), settings.part_size):
        parts.write(output, left[start : start + settings.part_size], made_with)
    listings.finish(output, Shard(0, 1), listing)
    logger.info("Took in %d images with their predictions.", len(rows))
    return listing


def _read(run: Run) -> tuple[list[Row], Provenance]:
    settings = run.settings
    found = external.read(
        str(settings.predictions), settings.classes, stop=run.stop.requested, min_score=settings.score_threshold
    )
    threshold = f"min_score={settings.score_threshold!r}"
    return found.rows, Provenance(threshold, found.sha256, "", found.probabilities, found.class_names)


def _without_detector(embedding: str) -> tuple[list[Row], Provenance]:
    names, _, digest = from_file.read(embedding)
    if not names:
        raise SettingsError(f"CORAL_EMBEDDING={embedding!r} is empty.")
    rows = [Row.undetected(name) for name in sorted(names, key=str.encode)]
    return rows, Provenance("", digest, "", parts.NO_DETECTOR, ())
