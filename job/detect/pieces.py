"""Pieces: what becomes one part.

Pieces are cut from the whole listing, not from its unfinished images, so that an interrupted run puts the same images
into the same batches as an uninterrupted one, whoever detects in which piece.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from detectron2.utils.logger import log_first_n

from job import parts
from job.names import shorten
from job.progress import Progress, now
from job.storage import Listing

_BATCHES_IN_PART = 64


@dataclass(frozen=True)
class Piece:
    """Some images of a listing.

    Attributes:
        number: Its place in the listing, from 0.
        images: Its unfinished images; at least one.
    """

    number: int
    images: Listing


class Told(Protocol):
    """Who is told what becomes of the pieces, from several threads."""

    def failed(self, row: parts.Row) -> None:
        """An image cannot be used; its row says why."""

    def detected(self, count: int) -> None:
        """So many images, of these or of earlier pieces, have their rows."""

    def written(self, piece: Piece) -> None:
        """The part of a piece is in the output, with all its rows."""


class Shown:
    """Shows what becomes of the pieces to the user."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def failed(self, row: parts.Row) -> None:
        """Names the first images that cannot be used, and counts all."""
        log_first_n(logging.WARNING, f"{shorten(row.file_name)} cannot be used: {row.error}", n=10, name=__name__)
        now.failures += 1

    def detected(self, count: int) -> None:
        """Counts the images that have their rows."""
        self._progress.add(count)

    def written(self, piece: Piece) -> None:
        """Nothing: progress counts images."""


def choose_part_size(part_size: int | None, num_images: int, batch_size: int) -> int:
    """Chooses the number of images in one part.

    A part ends with incomplete batches, one of each shape, so it has many batches.

    Args:
        part_size: CORAL_PART_SIZE; None to choose.
        num_images: Number of images of the listing.
        batch_size: Images in one forward pass.
    """
    return part_size or max(parts.choose_size(num_images), _BATCHES_IN_PART * batch_size)


def cut(listing: Listing, todo: npt.NDArray[np.bool_], part_size: int) -> Iterator[Piece]:
    """Cuts a listing into pieces; pieces without unfinished images are left out.

    Args:
        listing: The images.
        todo: (n,) whether each image is unfinished.
        part_size: Images of the listing in one piece.
    """
    for number, start in enumerate(range(0, len(listing), part_size)):
        unfinished = todo[start : start + part_size]
        if unfinished.any():
            some = listing.table.slice(start, part_size)
            yield Piece(number, Listing(some.filter(pa.array(unfinished))))  # a copy; a slice would hold the listing
