"""Writes the results of the reduce step."""

import logging
from typing import Any

from job import exports, report
from job.choose import ranking_score
from job.context import Run, Selected, SelectionInputs
from job.errors import JobError, SettingsError
from job.inputs import frames
from job.parts import ledger
from job.parts import pool as pools
from job.parts.boxes import Detections
from job.parts.pool import Pool
from job.publish import (
    ALL_IMAGES,
    DETECTIONS,
    LIGHTLY,
    MAX_EXPORTED_BOXES,
    MAX_EXPORTED_PROBABILITIES,
    REPORT,
    manifest,
    reasons,
    rounds,
    stale,
    summary,
    tables,
)
from job.publish.boxes import read_boxes
from job.publish.sizes import fill_sizes
from job.report import needs as report_needs
from job.report.gather import gather
from job.report.projection import project
from job.select import Selection, coverage
from job.settings import Settings
from job.settings.mix import largest_share
from job.storage import open_source
from job.storage.frames import VideoSource

logger = logging.getLogger(__name__)


def compute_run_id(
    settings: Settings, pool: Pool, embedding: dict[str, Any], digests: dict[str, str], selection: Selection
) -> str:
    """Computes the name of a selection.

    Args:
        settings: The settings; those of the selection count.
        pool: The images, with their detector.
        embedding: How the embeddings were made.
        digests: Digests of the images and of the list of labelled images.
        selection: The picks.

    Returns:
        Eight hex digits, equal if everything above is equal.
    """
    names = ("n_samples", "score_strength", "diversity_strength", "min_distance", "seed")
    of_selection: dict[str, Any] = {name: getattr(settings, name) for name in names}
    of_selection |= {"strategy": settings.strategy.text, "score": settings.score.text}
    if settings.min_seconds:
        of_selection["min_seconds"] = settings.min_seconds
    if settings.class_weights:
        of_selection["class_weights"] = settings.class_weights
    return ledger.name_piece(digests, pool.provenance.digest, embedding, of_selection, list_picks(pool, selection))[:8]


def list_picks(pool: Pool, selection: Selection) -> list[str]:
    """Lists the file names of the picks, best first."""
    return [pool.file_names[pick.index] for pick in selection.picks]


def publish(run: Run, inputs: SelectionInputs, selection: Selection, selected_by: str = "local") -> list[Selected]:
    """Writes all files of a selection, and returns the picks, best first.

    Args:
        run: The run.
        inputs: What the selection is based on.
        selection: The picks.
        selected_by: ``local``, or ``platform`` for Lightly's selection.

    Raises:
        JobError: If the output cannot be used.
        SettingsError: If CORAL_COPY_SELECTED=1 and the input cannot be read.
    """
    pool, output = inputs.pool, run.output
    picks = [pick.index for pick in selection.picks]
    embeddings = inputs.embeddings if inputs.has_distances else None
    # A run that was killed has no run.json, but the ledger names what it wrote.
    has_earlier_run = bool(manifest.read(output)) or any(map(output.has_written, stale.OPTIONAL))
    with run.stage("read boxes"):
        source = _open_input(run)
        sized = fill_sizes(pool, picks, source)
        needs = report_needs.choose(sized, embeddings, inputs.labelled, picks)
        detections_file = read_boxes(output, pool, needs)
        detections = {name: needs.keeper.detections[name] for name in list_picks(pool, selection)}
    with run.stage("explain"):
        selected = explain(run.settings, inputs, selection, detections, selected_by)
    centers = inputs.find_labelled() + picks
    with run.stage("measure distances"):
        if inputs.has_distances:
            distance, nearest = coverage(inputs.embeddings, centers, inputs.elsewhere.embeddings)
        else:
            distance, nearest = coverage(inputs.embeddings, [])
    with run.stage("draw the map"):
        projection = None if embeddings is None else project(embeddings)
        points = None if projection is None else projection.points
    with run.stage("write tables"):
        tables.write_images(output, inputs, selected, distance, nearest, points)
        if detections_file is not None:
            detections_file.write(output)
        tables.write_selected(output, selected)
    with run.stage("report"):
        content = manifest.compose(
            run.settings,
            pool.provenance,
            run_id=inputs.run_id,
            device=run.detector.device if run.detector else None,
            inputs=inputs.digests,
            names=run.names,
            embedding=inputs.embedding,
            selected_by=selected_by,
            counts=_count(inputs, selected),
            selection=summary.gather(run.settings, inputs, selection, detections, distance),
        )
        shown = content | {"previous_round": rounds.write(output, content, selected)}
        shown |= {"rejected_names": sorted(inputs.rejected, key=str.encode)}
        lines = tables.format_picks(selected)
        report_content = gather(
            output, sized, embeddings, projection, inputs.labelled, selected, shown, source, lines, needs
        )
        output.write(REPORT, report.render(report_content))
    with run.stage("export"):
        written = export(run, inputs.pool, sized, selected, detections, source)
        uploaded = {LIGHTLY} if run.platform else set()  # the upload itself replaces that file
        detected = {DETECTIONS} if pool.has_detections else set()
        if has_earlier_run:
            stale.remove(output, run.settings, written | uploaded | detected)
    manifest.write(output, content)  # last, since it says what all stages took
    return selected


def _count(inputs: SelectionInputs, selected: list[Selected]) -> dict[str, int]:
    """The counts of run.json."""
    pool = inputs.pool
    return {
        "images": len(pool.file_names) + len(pool.failures),
        "usable": len(pool.file_names),
        "failed": len(pool.failures),
        "without_boxes": int((pool.num_boxes == 0).sum()),
        "boxes": int(pool.num_boxes.sum()),
        "labelled": len(inputs.labelled),
        "labelled_elsewhere": len(inputs.elsewhere.file_names),
        "rejected": len(inputs.rejected),
        "selected": len(selected),
    }


