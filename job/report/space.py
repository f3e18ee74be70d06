"""The map of the embeddings: which images it shows, and what they can be coloured by."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from job import scores
from job.names import shorten_text
from job.parts.pool import Pool, Rows
from job.report import metadata, pictures
from job.report.content import Coloring, Map
from job.report.distributions import get_folder
from job.report.projection import Projection
from job.report.sample import MAX_IMAGES, NO_BOXES, BoxSample, spread
from job.select import select
from job.select.engine import as_points
from job.select.points import to_unit_length

if TYPE_CHECKING:
    from job.select.points import Embeddings

MAX_THUMBNAILS = 1500
_MAX_LABELLED = 20_000
_NUM_CLUSTERS = 8
_MAX_CLUSTERED = 2_000  # images among which the centers of the clusters are chosen
_ROWS_PER_BLOCK = 8192


def choose_rows(count: int, labelled: Sequence[int], picks: Sequence[int]) -> Rows:
    """Chooses the images to show: all picks, labelled images, and an even sample of the others.

    Args:
        count: Number of images in the pool.
        labelled: Rows of the labelled images.
        picks: Rows of the picks.
    """
    special = {*np.asarray(labelled, np.int64)[spread(len(labelled), _MAX_LABELLED)].tolist(), *picks}
    return np.array(sorted({*special, *spread(count, MAX_IMAGES - len(special)).tolist()}), np.int64)


def choose_thumbnails(rows: Rows, picks: Sequence[int]) -> list[int]:
    """Rows of the images that have a thumbnail on the map: all picks, and an even sample of the others."""
    others = rows[spread(len(rows), MAX_THUMBNAILS - len(picks))].tolist()
    return sorted({*others, *picks})


def make_map(
    pool: Pool,
    embeddings: "Embeddings",
    projection: Projection,
    rows: Rows,
    labelled: Sequence[int],
    picks: Sequence[int],
    sample: BoxSample | None,
    thumbnails: Mapping[int, bytes],
    run: Mapping[str, Any],
) -> Map:
    """Makes the map.

    Args:
        pool: The images.
        embeddings: (n, d) in the order of the pool.
        projection: All images in two dimensions.
        rows: (m,) rows of the images to show, see `choose_rows`.
        labelled: Rows of the labelled images.
        picks: Rows of the picks, best first.
        sample: Boxes of these images; None without detections.
        thumbnails: Thumbnails of the images of `choose_thumbnails`, by their rows.
        run: Content of run.json.
    """
    ranks = np.zeros(len(pool.file_names), np.int64)
    ranks[list(picks)] = np.arange(1, len(picks) + 1)
    is_labelled = np.zeros(len(pool.file_names), bool)
    is_labelled[list(labelled)] = True
    place = {int(row): number for number, row in enumerate(rows)}
    return Map(
        points=projection.points[rows],
        file_names=list(pool.file_names.take(rows)),
        ranks=ranks[rows],
        is_labelled=is_labelled[rows],
        colorings=_make_colorings(pool, embeddings, rows, sample, run),
        thumbnails={place[row]: pictures.make_hover(thumbnails[row]) for row in choose_thumbnails(rows, picks)},
        explained=projection.explained,
        total=len(pool.file_names),
    )


def _make_colorings(
    pool: Pool,
    embeddings: "Embeddings",
    rows: Rows,
    sample: BoxSample | None,
    run: Mapping[str, Any],
) -> list[Coloring]:
    colorings: list[Coloring] = []
    if sample is not None:
        name = find_score(run, pool)
        colorings.append(Coloring(f"score ({name})", pool.scores[name][rows].round(4), []))
        colorings.append(_color_by_class(pool.provenance.class_names, sample))
    clusters = find_clusters(embeddings, rows)
    if clusters.max(initial=0) > 0:
        names = [f"cluster {number}" for number in range(1, int(clusters.max()) + 2)]
        colorings.append(Coloring("cluster", clusters, names))
    folders = [get_folder(name) for name in pool.file_names.take(rows)]
    columns = {"folder": pa.array(folders, pa.string())} if len(set(folders)) > 1 else {}
    taken = pa.array(rows)
    columns |= {name: column.take(taken) for name, column in list(pool.metadata.items())[: metadata.MAX_COLUMNS]}
    for name, column in columns.items():
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            if len(np.unique(values[np.isfinite(values)])) > metadata.MAX_VALUES:
                colorings.append(Coloring(shorten_text(name), values, []))
                continue
        if (grouped := metadata.group(column)) is not None:
            colorings.append(Coloring(shorten_text(name), grouped[1], grouped[0]))
    return colorings


def find_score(run: Mapping[str, Any], pool: Pool) -> str:
    """The name of the score that the selection ranks by; of a mixture, its first."""
    setting = str(run["settings"].get("CORAL_SCORE", ""))
    named = [name for name in scores.TABLE if name in setting and name in pool.scores]
    return named[0] if named else next(iter(pool.scores))


def _color_by_class(class_names: Sequence[str], sample: BoxSample) -> Coloring:
    """By the class of the most confident box."""
    words: dict[int, str | None] = {NO_BOXES: "nothing detected", **dict(enumerate(class_names))}
    names = [words[index] for index in sample.top_class.tolist()]
    labels, groups = metadata.group(pa.array(names, pa.string())) or ([], np.zeros(0, np.int64))
    return Coloring("class", groups, labels)


def find_clusters(embeddings: "Embeddings", rows: Rows) -> Rows:
    """Assigns images to the nearest of eight centers; the largest cluster is 0.

    The centers are typical images that are far from each other: the picks of the strategy ``typicality``.

    Args:
        embeddings: (n, d).
        rows: (m,) rows of the images.
    """
    points = as_points(embeddings)
    among = points.rows(rows[spread(len(rows), _MAX_CLUSTERED)].tolist())
    chosen = select(among, None, min(_NUM_CLUSTERS, len(among)), strategy="typicality").indices
    centers = to_unit_length(among[chosen])
    of_image = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), _ROWS_PER_BLOCK):
        block = slice(start, start + _ROWS_PER_BLOCK)
        of_image[block] = (to_unit_length(points.rows(rows[block].tolist())) @ centers.T).argmax(axis=1)
    order = np.argsort(-np.bincount(of_image, minlength=len(centers)), kind="stable")
    number = np.empty(len(centers), np.int64)
    number[order] = np.arange(len(centers))
    result: Rows = number[of_image]
    return result
