"""Where the detector struggles: classes, and images with high scores that differ from each other."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from job import scores
from job.parts.boxes import Detections
from job.parts.pool import Pool, Rows
from job.report import pictures
from job.report.content import ClassRow, Strip
from job.report.sample import spread
from job.select import select
from job.select.engine import as_points

if TYPE_CHECKING:
    from job.select.points import Embeddings

_MAX_STRIP_IMAGES = 6
_MAX_HIGHEST = 200  # images among which a strip is chosen
_SHARE_OF_HIGHEST = 4  # or a quarter of a small pool

Struggles = list[tuple[scores.Score | None, list[int]]]


def find(pool: Pool, embeddings: "Embeddings | None") -> Struggles:
    """Rows of images with high values, by score; and, with None for the score, of images without boxes."""
    struggles: Struggles = [
        (score, choose_diverse(pool.scores[score.name], embeddings, _MAX_STRIP_IMAGES))
        for score in scores.TABLE.values()
        if score.title is not None
    ]
    empty = np.flatnonzero(pool.num_boxes == 0)
    among = empty[spread(len(empty), _MAX_HIGHEST)]
    struggles.append((None, choose_among(among, np.ones(len(among)), embeddings, _MAX_STRIP_IMAGES)))
    return [(score, rows) for score, rows in struggles if rows]


def choose_diverse(values: npt.NDArray[np.float64], embeddings: "Embeddings | None", count: int) -> list[int]:
    """Chooses rows with high values that differ from each other, the highest value first.

    Args:
        values: (n,) not negative; rows with 0 are not chosen.
        embeddings: (n, d); without any, the rows with the highest values are chosen.
        count: Number of rows.
    """
    limit = min(_MAX_HIGHEST, max(count, len(values) // _SHARE_OF_HIGHEST))
    limit = count if embeddings is None else min(limit, len(values))
    lowest = np.partition(values, -limit)[-limit] if limit < len(values) else 0.0
    above = np.flatnonzero(values > lowest)
    equal = np.flatnonzero((values == lowest) & (values > 0))[: max(0, limit - len(above))]
    highest = np.sort(np.concatenate([above, equal]))
    return choose_among(highest, values[highest], embeddings, count)


def choose_among(rows: Rows, values: npt.NDArray[np.float64], embeddings: "Embeddings | None", count: int) -> list[int]:
    """Chooses some of few rows, as `choose_diverse` does.

    Args:
        rows: (m,) the rows.
        values: (m,) their values.
        embeddings: (n, d) embeddings of all n images; None without any.
        count: Number of rows.
    """
    if embeddings is None or len(rows) <= count:
        chosen = np.argsort(-values, kind="stable")[:count]
    else:
        chosen = select(as_points(embeddings).rows(rows.tolist()), values, count).indices
    return [int(row) for row in rows[chosen]]


def make_strip(
    pool: Pool,
    score: scores.Score | None,
    rows: list[int],
    detections: Mapping[str, Detections],
    thumbnails: Mapping[int, bytes],
    painter: pictures.Painter,
) -> Strip:
    """Makes the strip of a score, or, with None for the score, of the images without boxes."""
    names = [pool.file_names[row] for row in rows]
    images = [
        painter.make_picture(row, thumbnails[row], detections.get(name)) for row, name in zip(rows, names, strict=True)
    ]
    if score is None:
        count = int((pool.num_boxes == 0).sum())
        note = f"{count:,} of {len(pool.file_names):,} images; {len(rows)} of them are shown."
        return Strip("Nothing detected", note, list(zip(images, names, strict=True)))
    values = pool.scores[score.name]
    captions = [f"{values[row]:.3g} · {name}" for row, name in zip(rows, names, strict=True)]
    note = f"High scores on images that differ from each other. This score favours {score.favours}."
    return Strip(f"{score.title} ({score.name})", note, list(zip(images, captions, strict=True)))


def make_class_rows(pool: Pool, run: Mapping[str, Any], colors: Mapping[str, int]) -> list[ClassRow]:
    """Makes the table of classes, the most boxes first."""
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
            color=colors[names[index]],
        )
        for index in order_classes(pool)
        if counts[index] > 0
    ]


def order_classes(pool: Pool) -> Sequence[int]:
    """Numbers of the classes, the most boxes first."""
    order: list[int] = np.argsort(-pool.class_counts, kind="stable").tolist()
    return order
