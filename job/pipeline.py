"""The job from top to bottom.

list -> [ read, decode, detect ] -> parts        map step: `predict`
parts -> score -> embed -> select -> publish     reduce step: `select`
"""

import contextlib
import hashlib
import logging
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

from job import embed, inputs, parts
from job.choose import check_classes, choose_among
from job.context import Run, Selected, SelectionInputs
from job.embed import from_file
from job.errors import JobError, SettingsError, Stopped, TooManyFailedImages, TryAgain
from job.exports import lightly_files
from job.external import take_in
from job.parts import listings, previous
from job.parts import pool as pools
from job.parts.pool import Pool
from job.progress import now
from job.publish import manifest, tables
from job.publish.results import names_of, publish, run_id
from job.publish.status import Status
from job.retry import Patience
from job.select import Selection
from job.settings import Settings
from job.shards import Shard
from job.stopping import Stop
from job.storage import Listing, Storage, open_folder, open_source, read_required

if TYPE_CHECKING:
    from job.lightly.api import Platform

logger = logging.getLogger(__name__)

SUCCESS = "_SUCCESS"
_SECONDS_TO_SAVE = 10.0


def run(settings: Settings, stop: Stop, shard: Shard) -> list[Selected] | None:
    """Both steps, one after the other; returns the picks, best first.

    Of several shards, the one that finds all others through does the second step; the others return None.

    Raises:
        JobError: See `job.errors`; what was finished is saved.
    """
    if shard.count > 1 and settings.token:
        raise SettingsError(
            f"`run` in {shard.count} shards does not upload to Lightly, since two of them may finish last: "
            "use `predict` in the shards and `select` after them, or leave the token out."
        )
    with start(settings, stop, shard) as current:
        listing = map_step(current, shard)
        if shard.count > 1:
            if missing := listings.missing(current.output, shard.count):
                logger.info("Shard %d of %d is through; %d others are not yet.", shard.index, shard.count, len(missing))
                return None
            listing = listings.listing(current.output, shard.count)
        return reduce_step(current, listing)


def predict(settings: Settings, stop: Stop, shard: Shard) -> None:
    """The map step alone."""
    with start(settings, stop, shard) as current:
        map_step(current, shard)


def select(settings: Settings, stop: Stop) -> list[Selected]:
    """The reduce step alone, over the parts there are; returns the picks, best first."""
    with start(settings, stop, Shard(), uses_device=settings.embedding == "simclr") as current:
        if settings.predictions:
            return reduce_step(current, take_in.take_in(current))
        listing = listings.listing(current.output, settings.shard_count, allow_missing=settings.allow_missing)
        return reduce_step(current, listing)


@contextlib.contextmanager
def start(settings: Settings, stop: Stop, shard: Shard, *, uses_device: bool = True) -> Iterator[Run]:
    """Finds out whether the device, the output and the platform can be used, before any work is done.

    What comes of the run is told in the output (`job.publish.status`).

    Raises:
        JobError: One of them cannot.
    """
    if uses_device:
        from job.detect import gpu  # torch, which a selection does without

        if without_gpu := gpu.choose(settings)[1]:
            logger.warning("%s The job goes on on the CPU.", without_gpu)
    output = open_output(settings, stop)
    with Status(output, shard):
        yield Run(settings, stop, output, connect(settings, stop))


def open_output(settings: Settings, stop: Stop) -> Storage:
    """Opens the output, once it is sure that it can be used.

    Raises:
        AccessDenied: It may not be written, listed or read.
    """
    # What is done is still saved when the job is asked to stop, but not for ever.
    output = open_folder(settings.output, stop=stop.requested, patience=Patience(grace=_SECONDS_TO_SAVE))
    probe = f"{parts.FOLDER}.probe-{uuid.uuid4().hex}"
    output.write(probe, b"probe")
    next(output.list(parts.FOLDER), None)
    read_required(output, probe)
    output.delete(probe)
    return output


def connect(settings: Settings, stop: Stop) -> "Platform | None":
    """The Lightly platform, if there is a token, once it is sure that this is accepted.

    Raises:
        AccessDenied: It is not.
        SettingsError: There is no such dataset, or its datasource cannot be set.
    """
    if settings.token is None:
        return None
    from job.lightly import upload as lightly_upload  # it takes seconds to import
    from job.lightly.api import Platform
    from job.lightly.transport import Transport

    try:
        trying_once = Transport(settings.token, settings.lightly_server, stop.requested, Patience(total=0))
        lightly_upload.find(Platform(trying_once), settings)
    except TryAgain as error:
        logger.warning("%s The upload comes last: the job goes on.", error)
    return Platform(Transport(settings.token, settings.lightly_server, stop.requested))