def export(
    run: Run,
    pool: Pool,
    sized: Pool,
    selected: list[Selected],
    detections: dict[str, Detections],
    source: VideoSource | None,
) -> set[str]:
    """Writes the picks for other tools, and copies their files if CORAL_COPY_SELECTED=1; removes outdated ones.

    Args:
        run: The run.
        pool: The images.
        sized: The images, with the sizes of the picks as far as these are known.
        selected: The picks, best first.
        detections: Detections on the picks, by file name.
        source: The input; None if it cannot be read.

    Returns:
        Names of the single files in the output that were written.

    Raises:
        SettingsError: If the files must be copied and the input cannot be read.
    """
    written = set()
    settings, output, picks = run.settings, run.output, [pick.file_name for pick in selected]
    if pool.has_detections:
        uri_of = exports.make_uri_builder(settings.input, settings.images_at)
        task_uri_of = exports.make_task_uri_builder(settings.input, settings.images_at)
        rules = exports.PreLabels(settings.export_min_score, settings.export_classes or {})
        exports.write(output, sized, picks, uri_of, detections, settings.exports, rules, task_uri_of, selected)
        if "coco" in settings.exports and pool.num_boxes.sum() <= MAX_EXPORTED_BOXES:
            exports.write_all_images(output, pool, uri_of, with_probabilities=_can_export_probabilities(pool))
            written.add(ALL_IMAGES)
        elif "coco" in settings.exports:
            logger.warning(
                "%s is not written: with more than %d boxes it would be too large.",
                ALL_IMAGES,
                MAX_EXPORTED_BOXES,
            )
    else:
        exports.remove(output)
    if settings.copy_selected:
        if source is None:
            raise SettingsError(
                f"CORAL_COPY_SELECTED=1 needs to read CORAL_INPUT={settings.input!r}, which failed (see the warning "
                "above): make it readable, or set CORAL_COPY_SELECTED=0."
            )
        exports.copy_selected(output, source.to_keep(), pool, picks)
    else:
        exports.remove_copies(output, source.to_keep() if source else None, pool)
    return written


def _can_export_probabilities(pool: Pool) -> bool:
    """Whether the detector gave class probabilities, and a file with all of them is not too large; warns if it is."""
    if pool.provenance.probabilities == "synthetic":
        return False
    if pool.num_boxes.sum() * (len(pool.provenance.class_names) + 1) <= MAX_EXPORTED_PROBABILITIES:
        return True
    logger.warning(
        "%s has no class probabilities: with more than %d of them it would be too large. Use CORAL_OUTPUT itself as "
        "CORAL_PREDICTIONS of another run.",
        exports.ALL_IMAGES,
        MAX_EXPORTED_PROBABILITIES,
    )
    return False


def _open_input(run: Run) -> VideoSource | None:
    """Opens the input for the pictures in the report; None, with a warning, if it cannot be read."""
    try:
        return open_source(run.settings.input, run.stop.requested, run.settings.frames)
    except JobError as error:
        logger.warning("The report shows thumbnails of the picks, because the input cannot be read: %s", error)
        return None


def explain(
    settings: Settings,
    inputs: SelectionInputs,
    selection: Selection,
    detections: dict[str, Detections],
    selected_by: str,
) -> list[Selected]:
    """Describes each pick: rank, reason, factors and boxes.

    Args:
        settings: The settings.
        inputs: What the selection is based on.
        selection: The picks.
        detections: Detections on the picks, by file name.
        selected_by: ``local``, or ``platform`` for Lightly's selection.
    """
    pool, class_names = inputs.pool, inputs.pool.provenance.class_names
    labelled = {*inputs.labelled, *inputs.elsewhere.file_names}
    scores = ranking_score(settings, pool) if pool.has_detections else None
    score = largest_share(settings.ranking_scores)
    weights = pools.class_weight_array(settings.class_weights, class_names) if settings.class_weights else None
    first = settings.strategy.explain_first_pick("the pool" if selected_by == "local" else "Lightly's picks")
    selected = []
    for rank, pick in enumerate(selection.picks, start=1):
        name = pool.file_names[pick.index]
        seen = detections[name]
        values = reasons.compute_contributions(score, seen, weights)
        detected = None
        if settings.strategy.uses_objects:
            detected = reasons.describe_object(pick, seen, class_names)
        elif settings.strategy.uses_scores:
            detected = reasons.describe_detections(score, seen, values, class_names)
        nearest = inputs.name_center(pick.nearest) if pick.nearest is not None and inputs.has_distances else None
        words = reasons.compose(
            pick,
            detected=detected,
            random=settings.strategy.is_random,
            nearest_name=nearest,
            nearest_kind="labelled image"
            if nearest in labelled
            else "rejected image"
            if nearest in inputs.rejected
            else "pick",
            first=first,
        )
        if frame := frames.find_frame(pool, pick.index):
            words = f"{words}; {frame}"
        if selected_by != "local":
            words = f"picked by Lightly; {words}"
        distance = pick.distance if inputs.has_distances else None
        factors = {factor.name: float(factor.values[pick.index]) for factor in selection.factors}
        factors |= {} if distance is None else {"distance": distance}
        factors |= {} if pick.balance == 1 else {"balance": pick.balance}
        factors |= {"objects": pick.objects} if settings.strategy.uses_objects else {}
        selected.append(
            Selected(
                rank=rank,
                file_name=name,
                score=None if scores is None else float(scores[pick.index]),
                value=pick.value,
                distance=distance,
                nearest=nearest,
                reason=words,
                factors=factors,
                boxes=reasons.list_top_boxes(seen, values, class_names),
            )
        )
    return selected
