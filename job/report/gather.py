"""From the results of a run to the content of the report."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from job import names
from job.context import Selected
from job.parts import pool as pools
from job.parts.boxes import Detections
from job.parts.pool import Pool
from job.report import (
    changes,
    colors,
    distributions,
    duplicates,
    headline,
    metadata,
    pictures,
    space,
    struggles,
    timeline,
)
from job.report.content import Card, Content, PickLines, Picture
from job.report.needs import Needs
from job.report.projection import Projection
from job.storage import Source, Storage

if TYPE_CHECKING:
    from job.select.points import Embeddings

_MAX_DUPLICATE_GROUPS, _MAX_COMPARED_GROUPS = 6, 200
_MAX_EXAMPLES = 5


def gather(
    output: Storage,
    pool: Pool,
    embeddings: "Embeddings | None",
    projection: Projection | None,
    labelled: Sequence[str],
    selected: Sequence[Selected],
    run: Mapping[str, Any],
    source: Source | None,
    lines: Sequence[PickLines],
    needs: Needs,
) -> Content:
    """Gathers the content of the report.

    Args:
        output: Folder of the results, with the parts.
        pool: The images.
        embeddings: (n, d) in the order of the pool; None without any.
        projection: The map of the embeddings; None without any.
        labelled: File names of the images that have labels.
        selected: The picks.
        run: Content of run.json, the last round as ``previous_round`` if there was one, and the file names of rejected
            images as ``rejected_names`` if there are any.
        source: Where the images are; None if they cannot be read.
        lines: The lines of the result files, of their header and of each pick.
        needs: What `job.report.needs.choose` chose, after the boxes were read.
    """
    picks: list[int] = pool.file_names.find([pick.file_name for pick in selected]).tolist()
    found, shown, detections = needs.struggles, needs.shown, needs.keeper.detections
    sample = needs.sample if pool.has_detections else None
    class_names = pool.provenance.class_names
    painter = pictures.Painter(pool, colors.assign([class_names[index] for index in struggles.order_classes(pool)]))
    known = pool.file_names.find(labelled)
    labelled_rows: list[int] = known[known >= 0].tolist()
    copies = None if embeddings is None else duplicates.find(embeddings)
    groups = [] if copies is None or embeddings is None else _choose_groups(embeddings, copies)
    with_thumbnail = space.choose_thumbnails(shown, picks)
    in_strips = (row for _, rows in found for row in rows)
    thumbnails = pools.thumbnails(output, pool, {*with_thumbnail, *in_strips, *(row for row, _ in groups)})
    previews = pictures.read_previews(pool, picks, source, thumbnails)
    histograms = distributions.make_score_histograms(pool, picks)
    if sample is not None:
        of_picks = [(number, detections[pool.file_names[number]]) for number in picks]
        sizes = distributions.make_size_histogram(pool, sample, of_picks)
        histograms += [sizes] if sizes else []
    histograms += distributions.make_quality_histograms(thumbnails, with_thumbnail, picks)
    folders = distributions.make_folders(pool.file_names.take(shown), [pick.file_name for pick in selected])
    score = space.find_score(run, pool) if pool.scores else ""
    return Content(
        title=output.uri,
        run_id=run.get("run_id", ""),
        lines=list(lines),
        rejected=[names.dump([name]) for name in run.get("rejected_names", ())],
        lead=headline.make_lead(run, copies),
        cards=[_make_card(painter, pick, row, previews, detections) for pick, row in zip(selected, picks, strict=True)],
        strips=[struggles.make_strip(pool, score, rows, detections, thumbnails, painter) for score, rows in found],
        classes=struggles.make_class_rows(pool, run, painter.colors),
        map=None
        if projection is None or embeddings is None
        else space.make_map(pool, embeddings, projection, shown, labelled_rows, picks, sample, thumbnails, run),
        timelines=timeline.make_timelines(pool, pool.scores[score], picks, embeddings) if score else [],
        timeline_score=score,
        histograms=histograms,
        distributions=distributions.make_distributions(pool.metadata, picks, folders),
        duplicates=("", []) if copies is None else _show_duplicates(painter, copies, groups, thumbnails),
        changes=changes.compare(run["previous_round"], run, [pick.file_name for pick in selected])
        if run.get("previous_round")
        else None,
        failures=_group_failures(pool.failures),
        tables=_make_tables(run),
    )


def _make_card(
    painter: pictures.Painter,
    pick: Selected,
    row: int,
    previews: Mapping[int, bytes],
    detections: Mapping[str, Detections],
) -> Card:
    pool = painter.pool
    facts: dict[str, Any] = {"value": pick.value, **pick.factors, "boxes": int(pool.num_boxes[row])}
    if pick.score is not None:
        facts["score"] = pick.score
    if pick.nearest is not None:
        facts["nearest"] = pick.nearest
    facts |= {name: value for name, value in metadata.list_values(pool.metadata, row).items() if name not in facts}
    deciding = pick.boxes[0] if pick.boxes else None
    picture = painter.make_picture(row, previews[row], detections.get(pick.file_name), deciding)
    return Card(pick.rank, picture, pick.reason, facts)


def _choose_groups(embeddings: "Embeddings", found: duplicates.Duplicates) -> list[tuple[int, int]]:
    """Chooses large groups of near-duplicates that differ from each other: the first row and the size of each."""
    largest = dict(found.groups[:_MAX_COMPARED_GROUPS])
    rows, sizes = np.array(list(largest), np.int64), np.array(list(largest.values()), np.float64)
    chosen = set(struggles.choose_among(rows, sizes, embeddings, _MAX_DUPLICATE_GROUPS))
    return [(row, size) for row, size in largest.items() if row in chosen]


def _show_duplicates(
    painter: pictures.Painter,
    found: duplicates.Duplicates,
    groups: Sequence[tuple[int, int]],
    thumbnails: Mapping[int, bytes],
) -> tuple[str, list[tuple[Picture, int]]]:
    """A sentence about near-duplicates, and pictures of the groups."""
    total = len(painter.pool.file_names)
    sample = "" if found.examined == total else f" (evenly spaced, of {total:,})"
    note = (
        f"{found.with_duplicate:,} of {found.examined:,} images{sample} are within {duplicates.MAX_DISTANCE} "
        "of another image."
    )
    note += " Large groups that differ from each other:" if groups else ""
    return note, [(painter.make_picture(row, thumbnails[row], None), size) for row, size in groups]


def _group_failures(failures: Sequence[tuple[str, str]]) -> list[tuple[str, int, list[str]]]:
    """Groups failures by their reason without its numbers, the most frequent first."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in failures:
        by_reason[re.sub(r"\d[\d,.]*", "#", reason)].append(name)
    order = sorted(by_reason, key=lambda reason: (-len(by_reason[reason]), reason))
    return [(reason, len(by_reason[reason]), by_reason[reason][:_MAX_EXAMPLES]) for reason in order]


def _make_tables(run: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, Any]]]]:
    detector = {name: value for name, value in run["detector"].items() if name != "class_names"}
    detector |= {"classes": len(run["detector"]["class_names"]), "device": run["device"]}
    settings = {name: value for name, value in run["settings"].items() if value is not None}
    return [
        ("Settings", list(settings.items())),
        ("Detector", list(detector.items())),
        ("Embedding", list(run["embedding"].items())),
        ("Seconds by stage, before this page", list(run["seconds"].items())),
        ("Versions", [("coralpick", run["coralpick"]), *run["versions"].items()]),
    ]
