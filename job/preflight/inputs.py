"""Checks of what goes in: the shard, its images, and the files that name images."""

import pyarrow.compute as pc

from job import columns, external, inputs, shards
from job.embed import elsewhere, from_file
from job.external import take_in
from job.external.boxes import check_boxes
from job.inputs import frames, similar
from job.inputs import labelled as labels
from job.inputs import metadata as image_metadata
from job.inputs.match import Match
from job.names import list_first, quantify, shorten
from job.parts import previous
from job.preflight.check import Findings, State, Warn, format_bytes
from job.settings.choices import NONE
from job.shards import Shard
from job.storage import Listing, open_source


def shard(state: State) -> Findings:
    """Which shard this process runs, and which variable says so."""
    settings, environment = state.settings, state.environment
    if settings.predictions and not settings.embeds_images:
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
    """The images of this shard exist and can be read, unless CORAL_PREDICTIONS needs only their names."""
    settings = state.settings
    if settings.predictions and not settings.embeds_images:
        state.listing = state.files = inputs.list_names(settings, state.stop.requested)
        yield quantify(len(state.listing), "file name")
        return
    source = open_source(settings.input, state.stop.requested, settings.frames)
    if settings.predictions:  # names are compared with those of all images
        state.files = inputs.list_images(settings, source, Shard())
        listing = Listing.from_entries(file for file in state.files if state.shard.owns(file.key))
    else:
        listing = inputs.list_images(settings, source, state.shard)
    inputs.probe(source, listing)
    state.source, state.listing = source, listing
    if len(listing):
        num_frames = frames.count(listing)
        words = [quantify(len(listing), "image")]
        words += [f"{num_frames} of them frames of videos (CORAL_FRAMES={settings.frames})"] if num_frames else []
        words += [format_size(listing)] if num_frames < len(listing) else []  # a frame has no file
        yield ", ".join(words)
    else:
        yield Warn(f"No images in this shard (of {state.shard.count}): use fewer shards.")


def format_size(listing: Listing) -> str:
    """Total size of all files, for people; files of unknown size count as 0 bytes."""
    return format_bytes(pc.sum(listing.table["byte_size"]).as_py() or 0)


def predictions(state: State) -> Findings:
    """Predictions from another detector, or embeddings alone, and the images that they are of."""
    settings, files, listing = state.settings, state.files, state.listing
    if not settings.predictions or files is None or listing is None:
        return
    state.listing = None  # later checks need predictions that are right
    if settings.predictions == NONE:
        yield from _without_predictions(state, files)
        return
    owns = state.shard.owns if settings.embeds_images else None
    of_input = external.InputImages(settings, files, state.stop.requested, owns)
    content = external.read(
        settings.predictions,
        settings.classes,
        stop=state.stop.requested,
        min_score=settings.score_threshold,
        images=of_input,
    )
    state.class_names = classes = content.class_names
    state.imported = provenance = take_in.describe_predictions(settings, content)
    of_classes = f"{quantify(len(classes), 'class', 'classes')} ({list_first(classes)})"
    yield f"{quantify(len(content.rows), 'image')} with boxes of {of_classes}"
    yield from map(Warn, content.warnings)
    match = take_in.compare_rows(settings, files, (row.file_name for row in content.rows))
    doubts = check_boxes(content.rows, content.layout, match, of_input)
    state.listing, state.absent = listing, frozenset(filter(state.shard.owns, match.without))
    if settings.embeds_images:
        rows = take_in.rename_rows(content.rows, match, "prediction")
        state.to_embed = take_in.attach(rows, provenance, files, state.shard)
        state.listing = state.to_embed.listing
    yield from _describe(match, "prediction")
    yield from map(Warn, doubts)


def _without_predictions(state: State, files: Listing) -> Findings:
    settings = state.settings
    if settings.embeds_images:
        state.imported = provenance = take_in.describe_embeddings("")
        state.to_embed = take_in.attach(None, provenance, files, state.shard)
        state.listing = state.to_embed.listing
        yield "none, so only the embeddings of the images decide"
        return
    names, _, sha256 = from_file.read(settings.embedding)
    state.imported = take_in.describe_embeddings(sha256)
    match = take_in.compare_rows(settings, files, names)
    state.listing, state.absent = files, frozenset(match.without)
    yield from _describe(match, "embedding")


