"""Checks of what goes in: the shard, its images, and the files that name images."""

import pyarrow.compute as pc

from job import columns, external, inputs, shards
from job import metadata as image_metadata
from job.embed import METHODS, from_file
from job.names import list_first
from job.parts import previous
from job.preflight.check import Findings, State, Warn, format_bytes
from job.settings.resolve import NONE
from job.storage import Entry, Listing, open_source


def shard(state: State) -> Findings:
    """Which shard this process runs, and which variable says so."""
    settings, environment = state.settings, state.environment
    if settings.predictions:
        return
    state.shard = shards.detect(environment, settings.shard_index, settings.shard_count)
    scheduler = next((known for known in shards.SCHEDULERS if environment.get(known.index)), None)
    if settings.shard_index is not None:
        ignored = f"; {scheduler.index} is ignored" if scheduler else ""
        yield f"{state.shard.index} of {state.shard.count}, from CORAL_SHARD_INDEX{ignored}"
    elif scheduler:
        yield f"{state.shard.index} of {state.shard.count}, from {scheduler.index} ({scheduler.name})"
    else:
        yield "this process runs all images"
        for known in shards.SCHEDULERS:
            if known.count and environment.get(known.count):
                yield Warn(
                    f"{known.count}={environment[known.count]} ({known.name}) is set, but {known.index} is not, so "
                    f"every process would run all images: set {known.index}, or CORAL_SHARD_INDEX and "
                    "CORAL_SHARD_COUNT."
                )


def images(state: State) -> Findings:
    """The images of this shard exist and can be read."""
    if state.settings.predictions:
        return
    source = open_source(state.settings.input, state.stop.requested)
    listing = inputs.list_images(state.settings, source, state.shard)
    inputs.probe(source, listing)
    state.source, state.listing = source, listing
    if len(listing):
        yield f"{len(listing)} images, {format_size(listing)}"
    else:
        yield Warn(f"No images in this shard (of {state.shard.count}): use fewer shards.")


def format_size(listing: Listing) -> str:
    """Total size of all files, for people; files of unknown size count as 0 bytes."""
    return format_bytes(pc.sum(listing.table["byte_size"]).as_py() or 0)


def predictions(state: State) -> Findings:
    """Predictions from another detector, which also say what images there are."""
    settings = state.settings
    if settings.predictions and settings.predictions != NONE:
        content = external.read(
            settings.predictions,
            settings.classes,
            stop=state.stop.requested,
            min_score=settings.score_threshold,
            images=external.InputImages(settings, state.stop.requested),
        )
        state.listing = Listing.from_entries(Entry(row.file_name, row.etag, row.byte_size) for row in content.rows)
        state.class_names = names = content.class_names
        yield f"{len(content.rows)} images with boxes of {len(names)} classes ({list_first(names)})"
        yield from map(Warn, content.warnings)


def lightly_names(state: State) -> Findings:
    """The Lightly platform accepts the file names."""
    if state.platform is None or state.listing is None:
        return
    from job.lightly import images as lightly_images  # it takes seconds to import

    names = (entry.key for entry in state.listing)
    refused = lightly_images.find_refused(names, state.settings.max_failed)
    if refused:
        yield f"all file names but {len(refused)}, which lightly.json will list"
    else:
        yield "all file names are accepted"


def labelled(state: State) -> Findings:
    """The list of images that have labels."""
    if state.settings.labelled and state.listing is not None:
        names = inputs.read_labelled(state.settings.labelled, state.listing, state.shard)
        yield f"{len(names)} names in {state.settings.labelled}"


def metadata(state: State) -> Findings:
    """Metadata of the images, and whether the strategy can use it."""
    settings = state.settings
    if settings.metadata is None:
        return
    table = image_metadata.read(settings.metadata)
    yield f"{len(table.file_names)} rows with {columns.list_names(list(table.columns))} in {settings.metadata}"
    if state.listing is not None and (warning := image_metadata.compare(table, state.listing, state.shard)):
        yield Warn(warning)
    image_metadata.check_strategy(table, settings.strategy.entries, state.listing, settings.max_failed)


def embeddings(state: State) -> Findings:
    """Embeddings from a file."""
    settings = state.settings
    if settings.embedding in METHODS:
        return
    names, vectors, _ = from_file.read(settings.embedding)
    yield f"{len(names)} embeddings of {vectors.shape[1]} dimensions in {settings.embedding}"
    if state.listing is not None and settings.predictions != NONE:
        missing = from_file.find_missing(settings.embedding, names, state.listing, settings.max_failed)
        if missing:
            yield Warn(
                f"{settings.embedding} has no embedding for {len(missing)} images, such as {missing[0]!r}: every "
                "usable image needs one."
            )


def previous_run(state: State) -> Findings:
    """The outputs of earlier runs, whose detections are reused."""
    for uri in state.settings.previous:
        earlier = previous.open_output(uri)
        state.previous.append(earlier)
        yield f"{earlier.uri} has parts of an earlier run"
