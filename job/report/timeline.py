"""Timelines: the score of the frames of a folder or clip, in the order of their names, and the picks among them."""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from posixpath import splitext
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from job import video
from job.parts.pool import Pool
from job.report import cuts
from job.report.content import Timeline
from job.report.distributions import get_folder

if TYPE_CHECKING:
    from job.select.points import Embeddings

_MAX_TIMELINES = 8
_MIN_IMAGES, _MAX_IMAGES = 24, 100_000  # the names of these are in memory
_MAX_DIGITS = 20
_MAX_PLACES = 400  # of the line; each is the highest score of its images


def make_timelines(
    pool: Pool, values: npt.NDArray[np.float64], picks: Sequence[int], embeddings: "Embeddings | None"
) -> list[Timeline]:
    """Makes the timelines of the folders and clips that have the most picks.

    Args:
        pool: The images.
        values: (n,) values of the score.
        picks: Rows of the picks, best first.
        embeddings: (n, d) embeddings of the images, which show the cuts of clips; None without any.
    """
    counts = Counter(get_folder(pool.file_names[row]) for row in picks)
    rank = {row: number for number, row in enumerate(picks, start=1)}
    timelines: list[Timeline] = []
    for folder in sorted(counts, key=lambda name: (-counts[name], name)):
        if len(timelines) == _MAX_TIMELINES:
            break
        rows = list_rows(pool.file_names, folder)
        if len(rows) >= _MIN_IMAGES:
            found = []
            if embeddings is not None and video.is_video(folder):
                found = cuts.find(embeddings, np.array(rows, np.int64))
            ranks = {place: rank[row] for place, row in enumerate(rows) if row in rank}
            timelines.append(_make(folder, values[rows], ranks, found))
    return timelines


def list_rows(file_names: Sequence[str], folder: str) -> list[int]:
    """Lists the rows of the images of a folder or clip, with numbers in their names in numeric order.

    A folder with more than 100,000 images, those of its own folders included, has none.

    Args:
        file_names: (n,) names, sorted bytewise.
        folder: See `get_folder`.
    """
    stem = splitext(folder)[0]
    ends = [(stem + "-", stem + ".") if video.is_video(folder) else (folder + "/", folder + "0")]
    ranges = [range(bisect_left(file_names, start), bisect_left(file_names, end)) for start, end in ends]
    if folder == ".":
        ranges = [range(len(file_names))]
    if sum(map(len, ranges)) > _MAX_IMAGES:
        return []
    names = {row: name for rows in ranges for row in rows if get_folder(name := file_names[row]) == folder}
    return sorted(names, key=lambda row: (_pad_numbers(names[row]), row))


def _pad_numbers(name: str) -> str:
    """A key by which ``frame-9`` comes before ``frame-10``."""
    return re.sub(r"\d+", lambda found: found[0].zfill(_MAX_DIGITS), name)


def _make(folder: str, values: npt.NDArray[np.float64], ranks: dict[int, int], found: list[int]) -> Timeline:
    width = -(-len(values) // _MAX_PLACES)
    places = [start + int(values[start : start + width].argmax()) for start in range(0, len(values), width)]
    return Timeline(
        name=folder,
        num_images=len(values),
        places=places,
        values=values[places].round(4).tolist(),
        picks=[(place, round(float(values[place]), 4), rank) for place, rank in ranks.items()],
        cuts=found,
    )
