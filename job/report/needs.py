"""Which images the report shows: chosen before the boxes are read, once for the report and detections.parquet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from job.parts.boxes import Keeper
from job.parts.pool import Pool, Rows
from job.report import space, struggles
from job.report.sample import BoxSample
from job.report.struggles import Struggles

if TYPE_CHECKING:
    from job.select.points import Embeddings


@dataclass(frozen=True)
class Needs:
    """What the report needs of the boxes.

    Attributes:
        struggles: Where the detector struggles; empty without detections.
        shown: (m,) rows of the images on the map, rising.
        keeper: Keeps the boxes of the picks and of `struggles`.
        sample: Gets the boxes of the images on the map.
    """

    struggles: Struggles
    shown: Rows
    keeper: Keeper
    sample: BoxSample


def choose(pool: Pool, embeddings: "Embeddings | None", labelled: Sequence[str], picks: Sequence[int]) -> Needs:
    """Chooses what the report shows.

    Args:
        pool: The images.
        embeddings: (n, d) in the order of the pool; None without any.
        labelled: File names of the images that have labels.
        picks: Rows of the picks.
    """
    found = struggles.find(pool, embeddings) if pool.has_detections else []
    known = pool.file_names.find(labelled)
    shown = space.choose_rows(len(pool.file_names), known[known >= 0].tolist(), picks)
    kept = {*picks, *(row for _, rows in found for row in rows)}
    return Needs(found, shown, Keeper(pool, kept), BoxSample(pool, shown))
