"""Embeddings in a torch tensor: the passes run on its device, a CPU or a GPU."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from job.select.points import Array, Vectors, to_unit_length
from job.select.shortlist import MAX_LENGTH, MIN_LENGTH, Rows, Shortlist, Worth, slack

_VALUES_PER_BLOCK = 1 << 26
_VALUES_PER_ARRAY_BLOCK = 1 << 19
_MAX_CENTERS = 1024


class TensorPoints:
    """Embeddings in a tensor, read as arrays.

    Args:
        embeddings: (n, d), on any device.
    """

    def __init__(self, embeddings: torch.Tensor) -> None:
        self._embeddings = embeddings.detach()
        self.shape: tuple[int, int] = (embeddings.shape[0], embeddings.shape[1])

    def blocks(self) -> Iterator[tuple[int, npt.NDArray[np.floating]]]:
        """Yields blocks as arrays in host memory."""
        size = max(256, _VALUES_PER_ARRAY_BLOCK // max(1, self.shape[1]))
        for start in range(0, self.shape[0], size):
            yield start, _to_array(self._embeddings[start : start + size])

    def rows(self, indices: Sequence[int]) -> npt.NDArray[np.floating]:
        """Returns some rows, in the order of the indices."""
        return _take(self._embeddings, indices)

    def make_pass(self, worth: Worth) -> "TensorPass":
        """Makes a pass on the device of the tensor."""
        return TensorPass(self._embeddings, worth)


class TensorPass:
    """A pass in torch, on the device of the tensor (`job.select.shortlist`).

    It copies to the host once per shortlist, not once per pick.

    Args:
        embeddings: (n, d), on any device.
        worth: What they are worth.
    """

    def __init__(self, embeddings: torch.Tensor, worth: Worth) -> None:
        self._embeddings, self._worth = embeddings.detach(), worth
        self._device = embeddings.device
        self.shape: tuple[int, int] = (embeddings.shape[0], embeddings.shape[1])
        count, dimension = embeddings.shape
        self._slack = slack(dimension)
        self._closest = torch.full((count,), -1.0, device=self._device)
        self._scale = torch.empty(count, device=self._device)
        self._weight: torch.Tensor | None = None
        self._allowed = torch.tensor(worth.allowed, device=self._device)
        self._prepared = False

    def read(self, rows: Sequence[int]) -> Vectors:
        """See `job.select.shortlist.Pass`."""
        return to_unit_length(_take(self._embeddings, rows))

    def choose_first(self) -> tuple[int, float] | None:
        """See `job.select.shortlist.Pass`."""
        return self._worth.choose_first()

    def shortlist(self, centers: Vectors, forbidden: Rows, size: int) -> Shortlist:
        """See `job.select.shortlist.Pass`."""
        if not self._prepared:
            self._prepare()
        self._allowed[torch.as_tensor(forbidden, device=self._device)] = False
        tf32_allowed = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False  # the error of its ten-bit mantissa exceeds `slack`
        try:
            with torch.autocast(self._device.type, enabled=False):
                self._merge_centers(torch.from_numpy(centers).to(self._device))
        finally:
            torch.backends.cuda.matmul.allow_tf32 = tf32_allowed
        rows, upper, bound = _find_highest(self._evaluate(), self._worth, size)
        # What is forbidden is kept on the device alone.
        listed = replace(self._worth.take(rows), allowed=np.ones(len(rows), bool))
        return Shortlist(rows, to_unit_length(_take(self._embeddings, rows)), listed, upper, bound)

    def _prepare(self) -> None:
        """Checks that rows are finite, keeps the reciprocals of their lengths, and copies the weights to the device.

        A row of zeros has 0 as its reciprocal, and a row beyond single precision -1.

        Raises:
            ValueError: If a row is not finite.
        """
        self._prepared = True
        for rows, block in self._blocks():
            length = torch.linalg.vector_norm(block.double(), dim=1)
            if not torch.isfinite(length).all():
                row = (rows.start or 0) + int(torch.isfinite(length).logical_not().nonzero()[0])
                raise ValueError(f"embeddings must be finite: row {row} is not")
            extreme = (length < MIN_LENGTH) | (length > MAX_LENGTH)
            scale = torch.where(extreme, -1.0, 1 / length.masked_fill(extreme, 1))
            self._scale[rows] = scale.masked_fill(length == 0, 0).float()
        if self._worth.weight is not None:
            self._weight = torch.from_numpy(self._worth.weight).to(self._device)

    def _merge_centers(self, centers: torch.Tensor) -> None:
        """Raises the rows' `job.select.shortlist.cosines`; those of rows beyond single precision stay unknown."""
        with_zeros = bool((centers == 0).all(dim=1).any())
        for rows, block in self._blocks() if len(centers) else ():
            scale, closest = self._scale[rows], self._closest[rows]
            single = block.float()
            for chunk in torch.split(centers, _MAX_CENTERS):
                cosine = (single @ chunk.T).amax(dim=1) * scale
                closest = torch.where(scale > 0, torch.maximum(closest, cosine), closest)
            if with_zeros:
                closest = torch.where(scale > 0, closest.clamp(min=0.5), closest)
            self._closest[rows] = torch.where(scale == 0, closest.clamp(min=1.0 if with_zeros else 0.5), closest)

    def _evaluate(self) -> torch.Tensor:
        """(n,) values of all rows, as by `Worth.evaluate`."""
        worth, allowed = self._worth, self._allowed
        square = (self._closest.double() * -2 + (2 + self._slack)).clamp(min=0)
        values = torch.ones_like(square) if worth.strength == 0 else square.sqrt()
        if worth.strength not in (0, 1):
            values = square ** (worth.strength / 2)
        if self._weight is not None:
            values = values * self._weight
        if worth.min_distance > 0:
            allowed = allowed & (square >= worth.min_distance**2)
        return values.masked_fill(~allowed, -1.0)

    def _blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        size = max(256, _VALUES_PER_BLOCK // max(1, self._embeddings.shape[1]))
        for start in range(0, len(self._embeddings), size):
            rows = slice(start, start + size)
            yield rows, self._embeddings[rows]


def _find_highest(values: torch.Tensor, worth: Worth, size: int) -> tuple[Rows, Array, tuple[float, int]]:
    """Finds the `size` rows with the highest values that may be picked.

    Returns:
        The rows, highest value first; their values; and value and rank of the best other row, (-1, 0) if there is none.
    """
    if len(values) == 0:
        return np.empty(0, np.int64), np.empty(0), (-1.0, 0)
    count = min(size + 1, len(values))
    lowest = torch.topk(values, count).values[-1].clamp(min=0)
    # topk takes any of the rows of equal value; we need those that come first by rank.
    above, equal = torch.nonzero(values > lowest)[:, 0], torch.nonzero(values == lowest)[:, 0]
    if worth.rank is not None:
        ranks = torch.from_numpy(worth.rank).to(values.device)[equal]
        equal = equal[ranks.argsort()]
    taken = torch.cat([above, equal[: count - len(above)]])
    rows, highest = taken.cpu().numpy(), values[taken].cpu().numpy()
    order = np.lexsort((worth.get_ranks(rows), -highest))
    rows, highest = rows[order], highest[order]
    if len(rows) <= size:
        return rows, highest, (-1.0, 0)
    return rows[:size], highest[:size], (float(highest[size]), int(worth.get_ranks(rows[size:])[0]))


def _take(embeddings: torch.Tensor, rows: Sequence[int] | Rows) -> npt.NDArray[np.floating]:
    return _to_array(embeddings[torch.as_tensor(np.asarray(rows, np.int64), device=embeddings.device)])


def _to_array(rows: torch.Tensor) -> npt.NDArray[np.floating]:
    """Copies rows to the host; numpy has no bf16, so all types but float32 and float64 become float32."""
    rows = rows.cpu()
    return (rows if rows.dtype in (torch.float32, torch.float64) else rows.float()).numpy()
