"""What a run works with, and what it would do."""

import dataclasses
from pathlib import Path

from job import parts
from job.detect import model, runner
from job.embed import from_file
from job.errors import TryAgain
from job.preflight.check import Findings, Known, Warn
from job.preflight.inputs import size_of
from job.retry import Patience
from job.settings.resolve import NONE
from job.uris import Location


def detector(known: Known) -> Findings:
    """The model with its weights, built and run once."""
    built = model.build(dataclasses.replace(known.settings, device=str(known.device), require_gpu=False))
    known.detector = built
    yield f"{len(built.class_names)} classes, class probabilities: {built.probabilities}, {built.precision}"


def embeddings(known: Known) -> Findings:
    """Those made elsewhere."""
    uri, listing = known.settings.embedding, known.listing
    if uri in ("detector", "simclr"):
        return
    names, vectors, _ = from_file.read(uri)
    yield f"{len(names)} of {vectors.shape[1]} numbers in {uri}"
    if listing is not None and known.settings.predictions != NONE:
        there = set(names)
        lost = [each.key for each in listing if each.key not in there]
        if lost:
            yield Warn(f"{uri} has none for {len(lost)} of the images, such as {lost[0]!r}: each usable one needs one.")


def earlier_results(known: Known) -> Findings:
    """Whether the output holds results that this run goes on with; of other settings, they are refused."""
    if known.output is None or known.detector is None or known.listing is None:
        return
    where = Location.of(known.settings.output)
    if not where.scheme and not Path(where.path).is_dir():
        return
    done = parts.done(known.output, runner.provenance(known.detector))
    known.done = sum((each.key, each.etag) in done for each in known.listing) if done else 0
    if known.done:
        yield f"{known.done} of {len(known.listing)} images are done already"


def lightly(known: Known) -> Findings:
    """The token of the Lightly platform, and the dataset."""
    settings = known.settings
    if settings.token is None:
        yield "no token, so nothing will be uploaded"
        return
    from job.lightly import upload  # it takes seconds to import
    from job.lightly.api import Platform
    from job.lightly.transport import Transport

    once = Transport(settings.token, settings.lightly_server, known.stop.requested, Patience(total=0))
    try:
        found = upload.find(Platform(once), settings)
    except TryAgain as error:
        yield Warn(f"{error} The upload comes last, so a run would begin all the same.")
        return
    there = "is there" if found else "would be made"
    yield f"the token is accepted, and the dataset {settings.lightly_dataset!r} {there}"
    if known.shard.count > 1:
        yield Warn("`run` in several shards does not upload: use `predict` in the shards and `select` after them.")


def run(known: Known) -> Findings:
    """What would be done."""
    settings, listing = known.settings, known.listing
    if listing is None:
        return
    strategy = settings.strategy
    by = strategy.title + (f" with {settings.score}" if strategy.uses_scores and not strategy.entries else "")
    shard = f" in shard {known.shard.index} of {known.shard.count}" if known.shard.count > 1 else ""
    yield (
        f"it would take {len(listing)} images ({size_of(listing)}){shard}, pick {settings.n_samples} by {by}, and "
        f"write to {settings.output}"
    )
    if known.shard.count == 1 and len(listing) < settings.n_samples:
        yield Warn(f"CORAL_N_SAMPLES={settings.n_samples} are more than there are images: it would pick what it can.")
