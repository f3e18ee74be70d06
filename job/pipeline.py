"""The job from top to bottom.

list -> [ read, decode, detect ] -> parts        map step: `predict`
parts -> score -> embed -> select -> publish     reduce step: `select`
"""

import contextlib
import dataclasses
import hashlib
import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

from job import embed, finished, inputs, parts, previous
from job import pool as pools
from job.detect import model, runner
from job.detect.model import Detector
from job.errors import TooManyFailedImages
from job.pool import Pool
from job.publish import manifest, tables
from job.publish.tables import Selected
from job.retry import Patience
from job.select import Selection, reasons
from job.select import select as choose
from job.settings import Settings
from job.shards import Shard
from job.stopping import Stop
from job.storage import Listing, Storage, open_folder, open_source, read_required

logger = logging.getLogger(__name__)

SUCCESS = "_SUCCESS"
_SECONDS_TO_SAVE = 10.0
_BATCH_SIZE = {"cuda": 16, "cpu": 1}


@dataclass
class Run:
    """What the stages of one run share.

    Attributes:
        settings: The settings.
        stop: Whether the job is asked to stop.
        output: Folder of the results.
        detector: Once it is built.
        seconds: Spent in each stage.
    """

    settings: Settings
    stop: Stop
    output: Storage
    detector: Detector | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage."""
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start

    def need_detector(self) -> Detector:
        """The detector, built on first use."""
        if self.detector is None:
            with self.stage("load the detector"):
                self.detector = model.build(self.settings)
        return self.detector

    def detector_of(self, pool: Pool) -> Detector:
        """The detector, once it is sure that the pool was detected with it."""
        detector = self.need_detector()
        self.check(pool)
        return detector

    def check(self, pool: Pool) -> None:
        """Refuses detections of another detector than the settings name.

        Raises:
            SettingsError: The output holds such.
        """
        digest, class_names = model.described(self.settings)
        ours = dataclasses.replace(pool.provenance, config_sha256=digest, class_names=class_names)
        if self.detector is not None:
            ours = dataclasses.replace(ours, weights_sha256=self.detector.weights_sha256)
        parts.check_same(self.output, pool.provenance, ours)


def run(settings: Settings, stop: Stop, shard: Shard) -> list[Selected] | None:
    """Both steps, one after the other; returns the picks, best first.

    Of several shards, the one that finds all others through does the second step; the others return None.

    Raises:
        JobError: See `job.errors`; what was finished is saved.
    """
    job = start(settings, stop)
    listing = map_step(job, shard)
    if shard.count > 1:
        if missing := finished.missing(job.output, shard.count):
            logger.info("Shard %d of %d is through; %d others are not yet.", shard.index, shard.count, len(missing))
            return None
        listing = finished.listing(job.output, shard.count)
    return reduce_step(job, listing)


def predict(settings: Settings, stop: Stop, shard: Shard) -> None:
    """The map step alone."""
    map_step(start(settings, stop), shard)


def select(settings: Settings, stop: Stop) -> list[Selected]:
    """The reduce step alone, over the parts there are; returns the picks, best first."""
    job = start(settings, stop)
    return reduce_step(job, finished.listing(job.output, settings.shard_count, allow_missing=settings.allow_missing))


def start(settings: Settings, stop: Stop) -> Run:
    """Opens the output, and finds out whether it can be used, before any work is done.

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
    if settings.lightly_token:
        logger.warning("LIGHTLY_TOKEN is set, but this version uploads nothing.")
    return Run(settings, stop, output)


def map_step(job: Run, shard: Shard) -> Listing:
    """Gives every image of a shard its row in a part, and returns its listing."""
    settings, output = job.settings, job.output
    with job.stage("list"):
        source = open_source(settings.input, job.stop.requested)
        listing = inputs.list_images(settings, source, shard)
        inputs.probe(source, listing)
        if settings.labelled:
            inputs.read_labelled(settings.labelled, listing, shard)
    earlier = previous.open_output(settings.previous) if settings.previous else None
    detector = job.need_detector()
    with job.stage("find what is done"):
        made_with = runner.provenance(detector)
        done = parts.done(output, made_with)
        if earlier:
            done = previous.take_over(earlier, output, listing, done, made_with)
    # From here on, what an earlier run of this output has said no longer holds.
    output.delete(SUCCESS)
    finished.begin(output, shard)
    with job.stage("detect"), job.stop.deferred() as requested:
        runner.predict(
            *(listing, source, output, detector, done),
            batch_size=settings.batch_size or _BATCH_SIZE[detector.device.type],
            part_size=settings.part_size,
            stop=requested,
        )
        if not requested.is_set():
            finished.finish(output, shard, listing)
    return listing


