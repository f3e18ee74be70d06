"""The job from top to bottom.

list -> [ read, decode, detect ] -> parts        map step: `predict`
parts -> score -> embed -> select -> publish     reduce step: `select`
"""

import contextlib
import dataclasses
import hashlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from job import embed, images, names, parts
from job import pool as pools
from job.detect import model, runner
from job.detect.model import Detector
from job.errors import SettingsError, TooManyFailedImages
from job.pool import Pool
from job.publish import manifest, tables
from job.publish.tables import Selected
from job.select import Selection, reasons
from job.select import select as choose
from job.settings import Settings
from job.stopping import Stop
from job.storage import Entry, Folder

logger = logging.getLogger(__name__)

SUCCESS = "_SUCCESS"
_BATCH_SIZE = {"cuda": 16, "cpu": 1}


@dataclass
class Run:
    """What the stages of one run share.

    Attributes:
        settings: The settings.
        stop: Whether the job is asked to stop.
        source: Folder of the images.
        output: Folder of the results.
        entries: All images of the source, sorted bytewise by name.
        labelled: Names of those that have labels.
        detector: Once it is built.
        seconds: Spent in each stage.
    """

    settings: Settings
    stop: Stop
    source: Folder
    output: Folder
    entries: list[Entry]
    labelled: list[str]
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


def run(settings: Settings, stop: Stop) -> list[Selected]:
    """Both steps, one after the other; returns the picks, best first.

    Raises:
        JobError: See `job.errors`; what was finished is saved.
    """
    job = start(settings, stop)
    map_step(job)
    return reduce_step(job)


def predict(settings: Settings, stop: Stop) -> None:
    """The map step alone."""
    map_step(start(settings, stop))


def select(settings: Settings, stop: Stop) -> list[Selected]:
    """The reduce step alone, over the parts there are; returns the picks, best first."""
    return reduce_step(start(settings, stop))


def start(settings: Settings, stop: Stop) -> Run:
    """Finds all that can be found wrong before any work is done, and lists the images."""
    source, output = Folder(settings.input), Folder(settings.output)
    output.write("parts/.probe", b"")
    output.delete("parts/.probe")
    output.delete(SUCCESS)  # what is there from now on is not of a finished run
    if settings.lightly_token:
        logger.warning("LIGHTLY_TOKEN is set, but this version uploads nothing.")
    began = time.monotonic()
    entries = list_images(source, output)
    labelled = read_labelled(settings.labelled, entries) if settings.labelled else []
    logger.info("%d images in %s.", len(entries), source.root)
    return Run(settings, stop, source, output, entries, labelled, seconds={"list": time.monotonic() - began})


def map_step(job: Run) -> None:
    """Gives every image its row in a part."""
    detector = job.need_detector()
    settings = job.settings
    with job.stage("detect"), job.stop.deferred() as requested:
        runner.predict(
            *(job.entries, job.source, job.output, detector),
            batch_size=settings.batch_size or _BATCH_SIZE[detector.device.type],
            part_size=settings.part_size,
            stop=requested,
        )


def reduce_step(job: Run) -> list[Selected]:
    """Scores, embeds and selects, and writes the results; `_SUCCESS` comes last."""
    settings, output = job.settings, job.output
    with job.stage("score"):
        pool = pools.load(output, job.entries)
        job.check(pool)
    tables.write_failures(output, pool.failures)
    check_failures(pool, settings.max_failed)
    with job.stage("embed"):
        embeddings, embedding = embed.embed(pool, settings, output, lambda: job.detector_of(pool))
    with job.stage("select"):
        row = {key: index for index, key in enumerate(pool.keys)}
        selection = choose(
            *(embeddings, pool.scores[settings.score], settings.n_samples),
            strategy=settings.strategy,
            labelled=[row[name] for name in job.labelled if name in row],
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
    selected = explain(job, pool, selection)
    tables.write_images(output, pool, selection)
    tables.write_selected(output, selected)
    counts = {
        "images": len(job.entries),
        "usable": len(pool.keys),
        "failed": len(pool.failures),
        "without_boxes": int((pool.num_boxes == 0).sum()),
        "boxes": int(pool.num_boxes.sum()),
        "labelled": len(job.labelled),
        "selected": len(selected),
    }
    inputs = {
        "images_sha256": _sha256([f"{each.key}\0{each.size}" for each in job.entries]),
        "labelled_sha256": _sha256(job.labelled),
    }
    manifest.write(
        *(output, settings, pool.provenance),
        device=job.detector.device if job.detector else None,
        inputs=inputs,
        embedding=embedding,
        counts=counts,
        timings=job.seconds,
    )
    output.write(SUCCESS, b"")
    return selected


def _sha256(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def list_images(source: Folder, output: Folder) -> list[Entry]:
    """Lists the images below a folder, sorted bytewise by name; the output may lie in it and is left out.

    Raises:
        SettingsError: The folder does not exist or holds no image.
    """
    files = list(source.list(outside=output.root))
    entries = [each for each in files if PurePosixPath(each.key).suffix.lower() in images.EXTENSIONS]
    if not entries:
        kinds = ", ".join(sorted(each[1:] for each in images.EXTENSIONS))
        raise SettingsError(f"CORAL_INPUT={str(source.root)!r} holds no images ({kinds}) among its {len(files)} files.")
    return sorted(entries, key=lambda each: each.key.encode())


def read_labelled(path: str, entries: list[Entry]) -> list[str]:
    """Reads the list of images that have labels.

    Raises:
        SettingsError: It cannot be read, or names images that are not in the pool.
    """
    try:
        labelled = names.parse(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"CORAL_LABELLED={path!r} cannot be read: {error}.") from None
    unknown = sorted(set(labelled) - {each.key for each in entries})
    if unknown:
        shown = ", ".join(map(repr, unknown[:3])) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
        raise SettingsError(
            f"CORAL_LABELLED={path!r} names images that are not in CORAL_INPUT: {shown}. "
            "Names are relative to CORAL_INPUT, as in selected.txt."
        )
    return sorted(set(labelled), key=str.encode)


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


def explain(job: Run, pool: Pool, selection: Selection) -> list[Selected]:
    """Puts each pick's rank and reason beside it."""
    settings = job.settings
    wanted = {pool.keys[pick.index] for pick in selection.picks}
    detections = pools.detections(job.output, [each for each in job.entries if each.key in wanted])
    labelled = set(job.labelled)
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
