"""What the reduce step has found, and the files that tell of it."""

import logging
from typing import Any

from job import exports, report
from job.choose import ranking_score
from job.context import Run, Selected, SelectionInputs
from job.errors import JobError, SettingsError
from job.parts import ledger
from job.parts import pool as pools
from job.parts.pool import Detections, Pool
from job.publish import manifest, reasons, summary, tables
from job.report.gather import gather
from job.select import Selection, coverage
from job.settings import Settings
from job.settings.mix import largest_share
from job.storage import Source, open_source

logger = logging.getLogger(__name__)

_MOST_BOXES = 2_000_000  # some 400 MB


def run_id(
    settings: Settings, pool: Pool, embedding: dict[str, Any], digests: dict[str, str], selection: Selection
) -> str:
    """Names a selection: the same for the same images, detections, embeddings, settings of the selection, and picks."""
    names = ("n_samples", "score_strength", "diversity_strength", "min_distance", "seed")
    of_selection: dict[str, Any] = {name: getattr(settings, name) for name in names}
    of_selection |= {"strategy": settings.strategy.text, "score": settings.score.text}
    if settings.class_weights:
        of_selection["class_weights"] = settings.class_weights
    return ledger.name_piece(digests, pool.provenance.digest, embedding, of_selection, names_of(pool, selection))[:8]


def names_of(pool: Pool, selection: Selection) -> list[str]:
    """File names of the picks, best first."""
    return [pool.file_names[pick.index] for pick in selection.picks]


def publish(run: Run, inputs: SelectionInputs, selection: Selection, selected_by: str = "local") -> list[Selected]:
    """Writes the lists of picks, the table of images and run.json."""
    pool, output = inputs.pool, run.output
    detections = pools.detections(output, pool, [pick.index for pick in selection.picks])
    selected = explain(run.settings, inputs, selection, detections, selected_by)
    row = {key: number for number, key in enumerate(pool.file_names)}
    centers = [row[name] for name in inputs.labelled if name in row] + [pick.index for pick in selection.picks]
    distance, nearest = coverage(inputs.embeddings, centers if inputs.has_distances else [])
    tables.write_images(output, pool, selected, distance, nearest)
    tables.write_selected(output, selected)
    counts = {
        "images": len(pool.file_names) + len(pool.failures),
        "usable": len(pool.file_names),
        "failed": len(pool.failures),
        "without_boxes": int((pool.num_boxes == 0).sum()),
        "boxes": int(pool.num_boxes.sum()),
        "labelled": len(inputs.labelled),
        "selected": len(selected),
    }
    content = manifest.write(
        *(output, run.settings, pool.provenance),
        run_id=inputs.run_id,
        device=run.detector.device if run.detector else None,
        inputs=inputs.digests,
        embedding=inputs.embedding,
        selected_by=selected_by,
        counts=counts,
        selection=summary.gather(run.settings, inputs, selection, detections, distance),
        timings=run.seconds,
    )
    source = _source(run)
    embeddings = inputs.embeddings if inputs.has_distances else None
    report_content = gather(output, pool, embeddings, inputs.labelled, selected, content, source)
    output.write(report.NAME, report.render(report_content))
    export(run, pool, selected, detections, source)
    return selected


def export(
    run: Run, pool: Pool, selected: list[Selected], detections: dict[str, Detections], source: Source | None
) -> None:
    """Writes the picks for other tools, and copies their files if that is asked for."""
    settings, output, names = run.settings, run.output, [each.file_name for each in selected]
    if pool.has_detections:
        uri_of = exports.make_uri_builder(settings.input)
        exports.write(output, pool, names, uri_of, detections, settings.exports)
        if "coco" in settings.exports and pool.num_boxes.sum() <= _MOST_BOXES:
            exports.write_all_images(output, pool, uri_of)
        elif "coco" in settings.exports:
            logger.warning(
                "%s is left out: of more than %d boxes it would be too large.", exports.ALL_IMAGES, _MOST_BOXES
            )
    if settings.copy_selected:
        if source is None:
            raise SettingsError(f"CORAL_COPY_SELECTED=1 cannot read CORAL_INPUT={settings.input!r}: see above.")
        exports.copy_selected(output, source, pool, names)


def _source(run: Run) -> Source | None:
    """Where the images are, for the pictures in the report; None where they are not to be had."""
    try:
        return open_source(run.settings.input, run.stop.requested)
    except JobError as error:
        logger.warning("The report shows thumbnails of the picks: %s", error)
        return None


def explain(
    settings: Settings,
    inputs: SelectionInputs,
    selection: Selection,
    detections: dict[str, Detections],
    selected_by: str,
) -> list[Selected]:
    """Describes each pick: rank, reason, factors and boxes."""
    pool, labelled, class_names = inputs.pool, set(inputs.labelled), inputs.pool.provenance.class_names
    scores = ranking_score(settings, pool).tolist() if pool.has_detections else [None] * len(pool.file_names)
    score = largest_share(settings.ranking_scores)
    weights = pools.class_weight_array(settings.class_weights, class_names) if settings.class_weights else None
    first = settings.strategy.explain_first_pick("the pool" if selected_by == "local" else "Lightly's picks")
    selected = []
    for rank, pick in enumerate(selection.picks, start=1):
        name = pool.file_names[pick.index]
        seen = detections[name]
        values = reasons.compute_contributions(score, seen, weights)
        uses_scores = settings.strategy.uses_scores
        nearest = pool.file_names[pick.nearest] if pick.nearest is not None and inputs.has_distances else None
        words = reasons.compose(
            pick,
            detected=reasons.describe_detections(score, seen, values, class_names) if uses_scores else None,
            random=settings.strategy.is_random,
            nearest_name=nearest,
            nearest_is_labelled=nearest in labelled,
            first=first,
        )
        if selected_by != "local":
            words = f"picked by Lightly; {words}"
        distance = pick.distance if inputs.has_distances else None
        factors = {factor.name: float(factor.values[pick.index]) for factor in selection.factors}
        factors |= {} if distance is None else {"distance": distance}
        factors |= {} if pick.balance == 1 else {"balance": pick.balance}
        selected.append(
            Selected(
                rank=rank,
                file_name=name,
                score=scores[pick.index],
                value=pick.value,
                distance=distance,
                nearest=nearest,
                reason=words,
                factors=factors,
                boxes=reasons.list_top_boxes(seen, values, class_names),
            )
        )
    return selected
