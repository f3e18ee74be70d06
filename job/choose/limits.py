"""Which images may be picked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from job.select import Apart


@dataclass(frozen=True)
class Limits:
    """Which images may be picked.

    Attributes:
        labelled: Rows of the labelled images.
        elsewhere: (k, d) embeddings of labelled images that are not in the pool; None for none.
        candidates: Rows that may be picked; all if None.
        min_distance: Smallest distance of a pick to every labelled or picked image.
        apart: What keeps picks of one video apart in time; None for nothing.
    """

    labelled: Sequence[int]
    elsewhere: npt.NDArray[np.float32] | None
    candidates: Sequence[int] | None
    min_distance: float
    apart: Apart | None
