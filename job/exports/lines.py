"""Lines of text for each image, in a temporary file: added in any order, read in the order of the images."""

import os
from collections.abc import Iterator, Sequence

import numpy as np

from job.spool import Spool


class ImageLines:
    """The lines of all images. Of each image, 16 bytes are in memory.

    Args:
        count: Number of images.

    Raises:
        ServiceUnavailable: If there is no room for the file.
    """

    def __init__(self, count: int) -> None:
        self._spool = Spool()
        self._starts, self._sizes = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._end = 0

    def add(self, number: int, lines: Sequence[bytes]) -> None:
        """Adds the lines of an image.

        Args:
            number: Number of the image, from 0. Each image is added at most once.
            lines: Its lines, without line breaks.

        Raises:
            ServiceUnavailable: If the folder for temporary files is full.
        """
        data = b"".join(line + b"\n" for line in lines)
        self._starts[number], self._sizes[number] = self._end, len(data)
        self._end += self._spool.file.write(data)

    def __iter__(self) -> Iterator[list[bytes]]:
        """Yields the lines of each image; none for one that was not added."""
        for start, size in zip(self._starts.tolist(), self._sizes.tolist(), strict=True):
            yield os.pread(self._spool.file.fileno(), size, start).split(b"\n")[:-1]