def map_step(run: Run, shard: Shard) -> Listing:
    """Gives every image of a shard its row in a part, and returns its listing.

    Raises:
        SettingsError: Detections are given already.
    """
    from job.detect import runner

    settings, output = run.settings, run.output
    if settings.predictions:
        raise SettingsError("CORAL_PREDICTIONS brings detections, so there is nothing to detect: use `select`.")
    with run.stage("list"):
        source = open_source(settings.input, run.stop.requested)
        listing = inputs.list_images(settings, source, shard)
        inputs.probe(source, listing)
        if run.platform:
            from job.lightly import images as lightly_images

            lightly_images.refused((each.key for each in listing), settings.max_failed)
        if settings.labelled:
            inputs.read_labelled(settings.labelled, listing, shard)
        if settings.embedding not in embed.METHODS:
            from_file.check(settings.embedding, [each.key for each in listing], settings.max_failed)
    earlier = previous.open_output(settings.previous) if settings.previous else None
    detector = run.need_detector()
    check_classes(settings, detector.class_names)
    with run.stage("find what is done"):
        made_with = runner.provenance(detector)
        done = parts.done(output, made_with)
        if earlier:
            done = previous.take_over(earlier, output, listing, done, made_with)
    # From here on, what an earlier run of this output has said no longer holds.
    output.delete(SUCCESS)
    listings.begin(output, shard)
    with run.stage("detect"), run.stop.deferred() as requested:
        runner.predict(
            *(listing, source, output, detector, done),
            batch_size=settings.batch_size,
            part_size=settings.part_size,
            stop=requested,
        )
        if not requested.is_set():
            listings.finish(output, shard, listing)
    return listing


def reduce_step(run: Run, listing: Listing) -> list[Selected]:
    """Scores, embeds and selects among the images of a listing, and writes the results.

    `_SUCCESS` says that all files are there as they will stay. It comes before the upload, unless that decides which
    images are picked.
    """
    settings, output = run.settings, run.output
    labelled: list[str] = []
    if settings.labelled:
        labelled = inputs.read_labelled(settings.labelled, listing, complete=not settings.allow_missing)
    with run.stage("score"):
        pool = pools.load(output, listing, settings.class_weights)
        run.check_provenance(pool)
    now.failures = len(pool.failures)
    output.delete(SUCCESS)
    tables.write_failures(output, pool.failures)
    check_failures(pool, settings.max_failed)
    with run.stage("embed"):
        embeddings, how = embed.embed(pool, settings, output, lambda: run.need_detector_of(pool))
    with run.stage("select"):
        selection = choose_among(settings, output, pool, embeddings, labelled)
    if len(selection.picks) < settings.n_samples:
        logger.warning(
            "Only %d of %d images could be picked: no other is unlabelled, usable, within all thresholds and apart.",
            *(len(selection.picks), settings.n_samples),
        )
    if settings.lightly_predictions and pool.has_detections:
        with run.stage("write predictions"):
            lightly_files.write(output, pool)
    digests = {
        "images_sha256": _sha256([f"{each.key}\0{each.size}" for each in listing]),
        "labelled_sha256": _sha256(labelled),
    }
    found = SelectionInputs(pool, embeddings, how, labelled, digests, run_id(settings, pool, how, digests, selection))
    if run.platform and settings.lightly_select == "platform":
        selected = publish_platforms(run, run.platform, found, selection)
        output.write(SUCCESS, b"")
        return selected
    selected = publish(run, found, selection)
    output.write(SUCCESS, b"")
    if run.platform:
        upload(run, run.platform, found, selection)
    else:
        logger.info("No LIGHTLY_TOKEN is set, so nothing is uploaded to Lightly.")
    return selected


def publish_platforms(run: Run, platform: "Platform", found: SelectionInputs, selection: Selection) -> list[Selected]:
    """Uploads the run, and writes the platform's picks, or ours where it refuses.

    Ours are also written before, in case the platform cannot be reached, unless its answer is there already.
    """
    there = manifest.read(run.output)
    has_answer = (there.get("run_id"), there.get("selected_by")) == (found.run_id, "platform")
    ours = None if has_answer else publish(run, found, selection)
    chosen = upload(run, platform, found, selection)
    if chosen is None:
        return ours or publish(run, found, selection)
    theirs = choose_among(run.settings, run.output, found.pool, found.embeddings, found.labelled, candidates=chosen)
    return publish(run, found, theirs, selected_by="platform")


def upload(run: Run, platform: "Platform", found: SelectionInputs, selection: Selection) -> list[str] | None:
    """Uploads the run to Lightly; returns the platform's own picks if it was asked for them.

    Raises:
        JobError: It cannot be done now; all files of the run are written.
    """
    from job.lightly import upload as lightly_upload

    settings = run.settings
    source = open_source(settings.input, run.stop.requested) if settings.lightly_images == "full" else None
    outcome = lightly_upload.Outcome(
        *(found.pool, found.embeddings, found.embedding["space"], found.labelled),
        picks=names_of(found.pool, selection),
        run_id=found.run_id,
    )
    try:
        with run.stage("upload"):
            return lightly_upload.upload(platform, settings, run.stop, run.output, source, outcome)
    except Stopped:
        raise
    except JobError:
        logger.warning("All results are in %s. Start again to upload them to Lightly.", run.output.uri)
        raise


def _sha256(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check_failures(pool: Pool, max_failed: float) -> None:
    """Ends the run when too many images cannot be used.

    Raises:
        TooManyFailedImages: Their share is above the limit, or there is no other.
    """
    failed, total = len(pool.failures), len(pool.failures) + len(pool.file_names)
    if failed:
        logger.warning("%d of %d images cannot be used: failures.jsonl says why.", failed, total)
    if failed > max_failed * total or failed == total:
        key, reason = pool.failures[0]
        raise TooManyFailedImages(
            f"{failed} of {total} images cannot be used, which is more than CORAL_MAX_FAILED={max_failed:g} allows. "
            f"The first is {key!r}: {reason}. All are in failures.jsonl."
        )