def _describe(match: Match, noun: str) -> Findings:
    yield f"{match.counts['matched']} of {len(match.listing)} images have an entry in {match.setting}"
    yield from _describe_respelled(match)
    for problem in (match.describe_unknown(), match.describe_without(noun)):
        if problem:
            yield Warn(problem)


def _describe_respelled(match: Match) -> Findings:
    if respelled := match.describe_respelled():
        yield Warn(respelled) if match.ignores_folders else respelled.rstrip(".")


def _describe_names(state: State, match: Match, num_elsewhere: int = 0) -> Findings:
    """What a list of names and the images do not have in common; a run says so when it selects."""
    if state.is_run:
        return
    yield from _describe_respelled(match)
    if state.shard.count == 1 and (unknown := match.describe_unknown(num_elsewhere)):
        yield Warn(unknown)


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
    if not state.settings.labelled or state.listing is None:
        return
    match = labels.match(state.settings.labelled, state.listing, state.settings.input)
    if state.shard.count > 1:  # the other labelled images may be those of other shards
        yield f"{quantify(match.counts['matched'], 'image of this shard is', 'images of this shard are')} labelled"
        return
    found = elsewhere.find_required(state.settings, match)
    num_elsewhere = len({name for place in found for name in place.match.file_names})
    yield f"{quantify(match.counts['matched'], 'image is', 'images are')} labelled"
    yield from _describe_names(state, match, num_elsewhere)


def rejected(state: State) -> Findings:
    """The list of images that must not be picked."""
    if not state.settings.rejected or state.listing is None or state.shard.count > 1:  # they may be of other shards
        return
    match = labels.match(state.settings.rejected, state.listing, state.settings.input, "CORAL_REJECTED")
    match.require_any()
    yield f"{quantify(match.counts['matched'], 'image is', 'images are')} rejected"
    yield from _describe_names(state, match)


def similar_images(state: State) -> Findings:
    """The images that SIMILARITY in the strategy names."""
    if state.listing is None or state.shard.count > 1:  # they may be those of other shards
        return
    match = similar.match(state.settings.strategy.entries, state.listing, state.settings.input)
    if match is not None:
        yield f"CORAL_STRATEGY names {quantify(len(match.file_names), 'image')} for SIMILARITY"
        yield from _describe_names(state, match)


def metadata(state: State) -> Findings:
    """Metadata of the images, and whether the strategy can use it."""
    settings = state.settings
    if settings.metadata is None:
        return
    table = image_metadata.read(settings.metadata)
    rows, names = quantify(len(table.file_names), "row"), columns.list_names(list(table.columns))
    yield f"{rows} with {names} in {settings.metadata}"
    usable: list[str] | None = None
    if state.listing is not None:
        match = image_metadata.match(table, state.listing, settings.input)
        if state.shard.count == 1:  # the other rows may be those of other shards
            match.require_any()
        table = table.rename(match)
        yield from _describe_names(state, match)
        if match.file_names:
            usable = [entry.key for entry in state.listing if entry.key not in state.absent]
            if not state.is_run and (missing := table.describe_missing(usable)):
                yield Warn(missing)
    image_metadata.check_strategy(table, settings.strategy.entries, usable, settings.max_failed)


def embeddings(state: State) -> Findings:
    """Embeddings from a file."""
    settings = state.settings
    if not settings.has_embedding_file:
        return
    names, vectors, _ = from_file.read(settings.embedding)
    yield f"{quantify(len(names), 'embedding')} of {quantify(vectors.shape[1], 'dimension')} in {settings.embedding}"
    if state.listing is None or settings.predictions == NONE:
        return
    match = from_file.match_names(settings.embedding, names, state.listing, settings.input)
    if state.shard.count > 1 and not match.file_names:
        yield Warn(f"{match.setting} names no image of this shard; `select` compares it with all images.")
        return
    match.require_any()
    missing = [name for name in match.without if name not in state.absent]
    from_file.require_most(settings.embedding, missing, len(match.listing) - len(state.absent), settings.max_failed)
    yield from _describe_names(state, match)
    if missing:
        yield Warn(
            f"{settings.embedding} has no embedding for {quantify(len(missing), 'image')}, such as "
            f"{shorten(missing[0])}: every usable image needs one."
        )


def previous_run(state: State) -> Findings:
    """The outputs of earlier runs, whose detections are reused."""
    for uri in state.settings.previous:
        earlier = previous.open_output(uri)
        state.previous.append(earlier)
        yield f"{earlier.uri} has parts of an earlier run"
