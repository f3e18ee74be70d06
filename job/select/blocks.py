"""A pass over rows that lie in several places: each has a block of consecutive rows, and makes a pass over them.

What a block knows is a function of its rows, of what they are worth, and of what it was told. So one that is lost can
be made again anywhere, and told everything again. The picks stay those of one pass over all rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from job.select.passes import ArrayPass
from job.select.points import ArrayPoints, Points, Vectors, to_unit_length
from job.select.shortlist import Rows, Shortlist, Worth


@dataclass(frozen=True)
class News:
    """What a block was not told yet.

    Attributes:
        worth: What its rows are worth, for a new selection; None to go on with the last one.
        centers: (c, d) of unit length, the new centers.
        forbidden: Those of its rows that may not be picked any more, counted from its first one.
    """

    worth: Worth | None
    centers: Vectors
    forbidden: Rows


class Block:
    """Consecutive rows, which are counted from 0 here, and the pass over them.

    Args:
        load: Returns the (m, d) embeddings of the rows. It is called when they are first needed.
        start: The first of them among all rows, for errors.
    """

    def __init__(self, load: Callable[[], npt.NDArray[np.floating]], start: int) -> None:
        self._load, self._start = load, start
        self._pass: ArrayPass | None = None

    @cached_property
    def _points(self) -> ArrayPoints:
        return ArrayPoints(self._load())

    def get_shape(self) -> tuple[int, int]:
        """Returns (m, d), once the rows are here."""
        return self._points.shape

    def read(self, rows: Rows) -> Vectors:
        """Returns the embeddings of some rows, of unit length."""
        return to_unit_length(self._points.rows(rows.tolist()))

    def choose_first(self, news: News) -> tuple[int, float] | None:
        """As `job.select.shortlist.Pass` does."""
        return self._prepare(news).choose_first()

    def shortlist(self, news: News, size: int) -> Shortlist:
        """As `job.select.shortlist.Pass` does, but without vectors: few of the rows will be among the best of all."""
        listed = self._prepare(news).shortlist(news.centers, news.forbidden, size)
        return replace(listed, vectors=listed.vectors[:0])

    def _prepare(self, news: News) -> ArrayPass:
        if news.worth is not None:
            worth = replace(news.worth, allowed=news.worth.allowed.copy())  # what was sent is read-only
            self._pass = ArrayPass(self._points, worth, self._start)
        if self._pass is None:
            raise RuntimeError("a block must be told first what its rows are worth")
        return self._pass


class Blocks(Protocol):
    """The blocks, wherever they are.

    Attributes:
        starts: (b + 1,) first row of each block, and the number of all rows.
    """

    starts: Rows

    def ask(
        self,
        method: str,
        make_arguments: Callable[[int], tuple[Any, ...]],
        blocks: Sequence[int],
        forget: Callable[[int], None],
    ) -> list[Any]:
        """Calls a method of some blocks, and returns their answers in the same order.

        Args:
            method: Name of the method of `Block`.
            make_arguments: Makes the arguments for a block, again for one that was lost.
            blocks: Numbers of the blocks.
            forget: Called with the number of a block that was lost, and knows nothing any more.
        """


class BlockPoints:
    """Embeddings, and the blocks that make the passes over them.

    Args:
        points: (n, d) all embeddings, for what reads them in another way.
        blocks: The blocks.
    """

    def __init__(self, points: Points, blocks: Blocks) -> None:
        self._points, self._blocks, self.shape = points, blocks, points.shape

    def blocks(self) -> Iterator[tuple[int, npt.NDArray[np.floating]]]:
        """See `job.select.points.Points`."""
        return self._points.blocks()

    def rows(self, indices: Sequence[int]) -> npt.NDArray[np.floating]:
        """See `job.select.points.Points`."""
        return self._points.rows(indices)

    def make_pass(self, worth: Worth) -> "BlockPass":
        """See `job.select.shortlist.WithPass`."""
        return BlockPass(self._blocks, self.shape, worth)


class BlockPass:
    """A pass by several blocks (`job.select.shortlist`). It keeps no array of n besides what rows are worth at first.

    Args:
        blocks: The blocks.
        shape: (n, d) of all rows.
        worth: What they are worth.
    """

    def __init__(self, blocks: Blocks, shape: tuple[int, int], worth: Worth) -> None:
        self._blocks, self.shape, self._worth = blocks, shape, worth
        self._history: list[tuple[Vectors, Rows]] = []
        self._num_told: list[int | None] = [None] * (len(blocks.starts) - 1)

    def read(self, rows: Sequence[int]) -> Vectors:
        """See `job.select.shortlist.Pass`."""
        wanted = np.asarray(rows, np.int64)
        block_of = np.searchsorted(self._blocks.starts, wanted, side="right") - 1
        asked = np.unique(block_of).tolist()

        def make_arguments(block: int) -> tuple[Rows]:
            return (wanted[block_of == block] - self._blocks.starts[block],)

        result = np.empty((len(wanted), self.shape[1]), np.float32)
        answers = self._blocks.ask("read", make_arguments, asked, self._forget)
        for block, vectors in zip(asked, answers, strict=True):
            result[block_of == block] = vectors
        return result

    def choose_first(self) -> tuple[int, float] | None:
        """See `job.select.shortlist.Pass`."""
        found = zip(self._blocks.starts.tolist(), self._ask("choose_first"), strict=False)
        chosen = [(start + one[0], one[1]) for start, one in found if one is not None]
        ranks = self._worth.get_ranks(np.array([row for row, _ in chosen], np.int64)).tolist()
        best = min(zip(chosen, ranks, strict=True), key=lambda one: (-one[0][1], one[1]), default=None)
        return None if best is None else best[0]

    def shortlist(self, centers: Vectors, forbidden: Rows, size: int) -> Shortlist:
        """See `job.select.shortlist.Pass`."""
        self._history.append((centers.copy(), forbidden))
        found = zip(self._blocks.starts.tolist(), self._ask("shortlist", size), strict=False)
        listed = merge([_shift(one, start, with_ranks=self._worth.rank is None) for start, one in found], size)
        return replace(listed, vectors=self.read(listed.rows.tolist()))

    def _ask(self, method: str, *more: Any) -> list[Any]:
        every = range(len(self._num_told))
        answers = self._blocks.ask(method, lambda block: (self._tell(block), *more), every, self._forget)
        self._num_told = [len(self._history)] * len(self._num_told)
        return answers

    def _tell(self, block: int) -> News:
        num_told = self._num_told[block]
        start, end = self._blocks.starts[block : block + 2].tolist()
        untold = self._history[num_told or 0 :]
        centers = [np.empty((0, self.shape[1]), np.float32), *(some for some, _ in untold)]
        rows = np.concatenate([np.empty(0, np.int64), *(some for _, some in untold)])
        worth = self._worth.cut(start, end) if num_told is None else None
        return News(worth, np.concatenate(centers), rows[(rows >= start) & (rows < end)] - start)

    def _forget(self, block: int) -> None:
        self._num_told[block] = None


def _shift(listed: Shortlist, start: int, *, with_ranks: bool) -> Shortlist:
    """Rows of a block as rows of all, and their ranks, too, where these are the order of the rows."""
    (value, rank), worth = listed.bound, listed.worth
    if with_ranks:
        rank += start
        worth = replace(worth, rank=worth.get_ranks(np.arange(len(listed.rows))) + start)
    return replace(listed, rows=listed.rows + start, worth=worth, bound=(value, rank) if value >= 0 else (-1.0, 0))


def merge(found: Sequence[Shortlist], size: int) -> Shortlist:
    """Makes the shortlist of all rows from those of their blocks, each of so many rows.

    No row that a block has left out is among the best: as many rows of its block are better.

    Args:
        found: The shortlists, with rows and ranks that count in all rows.
        size: Number of rows.

    Returns:
        The shortlist, without vectors.
    """
    rows, upper = (np.concatenate([getattr(listed, name) for listed in found]) for name in ("rows", "upper"))
    ranks, allowed = (np.concatenate([getattr(listed.worth, name) for listed in found]) for name in ("rank", "allowed"))
    weights = [listed.worth.weight for listed in found if listed.worth.weight is not None]
    order = np.lexsort((ranks, -upper))
    bounds = [listed.bound for listed in found]
    bounds += [(float(upper[row]), int(ranks[row])) for row in order[size : size + 1]]
    best = order[:size]
    some = replace(found[0].worth, weight=np.concatenate(weights) if weights else None, allowed=allowed, rank=ranks)
    bound = max(bounds, key=lambda one: (one[0], -one[1]))
    return Shortlist(rows[best], found[0].vectors, some.take(best), upper[best], bound)
