"""The columns of frames of videos: which video, which frame, and when."""

import pyarrow as pa
import pyarrow.compute as pc

from job.parts.pool import Pool
from job.storage import Listing
from job.video.names import TIME_MARK, parse_frame, split_time

COLUMNS = ("video", "frame", "time_s")
_CHUNK = 10_000
_TYPES = (pa.string(), pa.int64(), pa.float64())


def list_columns(listing: Listing, pool: Pool) -> dict[str, pa.Array]:
    """Returns the columns of images that are frames.

    Args:
        listing: The images; their ETags hold the times of frames.
        pool: The usable ones of these.

    Returns:
        (n,) key of the video, number of the frame from 0, and its time in seconds, by column; null for images that are
        no frames. No columns if the listing has no frames.
    """
    _, etags = listing.arrays()
    if not pc.any(pc.match_substring(etags, TIME_MARK)).as_py():
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