def reduce_step(job: Run, listing: Listing) -> list[Selected]:
    """Scores, embeds and selects among the images of a listing, and writes the results; `_SUCCESS` comes last."""
    settings, output = job.settings, job.output
    labelled: list[str] = []
    if settings.labelled:
        labelled = inputs.read_labelled(settings.labelled, listing, complete=not settings.allow_missing)
    with job.stage("score"):
        pool = pools.load(output, listing)
        job.check(pool)
    output.delete(SUCCESS)
    tables.write_failures(output, pool.failures)
    check_failures(pool, settings.max_failed)
    with job.stage("embed"):
        embeddings, embedding = embed.embed(pool, settings, output, lambda: job.detector_of(pool))
    with job.stage("select"):
        row = {key: index for index, key in enumerate(pool.keys)}
        selection = choose(
            *(embeddings, pool.scores[settings.score], settings.n_samples),
            strategy=settings.strategy,
            labelled=[row[name] for name in labelled if name in row],
            score_strength=settings.score_strength,
            diversity_strength=settings.diversity_strength,
            min_distance=settings.min_distance,
            seed=settings.seed,
        )
    if len(selection.picks) < settings.n_samples:
        logger.warning(
            "Only %d of %d images could be picked: no other is unlabelled, usable, and far enough from the rest.",
            *(len(selection.picks), settings.n_samples),
        )
    selected = explain(job, pool, selection, set(labelled))
    tables.write_images(output, pool, selection)
    tables.write_selected(output, selected)
    counts = {
        "images": len(listing),
        "usable": len(pool.keys),
        "failed": len(pool.failures),
        "without_boxes": int((pool.num_boxes == 0).sum()),
        "boxes": int(pool.num_boxes.sum()),
        "labelled": len(labelled),
        "selected": len(selected),
    }
    digests = {
        "images_sha256": _sha256([f"{each.key}\0{each.size}" for each in listing]),
        "labelled_sha256": _sha256(labelled),
    }
    manifest.write(
        *(output, settings, pool.provenance),
        device=job.detector.device if job.detector else None,
        inputs=digests,
        embedding=embedding,
        counts=counts,
        timings=job.seconds,
    )
    output.write(SUCCESS, b"")
    return selected


def _sha256(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check_failures(pool: Pool, max_failed: float) -> None:
    """Ends the run when too many images cannot be used.

    Raises:
        TooManyFailedImages: Their share is above the limit, or there is no other.
    """
    failed, total = len(pool.failures), len(pool.failures) + len(pool.keys)
    if failed:
        logger.warning("%d of %d images cannot be used: failures.jsonl says why.", failed, total)
    if failed > max_failed * total or failed == total:
        key, reason = pool.failures[0]
        raise TooManyFailedImages(
            f"{failed} of {total} images cannot be used, which is more than CORAL_MAX_FAILED={max_failed:g} allows. "
            f"The first is {key!r}: {reason}. All are in failures.jsonl."
        )


def explain(job: Run, pool: Pool, selection: Selection, labelled: set[str]) -> list[Selected]:
    """Puts each pick's rank and reason beside it."""
    settings = job.settings
    detections = pools.detections(job.output, pool, [pick.index for pick in selection.picks])
    selected = []
    for rank, pick in enumerate(selection.picks, start=1):
        name = pool.keys[pick.index]
        nearest = pool.keys[pick.nearest] if pick.nearest is not None else None
        score = float(pool.scores[settings.score][pick.index])
        found = detections[name]
        words = reasons.reason(
            pick,
            strategy=settings.strategy,
            score_name=settings.score,
            detections=(found.scores, found.classes, found.class_probabilities),
            class_names=pool.provenance.class_names,
            nearest_name=nearest,
            nearest_is_labelled=nearest in labelled,
        )
        selected.append(Selected(rank, name, score, pick.value, pick.distance, nearest, words))
    return selected
