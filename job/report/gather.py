"""From the results of a run to what the report shows."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from job import scores
from job.context import Selected
from job.parts import pool as pools
from job.parts.pool import Detections, Pool
from job.report import duplicates, pictures
from job.report.content import ByClass, Content, Histogram, Map, Picture, Shown, Strip
from job.select.points import unit
from job.storage import Source, Storage

_IN_STRIP = 6
_EMPTY_IN_STRIP = 12
_ON_MAP = 1500
_FITTED = 20_000
_GROUPS = 12
_BINS = 24
_EXAMPLES = 5
_WORDS = {
    "objectness_least_confidence": "Faint boxes (objectness_least_confidence)",
    "uncertainty_least_confidence": "No class is likely (uncertainty_least_confidence)",
    "uncertainty_margin": "Between two classes (uncertainty_margin)",
    "uncertainty_entropy": "Between many classes (uncertainty_entropy)",
    "objectness_margin": "There or not (objectness_margin)",
    "entropy_mean": "Everything is unclear (entropy_mean)",
    "entropy_sum": "Much is unclear (entropy_sum)",
    "suspected_misses": "Perhaps missed (suspected_misses)",
}


def gather(
    output: Storage,
    pool: Pool,
    embeddings: npt.NDArray[np.float32] | None,
    labelled: Sequence[str],
    selected: Sequence[Selected],
    run: Mapping[str, Any],
    source: Source | None,
) -> Content:
    """Puts together what the report shows.

    Args:
        output: Where the parts are.
        pool: The images.
        embeddings: (n, d) in the order of the pool; None without any.
        labelled: File names of the images that have labels.
        selected: The picks.
        run: The content of run.json.
        source: Where the images are; None where they are not to be had.
    """
    row = {key: number for number, key in enumerate(pool.file_names)}
    picks = [row[each.file_name] for each in selected]
    kinds = _struggles(pool) if pool.has_detections else []
    looked = sorted({*picks, *(each for _, _, rows in kinds for each in rows)})
    found = pools.detections(output, pool, looked)
    previews = pictures.previews(pool, picks, source)

    have_labels = [row[each] for each in labelled if each in row]

    def small(number: int) -> Picture:
        return pictures.picture(pool, number, pool.thumbnails[number], found.get(pool.file_names[number]))

    return Content(
        title=output.uri,
        summary=_summary(run),
        picks=[_shown(pool, each, previews[row[each.file_name]], row[each.file_name], found) for each in selected],
        strips=[_strip(pool, title, name, rows, small) for title, name, rows in kinds],
        classes=_by_class(pool, run),
        map=None if embeddings is None else _map(pool, embeddings, have_labels, picks),
        histograms=[_histogram(name, pool.scores[name], picks) for name in scores.TABLE if name in pool.scores],
        duplicates=("", []) if embeddings is None else _duplicates(pool, embeddings),
        failures=_failures(pool.failures),
        tables=_tables(run),
    )


def _shown(pool: Pool, each: Selected, data: bytes, row: int, found: Mapping[str, Detections]) -> Shown:
    facts: dict[str, Any] = {"value": each.value, **each.factors, "boxes": int(pool.num_boxes[row])}
    if each.score is not None:
        facts["score"] = each.score
    if each.nearest is not None:
        facts["nearest"] = each.nearest
    return Shown(each.rank, pictures.picture(pool, row, data, found.get(each.file_name)), each.reason, facts)


def _struggles(pool: Pool) -> list[tuple[str, str, list[int]]]:
    """Title, score and rows of the images that are worst by each score; and of those without any box."""
    kinds = []
    for name, title in _WORDS.items():
        order = np.argsort(-pool.scores[name], kind="stable")[:_IN_STRIP]
        kinds.append((title, name, [int(each) for each in order if pool.scores[name][each] > 0]))
    empty = np.flatnonzero(pool.num_boxes == 0)
    spread = empty[:: max(1, -(-len(empty) // _EMPTY_IN_STRIP))]
    kinds.append(("Nothing detected", "", [int(each) for each in spread]))
    return [each for each in kinds if each[2]]


def _strip(pool: Pool, title: str, name: str, rows: list[int], small: Any) -> Strip:
    if not name:
        count = int((pool.num_boxes == 0).sum())
        note = f"{count:,} of {len(pool.file_names):,} images; {len(rows)} of them, evenly spread, are shown."
        return Strip(title, note, [(small(each), pool.file_names[each]) for each in rows])
    captions = [(small(each), f"{pool.scores[name][each]:.3g} · {pool.file_names[each]}") for each in rows]
    return Strip(title, f"The {len(rows)} images of the highest score.", captions)


def _summary(run: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    counts, picked = run["counts"], run["selection"]
    lines: list[tuple[str, Any, str]] = [
        (
            "picks",
            counts["selected"],
            f"of {counts['usable']:,} usable images, {counts['labelled']:,} of which are labelled",
        )
    ]
    if counts["failed"]:
        lines.append(("unusable", counts["failed"], f"of {counts['images']:,} images; the reasons are below"))
    if "covering_radius" in picked:
        beside = f"as many random picks: {picked['covering_radius_random']:.3f} (mean of 20)"
        lines.append(("covering radius", picked["covering_radius"], beside))
        pairs = f"pairs of picks less than {picked['near_duplicates_within']} apart"
        lines.append(("near-duplicates", picked["near_duplicate_pairs"], pairs))
    if "expected_boxes" in picked:
        lines.append(
            ("boxes to label", round(picked["expected_boxes"]), f"expected, by the scores of {picked['boxes']:,}")
        )
        share = picked["without_boxes"]
        lines.append(("without detections", share["picks"], f"share of the picks; of the pool {share['pool']:.3f}"))
    if picked["expected_cost"]:
        lines.append(("expected cost", picked["expected_cost"], "by CORAL_COST_PER_IMAGE and CORAL_COST_PER_BOX"))
    return lines


def _by_class(pool: Pool, run: Mapping[str, Any]) -> list[ByClass]:
    if not pool.has_detections:
        return []
    picked, total = run["selection"]["classes"], run["selection"]["boxes"]
    order = [int(each) for each in np.argsort(-pool.class_counts, kind="stable") if pool.class_counts[each] > 0]
    names, counts = pool.provenance.class_names, pool.class_counts
    return [
        ByClass(
            *(names[each], int(counts[each]), picked[names[each]]["picks"] / max(1, total)),
            float(pool.class_scores[each] / counts[each]),
            float(pool.class_entropies[each] / counts[each]),
            float(pool.class_low_confidence[each] / counts[each]),
        )
        for each in order
    ]


def _map(pool: Pool, embeddings: npt.NDArray[np.float32], labelled: list[int], picks: list[int]) -> Map:
    """The two directions of the largest variance, and a sample of the pool in them."""
    fitted = unit(embeddings[:: max(1, -(-len(embeddings) // _FITTED))]).astype(np.float64)
    center = fitted.mean(axis=0)
    values, vectors = np.linalg.eigh((fitted - center).T @ (fitted - center))
    axes = vectors[:, ::-1][:, :2] * np.sign(vectors[:, ::-1][:, :2].sum(axis=0) + 1e-300)
    if axes.shape[1] < 2:
        axes = np.concatenate([axes, np.zeros((len(axes), 2 - axes.shape[1]))], axis=1)
    special = {**dict.fromkeys(labelled[:_ON_MAP], "labelled"), **dict.fromkeys(picks, "pick")}
    room = max(0, _ON_MAP - len(special))
    sample = range(0, len(embeddings), max(1, -(-len(embeddings) // max(1, room)))) if room else ()
    rows = sorted({*special, *sample})
    explained = float(values[::-1][:2].sum() / total) if (total := values.sum()) > 0 else 1.0
    return Map(
        points=(unit(embeddings[rows]).astype(np.float64) - center) @ axes,
        kind=[special.get(each, "pool") for each in rows],
        names=[pool.file_names[each] for each in rows],
        thumbnails=[pictures.hover(pool.thumbnails[each]) for each in rows],
        explained=explained,
        of=len(embeddings),
    )


def _histogram(name: str, values: npt.NDArray[np.float64], picks: list[int]) -> Histogram:
    edges = np.linspace(0, max(1.0, float(values.max(initial=0))), _BINS + 1)
    shares = []
    for some in (values, values[picks]):
        counts, _ = np.histogram(some, edges)
        shares.append((counts / max(1, len(some))).round(6).tolist())
    return Histogram(name, edges.round(6).tolist(), *shares)


def _duplicates(pool: Pool, embeddings: npt.NDArray[np.float32]) -> tuple[str, list[tuple[Picture, int]]]:
    found = duplicates.find(embeddings)
    among = "" if found.looked_at == len(embeddings) else f" (evenly spread, of {len(embeddings):,})"
    note = f"{found.with_one:,} of {found.looked_at:,} images{among} lie within {duplicates.WITHIN} of another."
    largest = found.groups[:_GROUPS]
    return note, [(pictures.picture(pool, row, pool.thumbnails[row], None), count) for row, count in largest]


def _failures(failures: Sequence[tuple[str, str]]) -> list[tuple[str, int, list[str]]]:
    """By reason, whatever the numbers in it, the most frequent first."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for name, reason in failures:
        kinds[re.sub(r"\d[\d,.]*", "#", reason)].append(name)
    order = sorted(kinds, key=lambda each: (-len(kinds[each]), each))
    return [(each, len(kinds[each]), kinds[each][:_EXAMPLES]) for each in order]


def _tables(run: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, Any]]]]:
    detector = {name: value for name, value in run["detector"].items() if name != "class_names"}
    detector |= {"classes": len(run["detector"]["class_names"]), "device": run["device"]}
    given = {name: value for name, value in run["settings"].items() if value is not None}
    return [
        ("Settings", list(given.items())),
        ("Detector", list(detector.items())),
        ("Embedding", list(run["embedding"].items())),
        ("Seconds by stage", list(run["seconds"].items())),
        ("Versions", [("coralpick", run["coralpick"]), *run["versions"].items()]),
    ]
