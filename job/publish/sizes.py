"""Sizes of picks whose predictions came without them, from the headers of their files."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from job.inputs.headers import read_sizes
from job.parts.pool import Pool
from job.storage import Source

logger = logging.getLogger(__name__)


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
    found, problems = read_sizes(source, ((pool.file_names[row], pool.etag[row] or None) for row in unsized))
    size = pool.size.copy()
    for row in unsized:
        if (read := found.get(pool.file_names[row])) is not None:
            size[row] = read.width, read.height
    if problems:
        logger.warning("The size of some picks is unknown, because their files cannot be read: %s", problems[0])
    return replace(pool, size=size)
