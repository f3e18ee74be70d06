"""What the reduce step has found, and the files that tell of it."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from job import exports, report
from job.choose import driving_score
from job.context import Run
from job.errors import JobError, SettingsError
from job.parts import ledger
from job.parts import pool as pools
from job.parts.pool import Detections, Pool
from job.publish import manifest, reasons, summary, tables
from job.publish.tables import Selected
from job.report.gather import gather
from job.select import Selection, coverage
from job.settings import Settings
from job.settings import strategy as strategies
from job.storage import Source, open_source

logger = logging.getLogger(__name__)

_MOST_BOXES = 2_000_000  # some 400 MB


@dataclass(frozen=True)
class Found:
    """What the reduce step works out before it selects.

    Attributes:
        pool: The images.
        embeddings: (n, d) in the order of the pool.
        embedding: How they were made.
        labelled: File names of the images that have labels.
        inputs: Digests of the names and sizes of the images, and of the list of labelled ones.
        run_id: Names the job's own selection.
    """

    pool: Pool
    embeddings: npt.NDArray[np.float32]
    embedding: dict[str, Any]
    labelled: list[str]
    inputs: dict[str, str]
    run_id: str

    @property
    def has_distances(self) -> bool:
        """Whether there are embeddings."""
        return bool(self.embedding["method"] != "none")


def run_id(
    settings: Settings, pool: Pool, embedding: dict[str, Any], digests: dict[str, str], selection: Selection
) -> str:
    """Names a selection: the same for the same images, detections, embeddings, settings of the selection, and picks."""
    names = ("n_samples", "strategy", "score", "score_strength", "diversity_strength", "min_distance", "seed")
    of_selection = {name: getattr(settings, name) for name in names}
    if settings.class_weights:
        of_selection["class_weights"] = settings.class_weights
    return ledger.piece(digests, pool.provenance.digest, embedding, of_selection, names_of(pool, selection))[:8]


def names_of(pool: Pool, selection: Selection) -> list[str]:
    """File names of the picks, best first."""
    return [pool.file_names[pick.index] for pick in selection.picks]


def publish(job: Run, found: Found, selection: Selection, selected_by: str = "local") -> list[Selected]:
    """Writes the lists of picks, the table of images and run.json."""
    pool, output = found.pool, job.output
    detections = pools.detections(output, pool, [pick.index for pick in selection.picks])
    selected = explain(job.settings, found, selection, detections, selected_by)
    row = {key: number for number, key in enumerate(pool.file_names)}
    centers = [row[name] for name in found.labelled if name in row] + [pick.index for pick in selection.picks]
    distance, nearest = coverage(found.embeddings, centers if found.has_distances else [])
    tables.write_images(output, pool, selected, distance, nearest)
    tables.write_selected(output, selected)
    counts = {
        "images": len(pool.file_names) + len(pool.failures),
        "usable": len(pool.file_names),
        "failed": len(pool.failures),
        "without_boxes": int((pool.num_boxes == 0).sum()),
        "boxes": int(pool.num_boxes.sum()),
        "labelled": len(found.labelled),
        "selected": len(selected),
    }
    run = manifest.write(
        *(output, job.settings, pool.provenance),
        run_id=found.run_id,
        device=job.detector.device if job.detector else None,
        inputs=found.inputs,
        embedding=found.embedding,
        selected_by=selected_by,
        counts=counts,
        selection=summary.gather(job.settings, found, selection, detections, distance),
        timings=job.seconds,
    )
    source = _source(job)
    embeddings = found.embeddings if found.has_distances else None
    content = gather(output, pool, embeddings, found.labelled, selected, run, source)
    output.write(report.NAME, report.render(content))
    export(job, pool, selected, detections, source)
    return selected


def export(
    job: Run, pool: Pool, selected: list[Selected], detections: dict[str, Detections], source: Source | None
) -> None:
    """Writes the picks for other tools, and copies their files if that is asked for."""
    settings, output, names = job.settings, job.output, [each.file_name for each in selected]
    if pool.has_detections:
        uri_of = exports.of_input(settings.input)
        exports.write(output, pool, names, uri_of, detections, settings.exports)
        if "coco" in settings.exports and pool.num_boxes.sum() <= _MOST_BOXES:
            exports.write_all_coco(output, pool, uri_of)
        elif "coco" in settings.exports:
            logger.warning("%s is left out: of more than %d boxes it would be too large.", exports.ALL, _MOST_BOXES)
    if settings.copy_selected:
        if source is None:
            raise SettingsError(f"CORAL_COPY_SELECTED=1 cannot read CORAL_INPUT={settings.input!r}: see above.")
        exports.copy_selected(output, source, pool, names)


def _source(job: Run) -> Source | None:
    """Where the images are, for the pictures in the report; None where they are not to be had."""
    try:
        return open_source(job.settings.input, job.stop.requested)
    except JobError as error:
        logger.warning("The report shows thumbnails of the picks: %s", error)
        return None


def explain(
    settings: Settings, found: Found, selection: Selection, detections: dict[str, Detections], selected_by: str
) -> list[Selected]:
    """Puts each pick's rank, reason, factors and boxes beside it."""
    pool, labelled = found.pool, set(found.labelled)
    scores = driving_score(settings, pool).tolist() if pool.has_detections else [None] * len(pool.file_names)
    score, counts = strategies.driving(settings.strategy, settings.score)
    weights = pools.weights_of(settings.class_weights, pool.provenance.class_names) if settings.class_weights else None
    selected = []
    for rank, pick in enumerate(selection.picks, start=1):
        name, seen = pool.file_names[pick.index], detections[pool.file_names[pick.index]]
        values = reasons.contributions(score, seen, weights)
        class_names = pool.provenance.class_names
        nearest = pool.file_names[pick.nearest] if pick.nearest is not None and found.has_distances else None
        words = reasons.reason(
            pick,
            saw=reasons.what_the_detector_saw(score, seen, values, class_names) if counts else None,
            random=settings.strategy == "random",
            nearest_name=nearest,
            nearest_is_labelled=nearest in labelled,
            first=strategies.first(settings.strategy, "the pool" if selected_by == "local" else "Lightly's picks"),
        )
        if selected_by != "local":
            words = f"picked by Lightly; {words}"
        distance = pick.distance if found.has_distances else None
        factors = {each.name: float(each.values[pick.index]) for each in selection.factors}
        factors |= {} if distance is None else {"distance": distance}
        factors |= {} if pick.balance == 1 else {"balance": pick.balance}
        boxes = reasons.boxes(seen, values, class_names)
        of_pick = (scores[pick.index], pick.value, distance, nearest, words, factors, boxes)
        selected.append(Selected(rank, name, *of_pick))
    return selected
