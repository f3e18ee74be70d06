"""The pieces that wait for a worker, and what becomes of those whose worker is lost.

A piece that was at a worker when that ended is a suspect: one of its images may have ended it, as no decoder should. So
a suspect comes after all other pieces, alone at its worker. If it ends workers again and again, it is split, until one
image is left, which becomes a failed row.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from job.detect.pieces import Piece
from job.storage import Entry, Listing

MAX_LOSSES = 3
_FIRST_NUMBER_OF_HALVES = 1 << 40  # no listing has so many pieces


@dataclass
class _Suspect:
    """A piece that was at a worker when that ended.

    Attributes:
        losses: Workers that it was at when they ended.
        allowed: Losses after which it is split. A half is split at once, since its whole ended workers before.
    """

    piece: Piece
    losses: int = 0
    allowed: int = MAX_LOSSES


class Todo:
    """The pieces that wait.

    Args:
        pieces: All pieces.
    """

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self._pieces = pieces
        self._again: deque[Piece] = deque(itertools.islice(pieces, 1))
        self._waiting: deque[_Suspect] = deque()
        self._suspects: dict[int, _Suspect] = {}
        self._numbers = itertools.count(_FIRST_NUMBER_OF_HALVES)

    def take(self, *, is_idle: bool) -> Piece | None:
        """Takes a piece for a worker.

        Args:
            is_idle: Whether the worker has no other piece, so that it may get a suspect.
        """
        if self._again:
            piece = self._again.popleft()
            if not self._again:
                self._again.extend(itertools.islice(self._pieces, 1))
            return piece
        return self._waiting.popleft().piece if is_idle and self._waiting else None

    def is_empty(self) -> bool:
        """Whether no piece waits."""
        return not (self._again or self._waiting)

    def is_suspect(self, piece: Piece) -> bool:
        """Whether a piece was at a worker when that ended, so that it must be alone."""
        return piece.number in self._suspects

    def finish(self, piece: Piece) -> None:
        """Forgets a finished piece."""
        self._suspects.pop(piece.number, None)

    def give_back(self, pieces: list[Piece]) -> None:
        """Takes back pieces whose worker is gone for a reason of its own, such as a lost machine."""
        for piece in pieces:
            if suspect := self._suspects.get(piece.number):
                self._waiting.append(suspect)
            else:
                self._again.append(piece)

    def suspect(self, pieces: list[Piece]) -> list[tuple[Entry, int]]:
        """Takes back the pieces of a worker that ended while it worked on them.

        Returns:
            The images that are given up: each is the last one of a piece that ended so many workers.
        """
        given_up: list[tuple[Entry, int]] = []
        for piece in pieces:
            suspect = self._suspects.setdefault(piece.number, _Suspect(piece))
            suspect.losses += 1
            if suspect.losses < suspect.allowed:
                self._waiting.append(suspect)
                continue
            del self._suspects[piece.number]
            if len(piece.images) == 1:
                given_up += [(entry, suspect.losses) for entry in piece.images]
                continue
            table, middle = piece.images.table, len(piece.images) // 2
            for half in (table.slice(0, middle), table.slice(middle)):
                number = next(self._numbers)
                self._suspects[number] = _Suspect(Piece(number, Listing(half)), suspect.losses, suspect.losses + 1)
                self._waiting.append(self._suspects[number])
        return given_up
