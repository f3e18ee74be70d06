"""Sizes of picks whose predictions came without them, from the headers of their files."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from job import images
from job.errors import JobError, Stopped, one_line
from job.parts.pool import Pool
from job.prefetch import prefetch
from job.storage import Source

logger = logging.getLogger(__name__)

_MAX_THREADS = 16


def fill_sizes(pool: Pool, rows: Sequence[int], source: Source | None) -> Pool:
    """Returns the pool with the sizes of some images, where they were unknown and their files can be read.

    Args:
        pool: The images.
        rows: Rows of the images.
        source: Where the images are; None if they cannot be read.
    """
    unsized = [row for row in rows if not pool.size[row].all()]
    if source is None or not unsized:
        return pool
    problems: list[str] = []
    is_unreachable = False

    def read(row: int) -> tuple[int, int] | None:
        nonlocal is_unreachable
        if is_unreachable:
            return None
        try:
            return images.read_oriented_size(source.read(pool.file_names[row], pool.etag[row] or None))
        except Stopped:
            raise
        except (JobError, OSError, images.ImageError, ValueError, MemoryError) as error:
            is_unreachable = is_unreachable or isinstance(error, JobError)  # each further try may take minutes
            problems.append(f"{pool.file_names[row][:80]!r}: {one_line(error)}")
            return None

    size = pool.size.copy()
    with ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="sizes") as executor:
        for row, found in zip(unsized, prefetch(executor, read, unsized, ahead=_MAX_THREADS), strict=True):
            if found is not None:
                size[row] = found
    if problems:
        logger.warning("The size of some picks is unknown, because their files cannot be read: %s", problems[0])
    return replace(pool, size=size)
