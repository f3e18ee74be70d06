"""The columns of frames of videos: which video, which frame, and when."""

import logging
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from job.parts.pool import Pool
from job.select import Apart
from job.storage import Listing
from job.video.names import TIME_MARK, parse_frame, split_time

logger = logging.getLogger(__name__)

COLUMNS = ("video", "frame", "time_s")
_CHUNK = 10_000
_TYPES = (pa.string(), pa.int64(), pa.float64())


def count(listing: Listing) -> int:
    """Counts the frames in a listing."""
    _, etags = listing.arrays()
    return pc.sum(pc.match_substring(etags, TIME_MARK)).as_py() or 0


@dataclass(frozen=True)
class FrameOf:
    """Where in a video a frame is.

    Attributes:
        video: Key of the video.
        number: Number of the frame, from 0.
        seconds: Time since the first frame.
    """

    video: str
    number: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s of {self.video}"


def find_frame(pool: Pool, row: int) -> FrameOf | None:
    """Returns where in a video an image is; None if it is no frame."""
    if not pool.frames or not pool.frames["video"][row].is_valid:
        return None
    return FrameOf(*(pool.frames[name][row].as_py() for name in COLUMNS))


def keep_apart(pool: Pool, least_seconds: float) -> Apart | None:
    """Returns what keeps picks of one video apart in time; None if nothing does.

    Args:
        pool: The images, with the columns of frames.
        least_seconds: CORAL_MIN_SECONDS.
    """
    if not least_seconds:
        return None
    if not pool.frames:
        logger.warning("CORAL_MIN_SECONDS=%g has no effect, because no image is a frame of a video.", least_seconds)
        return None
    groups = pool.frames["video"].dictionary_encode().indices.fill_null(-1).to_numpy().astype(np.int64)
    return Apart(groups, pool.frames["time_s"].fill_null(0).to_numpy(), least_seconds)


def list_columns(listing: Listing, pool: Pool) -> dict[str, pa.Array]:
    """Returns the columns of images that are frames.

    Args:
        listing: The images; their ETags hold the times of frames.
        pool: The usable ones of these.

    Returns:
        (n,) key of the video, number of the frame from 0, and its time in seconds, by column; null for images that are
        no frames. No columns if the listing has no frames.
    """
    if not count(listing):
        return {}
    chunks: tuple[list[pa.Array], ...] = ([], [], [])
    for start in range(0, len(pool.file_names), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(pool.file_names)))
        times = [split_time(pool.etag[row])[1] for row in rows]
        names = pool.file_names[rows.start : rows.stop]
        frames = [None if time is None else parse_frame(name) for name, time in zip(names, times, strict=True)]
        values = (
            [frame and frame.video for frame in frames],
            [frame and frame.number for frame in frames],
            [frame and time for frame, time in zip(frames, times, strict=True)],
        )
        for column, kind, found in zip(chunks, _TYPES, values, strict=True):
            column.append(pa.array(found, kind))
    return {name: pa.concat_arrays(column) for name, column in zip(COLUMNS, chunks, strict=True)}
