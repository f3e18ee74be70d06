"""What the reduce step has found, and the files that tell of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from job import ledger
from job import pool as pools
from job.pool import Pool
from job.publish import manifest, tables
from job.publish.tables import Selected
from job.run import Run
from job.select import Selection, reasons
from job.settings import Settings


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


def run_id(
    settings: Settings, pool: Pool, embedding: dict[str, Any], digests: dict[str, str], selection: Selection
) -> str:
    """Names a selection: the same for the same images, detections, embeddings, settings of the selection, and picks."""
    names = ("n_samples", "strategy", "score", "score_strength", "diversity_strength", "min_distance", "seed")
    of_selection = {name: getattr(settings, name) for name in names}
    return ledger.piece(digests, pool.provenance.digest, embedding, of_selection, names_of(pool, selection))[:8]


def names_of(pool: Pool, selection: Selection) -> list[str]:
    """File names of the picks, best first."""
    return [pool.keys[pick.index] for pick in selection.picks]


def publish(job: Run, found: Found, selection: Selection, selected_by: str = "local") -> list[Selected]:
    """Writes the lists of picks, the table of images and run.json."""
    pool, output = found.pool, job.output
    selected = explain(job, pool, selection, set(found.labelled), selected_by)
    tables.write_images(output, pool, selection)
    tables.write_selected(output, selected)
    counts = {
        "images": len(pool.keys) + len(pool.failures),
        "usable": len(pool.keys),
        "failed": len(pool.failures),
        "without_boxes": int((pool.num_boxes == 0).sum()),
        "boxes": int(pool.num_boxes.sum()),
        "labelled": len(found.labelled),
        "selected": len(selected),
    }
    manifest.write(
        *(output, job.settings, pool.provenance),
        run_id=found.run_id,
        device=job.detector.device if job.detector else None,
        inputs=found.inputs,
        embedding=found.embedding,
        selected_by=selected_by,
        counts=counts,
        timings=job.seconds,
    )
    return selected


def explain(job: Run, pool: Pool, selection: Selection, labelled: set[str], selected_by: str) -> list[Selected]:
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
            among="the pool" if selected_by == "local" else "Lightly's picks",
        )
        if selected_by != "local":
            words = f"picked by Lightly; {words}"
        selected.append(Selected(rank, name, score, pick.value, pick.distance, nearest, words))
    return selected
