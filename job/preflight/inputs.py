"""What goes in: which images, which of them have labels, and what is known of them already."""

import pyarrow.compute as pc

from job import external, inputs, shards
from job.parts import previous
from job.preflight.check import Findings, Known, Warn, amount
from job.settings.resolve import NONE
from job.storage import Entry, Listing, open_source


def shard(known: Known) -> Findings:
    """Which share of the images this process does, and who says so."""
    settings, environment = known.settings, known.environment
    known.shard = shards.detect(environment, settings.shard_index, settings.shard_count)
    platform = next((each for each in shards.PLATFORMS if environment.get(each.index)), None)
    if settings.shard_index is not None:
        over = f", which wins over {platform.index}" if platform else ""
        yield f"{known.shard.index} of {known.shard.count} by CORAL_SHARD_INDEX{over}"
    elif platform:
        yield f"{known.shard.index} of {known.shard.count} by {platform.index} ({platform.name})"
    else:
        yield "this process does all images"
        for each in shards.PLATFORMS:
            if each.count and environment.get(each.count):
                yield Warn(
                    f"{each.count}={environment[each.count]} ({each.name}) is set, but {each.index} is not, so each "
                    "process would do all images: set that, or CORAL_SHARD_INDEX and CORAL_SHARD_COUNT."
                )


def images(known: Known) -> Findings:
    """The images of this shard: that they are there, and can be read."""
    source = open_source(known.settings.input, known.stop.requested)
    listing = inputs.list_images(known.settings, source, known.shard)
    inputs.probe(source, listing)
    known.source, known.listing = source, listing
    if len(listing):
        yield f"{len(listing)} images, {size_of(listing)}"
    else:
        yield Warn(f"None of them falls to this shard, of {known.shard.count}: take fewer shards.")


def size_of(listing: Listing) -> str:
    """Bytes of all files, for people; those of a list that says nothing of them count as none."""
    return amount(pc.sum(listing.table["byte_size"]).as_py() or 0)


def labelled(known: Known) -> Findings:
    """The list of images that have labels."""
    if known.settings.labelled and known.listing is not None:
        names = inputs.read_labelled(known.settings.labelled, known.listing, known.shard)
        yield f"{len(names)} names in {known.settings.labelled}"


def previous_run(known: Known) -> Findings:
    """Whose detections are taken over."""
    if known.settings.previous:
        yield f"{previous.open_output(known.settings.previous).uri} has parts of an earlier run"


def predictions(known: Known) -> Findings:
    """Detections made elsewhere, which say what images there are."""
    settings = known.settings
    if settings.predictions and settings.predictions != NONE:
        found = external.read(
            settings.predictions, settings.classes, stop=known.stop.requested, min_score=settings.score_threshold
        )
        known.listing = Listing.of(Entry(row.file_name, row.etag, row.byte_size) for row in found.rows)
        yield f"{len(found.rows)} images with boxes of {len(found.class_names)} classes"
