"""The job from top to bottom.

list -> [ read, decode, detect ] -> parts        map step: `predict`
parts -> score -> embed -> select -> publish     reduce step: `select`
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from job import embed, exports, inputs, logs, parts, preflight
from job.choose import choose_without
from job.context import Run, Selected, SelectionInputs
from job.detect import described
from job.embed import elsewhere
from job.embed.spread import spread
from job.errors import DamagedFileError, SettingsError, TooManyFailedImages, TryAgain
from job.exports import lightly_files
from job.external.take_in import find_embedded, import_for_images, import_predictions
from job.inputs import frames, metadata, similar
from job.inputs import labelled as labels
from job.inputs.metadata import Metadata
from job.names import quantify, shorten
from job.parts import listings, previous, sizes
from job.parts import pool as pools
from job.parts.claim import Claim
from job.parts.owned import OwnedOutput
from job.parts.pool import Pool
from job.preflight.check import State, require
from job.progress import now
from job.publish import SUCCESS, manifest, status, tables, to_lightly, tracking
from job.publish.results import compute_run_id, publish
from job.publish.status import Status
from job.settings import Settings
from job.settings.resolve import as_json
from job.shards import Shard
from job.stopping import Stop
from job.storage import Listing

if TYPE_CHECKING:
    from job.engine import Engine

logger = logging.getLogger(__name__)


def run(settings: Settings, stop: Stop, shard: Shard) -> list[Selected] | None:
    """Runs both steps and returns the picks, best first.

    With several shards, the last one to finish selects; the others return None.

    Raises:
        JobError: If the job cannot finish (see `job.errors`); finished work is saved.
    """
    if shard.count > 1 and settings.token:
        raise SettingsError(
            f"`run` with {shard.count} shards does not upload to Lightly, since two shards may finish last: use "
            "`predict` in the shards and then `select`, or remove the token."
        )
    with start(settings, stop, shard) as current:
        listing = map_step(current, shard)
        if shard.count > 1:
            if missing := listings.find_missing(current.output, shard.count):
                logger.info(
                    "Shard %d of %d finished; %s not finished yet.",
                    shard.index,
                    shard.count,
                    quantify(len(missing), "shard has", "shards have"),
                )
                return None
            listing = listings.read(current.output, shard.count)
        preflight.verify_selection(settings, current.output, len(listing))
        return reduce_step(current, listing)


def predict(settings: Settings, stop: Stop, shard: Shard) -> None:
    """Runs the map step alone.

    Raises:
        JobError: If the job cannot finish (see `job.errors`); finished work is saved.
    """
    with start(settings, stop, shard) as current:
        map_step(current, shard)


def select(settings: Settings, stop: Stop) -> list[Selected]:
    """Runs the reduce step alone, on the parts in the output, and returns the picks, best first.

    Raises:
        JobError: If the job cannot finish (see `job.errors`).
    """
    with start(settings, stop, Shard(), uses_device=settings.embedding == "simclr") as current:
        if settings.predictions:
            with current.stage("import"):
                listing = find_embedded(current) or import_predictions(current)
            preflight.verify_selection(settings, current.output, len(listing))
        else:
            with current.stage("list"):
                preflight.verify_selection(settings, current.output, sizes.count_images(current.output))
                listing = listings.read(current.output, settings.shard_count, allow_missing=settings.allow_missing)
        return reduce_step(current, listing)


@contextlib.contextmanager
def start(settings: Settings, stop: Stop, shard: Shard, *, uses_device: bool = True) -> Iterator[Run]:
    """Verifies the device, the output and the platform before any work, and keeps status.json up to date.

    Raises:
        JobError: If one of them cannot be used.
    """
    state = State(settings, stop, is_run=True, uses_device=uses_device, shard=shard)
    preflight.verify(state, preflight.SETUP)
    output = require(state.output)
    logs.add_fields(shard_index=shard.index, shard_count=shard.count)
    with Status(output, shard):
        preflight.verify(state, preflight.UPLOAD)
        yield Run(settings, stop, OwnedOutput(output), state.platform)


def map_step(run: Run, shard: Shard) -> Listing:
    """Writes a row in a part for every image of a shard, and returns its listing.

    If the detections are imported, the images are embedded only.

    Raises:
        SettingsError: If CORAL_PREDICTIONS is set and no image must be embedded, or a setting does not fit the images,
            the predictions or the detector.
        JobError: If the job cannot finish (see `job.errors`).
    """
    from job import engine

    settings = run.settings
    if settings.predictions and not settings.embeds_images:
        raise SettingsError("CORAL_PREDICTIONS provides the detections, so there is nothing to detect: use `select`.")
    with contextlib.closing(engine.start(engine.choose(settings, os.environ))) as workers:
        return _detect(run, shard, workers)


def _detect(run: Run, shard: Shard, workers: "Engine") -> Listing:
    from job.detect import agreement, runner
    from job.engine import Work

    settings, output = run.settings, run.output
    state = State(settings, run.stop, is_run=True, shard=shard, platform=run.platform)
    with run.stage("list"):
        preflight.verify(state, preflight.INPUTS)
    source, listing, imported = require(state.source), require(state.listing), None
    if settings.predictions:
        with run.stage("import"):
            imported = import_for_images(run, require(state.files), shard)
        listing, state.class_names = imported.listing, imported.provenance.class_names
    precision = workers.agree_on_precision(settings, output, run.stop)
    # Workers have detectors of their own. One on the CPU shows first that all settings fit, and fetches the weights.
    detector = run.need_detector(precision) if workers.in_process else run.build_detector(precision, "cpu")
    state.detector = detector
    preflight.verify(state, preflight.DETECTOR)
    with run.stage("find what is done"):
        provenance = runner.provenance(detector, imported)
        agreement.confirm_precision(settings, output, precision)
        done = parts.find_done(output, provenance, shard)
        if warning := inputs.describe_replaced(done, listing, shard):
            logger.warning(warning)
        previous.check_same(state.previous, provenance)
        for earlier in state.previous:
            done = previous.reuse(earlier, output, listing, done, provenance, shard)
    # From here on, the results of an earlier run in this output are no longer valid.
    output.delete(SUCCESS)
    status.remove(output, listings.begin(output, shard))
    described.leave(settings, output)
    with run.stage("embed images" if imported else "detect"), run.stop.defer() as requested:
        work = Work(settings, listing, shard, source, output, detector, done, precision, run.stop, imported)
        workers.detect(work)
        if not requested.is_set():
            listings.finish(output, shard, listing)
    return listing


def reduce_step(run: Run, listing: Listing) -> list[Selected]:
    """Scores, embeds and selects among the images of a listing, and writes the results.

    Raises:
        TooManyFailedImages: If more images are unusable than CORAL_MAX_FAILED allows.
        TryAgain: If a run with other settings is writing its results to this output.
        JobError: If the job cannot finish (see `job.errors`).
    """
    settings = json.dumps(as_json(dataclasses.replace(run.settings, shard_index=0)), sort_keys=True)
    with Claim(run.output, _sha256([settings]), run.stop.requested) as claim:
        try:
            return select_and_publish(run, listing, claim)
        except DamagedFileError as error:
            if error.folder != run.output.uri:
                raise
            parts.set_aside(run.output, error.key)
            raise TryAgain(
                f"{shorten(error.key)} was damaged: start the job again with `run`, so that its work is done again."
            ) from error


def select_and_publish(run: Run, listing: Listing, claim: Claim) -> list[Selected]:
    """Does the work of the reduce step.

    `_SUCCESS` means that all files are final. It comes before the upload, unless the upload decides the picks.
    """
    settings, output = run.settings, run.output
    labelled: list[str] = []
    found: list[elsewhere.Found] = []
    with run.stage("read the lists"):
        if settings.labelled:
            match = labels.match(settings.labelled, listing, settings.input)
            found = elsewhere.find_required(settings, match)
            num_elsewhere = len({name for place in found for name in place.match.file_names})
            labelled = sorted(set(run.accept("labelled", match, num_elsewhere).file_names.values()), key=str.encode)
        rejected = _read_rejected(run, listing)
        if (match_similar := similar.match(settings.strategy.entries, listing, settings.input)) is not None:
            run.accept("strategy", match_similar)
        table = _read_metadata(run, listing)
    with run.stage("score"):
        pool = pools.load(
            *(output, listing, settings.class_weights, run.current_class_names()),
            with_features=settings.uses_features,
        )
        run.check_provenance(pool)
    columns = frames.list_columns(listing, pool)
    if table is not None:
        pool = _add_metadata(settings, pool, table)
    if columns:
        pool = dataclasses.replace(pool, frames=columns, metadata=columns | dict(pool.metadata))
    if pool.has_detections:
        exports.check_classes(settings.export_classes, pool.provenance.class_names)
    now.failures = len(pool.failures)
    claim.verify()
    output.delete(SUCCESS)
    tables.write_failures(output, pool.failures)
    check_failures(pool, settings.max_failed)
    with run.stage("embed"):
        embeddings, embedding = embed.embed(pool, settings, output, lambda: run.need_detector_of(pool), run.accept)
        others = elsewhere.read(settings, found, embedding, pool.provenance, embeddings.shape[1])
    with run.stage("select"), spread(settings, run.stop, output, embeddings) as points:
        selection = choose_without(rejected, settings, output, pool, points, labelled, others.embeddings)
    if len(selection.picks) < settings.n_samples:
        logger.warning(
            "Only %d of %d images were picked: all other images are labelled, unusable, outside a threshold, or closer "
            "than CORAL_MIN_DISTANCE or CORAL_MIN_SECONDS allows.",
            len(selection.picks),
            settings.n_samples,
        )
    if settings.writes_lightly_predictions and pool.has_detections:
        with run.stage("write predictions"):
            lightly_files.write(output, pool)
    elif pool.has_detections:
        lightly_files.warn_if_present(output, pool.provenance)
    digests = {
        "images_sha256": _sha256(f"{entry.key}\0{entry.size}" for entry in listing),
        "labelled_sha256": _sha256(labelled),
    }
    if others.file_names:
        vectors = hashlib.sha256(others.embeddings.tobytes()).hexdigest()
        digests["labelled_elsewhere_sha256"] = _sha256([*others.file_names, vectors])
    if rejected:
        digests["rejected_sha256"] = _sha256(sorted(rejected, key=str.encode))
    if table is not None:
        digests["metadata_sha256"] = table.sha256
    name = compute_run_id(settings, pool, embedding, digests, selection)
    logs.add_fields(run_id=name)
    results = SelectionInputs(pool, embeddings, embedding, labelled, others, digests, name, rejected)
    if run.platform and settings.lightly_select == "platform":
        selected = to_lightly.publish_picks(run, run.platform, results, selection)
        _finish(output, claim, name)
        _track(run)
        return selected
    selected = publish(run, results, selection)
    _finish(output, claim, name)
    if run.platform:
        to_lightly.upload(run, run.platform, results, selection)
    else:
        logger.info("Nothing is uploaded to Lightly, since LIGHTLY_TOKEN is not set.")
    _track(run)
    return selected


def _track(run: Run) -> None:
    if not run.settings.mlflow:
        return
    with run.stage("log to MLflow"):
        address = tracking.connect(run.stop.requested).log(manifest.read(run.output), run.output)
    logger.info("The run is logged to MLflow: %s", address)


def _finish(output: OwnedOutput, claim: Claim, run_id: str) -> None:
    claim.verify()
    output.write(SUCCESS, f"{run_id}\n".encode())
    output.finish()


def _read_rejected(run: Run, listing: Listing) -> frozenset[str]:
    """Reads the file names of the images that must not be picked.

    Raises:
        SettingsError: If the list cannot be read, or names none of the images.
    """
    settings = run.settings
    if settings.rejected is None:
        return frozenset()
    match = labels.match(settings.rejected, listing, settings.input, "CORAL_REJECTED")
    match.require_any()
    return frozenset(run.accept("rejected", match).file_names.values())


def _read_metadata(run: Run, listing: Listing) -> Metadata | None:
    settings = run.settings
    if settings.metadata is None:
        return None
    table = metadata.read(settings.metadata)
    match = metadata.match(table, listing, settings.input)
    match.require_any()
    return table.rename(run.accept("metadata", match))


def _add_metadata(settings: Settings, pool: Pool, table: Metadata) -> Pool:
    if warning := table.describe_missing(pool.file_names):
        logger.warning(warning)
    metadata.check_strategy(table, settings.strategy.entries, pool.file_names, max_failed=0)
    return dataclasses.replace(pool, metadata=table.take(pool.file_names))


def _sha256(lines: Iterable[str]) -> str:
    """The digest of lines that are joined by line feeds."""
    digest, separator = hashlib.sha256(), b""
    for line in lines:
        digest.update(separator + line.encode())
        separator = b"\n"
    return digest.hexdigest()


def check_failures(pool: Pool, max_failed: float) -> None:
    """Ends the run if too many images are unusable.

    Images that imported predictions or embeddings lack do not count: their files may be good, and the comparison of the
    names has reported them.

    Raises:
        TooManyFailedImages: If their share is above the limit, or no image is usable.
    """
    failures = [(name, reason) for name, reason in pool.failures if name not in pool.absent]
    failed, total = len(failures), len(failures) + len(pool.file_names)
    if failed:
        logger.warning("%d of %d images are unusable: failures.jsonl gives the reasons.", failed, total)
    if failed > max_failed * total or failed == total:
        name, reason = failures[0]
        raise TooManyFailedImages(
            f"{failed} of {total} images are unusable, more than CORAL_MAX_FAILED={max_failed:g} allows. The first is "
            f"{shorten(name)}: {reason}. failures.jsonl lists all."
        )
