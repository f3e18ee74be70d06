"""From the results of a run to the content of the report."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from job import scores
from job.context import Selected
from job.parts import pool as pools
from job.parts.pool import Detections, Pool
from job.report import duplicates, metadata, pictures
from job.report.content import Card, ClassRow, Content, Histogram, Map, Picture, Strip
from job.report.projection import Projection
from job.storage import Source, Storage

if TYPE_CHECKING:
    from job.select.points import Embeddings

_MAX_STRIP_IMAGES = 6
_MAX_EMPTY_IMAGES = 12
_MAX_MAP_POINTS = 1500
_MAX_DUPLICATE_GROUPS = 12
_BINS = 24
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
) -> Content:
    """Gathers the content of the report.

    Args:
        output: Folder of the results, with the parts.
        pool: The images.
        embeddings: (n, d) in the order of the pool; None without any.
        projection: The map of the embeddings; None without any.
        labelled: File names of the images that have labels.
        selected: The picks.
        run: Content of run.json.
        source: Where the images are; None if they cannot be read.
    """
    picks = pool.file_names.find([pick.file_name for pick in selected]).tolist()
    struggles = _find_struggles(pool) if pool.has_detections else []
    shown = sorted({*picks, *(number for _, rows in struggles for number in rows)})
    detections = pools.detections(output, pool, shown)
    found = pool.file_names.find(labelled)
    labelled_rows = found[found >= 0].tolist()
    on_map = {} if projection is None else _choose_for_map(len(pool.file_names), labelled_rows, picks)
    repeated = None if embeddings is None else duplicates.find(embeddings)
    groups = [] if repeated is None else repeated.groups[:_MAX_DUPLICATE_GROUPS]
    thumbnails = pools.thumbnails(output, pool, {*shown, *on_map, *(row for row, _ in groups)})
    previews = pictures.read_previews(pool, picks, source, thumbnails)
    return Content(
        title=output.uri,
        summary=_summarize(run),
        cards=[_make_card(pool, *pick, previews, detections) for pick in zip(selected, picks, strict=True)],
        strips=[_make_strip(pool, score, rows, detections, thumbnails) for score, rows in struggles],
        classes=_make_class_rows(pool, run),
        map=None if projection is None else _make_map(pool, projection, on_map, thumbnails),
        histograms=[_make_histogram(name, pool.scores[name], picks) for name in scores.TABLE if name in pool.scores],
        distributions=metadata.make_distributions(pool.metadata, picks),
        duplicates=("", []) if repeated is None else _show_duplicates(pool, repeated, thumbnails),
        failures=_group_failures(pool.failures),
        tables=_make_tables(run),
    )


def _make_card(
    pool: Pool, pick: Selected, row: int, previews: Mapping[int, bytes], detections: Mapping[str, Detections]
) -> Card:
    facts: dict[str, Any] = {"value": pick.value, **pick.factors, "boxes": int(pool.num_boxes[row])}
    if pick.score is not None:
        facts["score"] = pick.score
    if pick.nearest is not None:
        facts["nearest"] = pick.nearest
    facts |= {name: value for name, value in metadata.list_values(pool.metadata, row).items() if name not in facts}
    picture = pictures.make_picture(pool, row, previews[row], detections.get(pick.file_name))
    return Card(pick.rank, picture, pick.reason, facts)


def _find_struggles(pool: Pool) -> list[tuple[scores.Score | None, list[int]]]:
    """Rows of the images with the highest values, by score; and, with None for the score, of images without boxes."""
    struggles: list[tuple[scores.Score | None, list[int]]] = []
    for score in scores.TABLE.values():
        if score.title is not None:
            values = pool.scores[score.name]
            order = np.argsort(-values, kind="stable")[:_MAX_STRIP_IMAGES]
            struggles.append((score, [int(row) for row in order if values[row] > 0]))
    empty = np.flatnonzero(pool.num_boxes == 0)
    sample = empty[:: max(1, -(-len(empty) // _MAX_EMPTY_IMAGES))]
    struggles.append((None, [int(row) for row in sample]))
    return [(score, rows) for score, rows in struggles if rows]


def _make_strip(
    pool: Pool,
    score: scores.Score | None,
    rows: list[int],
    detections: Mapping[str, Detections],
    thumbnails: Mapping[int, bytes],
) -> Strip:
    names = [pool.file_names[row] for row in rows]
    images = [
        pictures.make_picture(pool, row, thumbnails[row], detections.get(name))
        for row, name in zip(rows, names, strict=True)
    ]
    if score is None:
        count = int((pool.num_boxes == 0).sum())
        note = f"{count:,} of {len(pool.file_names):,} images; {len(rows)} of them are shown, evenly spaced."
        return Strip("Nothing detected", note, list(zip(images, names, strict=True)))
    values = pool.scores[score.name]
    captions = [f"{values[row]:.3g} · {name}" for row, name in zip(rows, names, strict=True)]
    note = f"The images with the highest scores. This score favours {score.favours}."
    return Strip(f"{score.title} ({score.name})", note, list(zip(images, captions, strict=True)))


def _summarize(run: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    counts, selection = run["counts"], run["selection"]
    usable, labelled = counts["usable"], counts["labelled"]
    tiles: list[tuple[str, Any, str]] = [
        ("picks", counts["selected"], f"of {usable:,} usable images, of which {labelled:,} are labelled")
    ]
    if counts["failed"]:
        tiles.append(("unusable", counts["failed"], f"of {counts['images']:,} images; the reasons are below"))
    if "covering_radius" in selection:
        random = f"{selection['covering_radius_random']:.3f} for as many random picks (mean of 20 draws)"
        tiles.append(("covering radius", selection["covering_radius"], random))
        pairs = f"pairs of picks less than {selection['near_duplicates_within']} apart"
        tiles.append(("near-duplicates", selection["near_duplicate_pairs"], pairs))
    if "expected_boxes" in selection:
        boxes = f"expected, from the confidences of {selection['boxes']:,} boxes"
        tiles.append(("boxes to label", round(selection["expected_boxes"]), boxes))
        share = selection["without_boxes"]
        pool_share = f"of picks (pool: {_format_percentage(share['pool'])})"
        tiles.append(("without detections", _format_percentage(share["picks"]), pool_share))
    if selection["expected_cost"]:
        tiles.append(("expected cost", selection["expected_cost"], "by CORAL_COST_PER_IMAGE and CORAL_COST_PER_BOX"))
    return tiles


def _format_percentage(share: float) -> str:
    return f"{100 * share:.3g} %"


def _make_class_rows(pool: Pool, run: Mapping[str, Any]) -> list[ClassRow]:
    if not pool.has_detections:
        return []
    classes, total = run["selection"]["classes"], run["selection"]["boxes"]
    names, counts = pool.provenance.class_names, pool.class_counts
    return [
        ClassRow(
            name=names[index],
            boxes=int(counts[index]),
            share_picked=classes[names[index]]["picks"] / max(1, total),
            mean_score=float(pool.class_scores[index] / counts[index]),
            mean_entropy=float(pool.class_entropies[index] / counts[index]),
            low_confidence=float(pool.class_low_confidence[index] / counts[index]),
        )
        for index in np.argsort(-counts, kind="stable").tolist()
        if counts[index] > 0
    ]


def _choose_for_map(total: int, labelled: list[int], picks: list[int]) -> dict[int, str]:
    """Chooses the images to show on the map: all picks, labelled images, and a sample of the others.

    Returns:
        Row to kind, sorted.
    """
    special = {**dict.fromkeys(labelled[:_MAX_MAP_POINTS], "labelled"), **dict.fromkeys(picks, "pick")}
    free = max(0, _MAX_MAP_POINTS - len(special))
    sample = range(0, total, max(1, -(-total // max(1, free)))) if free else ()
    return {row: special.get(row, "pool") for row in sorted({*special, *sample})}


def _make_map(pool: Pool, projection: Projection, shown: Mapping[int, str], thumbnails: Mapping[int, bytes]) -> Map:
    return Map(
        points=projection.points[list(shown)],
        kinds=list(shown.values()),
        file_names=[pool.file_names[row] for row in shown],
        thumbnails=[pictures.make_hover(thumbnails[row]) for row in shown],
        explained=projection.explained,
        total=len(projection.points),
    )


def _make_histogram(name: str, values: npt.NDArray[np.float64], picks: list[int]) -> Histogram:
    edges = np.linspace(0, max(1.0, float(values.max(initial=0))), _BINS + 1)
    shares = []
    for group in (values, values[picks]):
        counts, _ = np.histogram(group, edges)
        shares.append((counts / max(1, len(group))).round(6).tolist())
    return Histogram(name, edges.round(6).tolist(), *shares)


def _show_duplicates(
    pool: Pool, found: duplicates.Duplicates, thumbnails: Mapping[int, bytes]
) -> tuple[str, list[tuple[Picture, int]]]:
    total = len(pool.file_names)
    sample = "" if found.examined == total else f" (evenly spaced, of {total:,})"
    note = (
        f"{found.with_duplicate:,} of {found.examined:,} images{sample} are within {duplicates.MAX_DISTANCE} "
        "of another image."
    )
    groups = found.groups[:_MAX_DUPLICATE_GROUPS]
    return note, [(pictures.make_picture(pool, row, thumbnails[row], None), count) for row, count in groups]


def _group_failures(failures: Sequence[tuple[str, str]]) -> list[tuple[str, int, list[str]]]:
    """Groups failures by their reason without its numbers, the most frequent first."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, reason in failures:
        names[re.sub(r"\d[\d,.]*", "#", reason)].append(name)
    order = sorted(names, key=lambda reason: (-len(names[reason]), reason))
    return [(reason, len(names[reason]), names[reason][:_MAX_EXAMPLES]) for reason in order]


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
