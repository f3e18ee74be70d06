"""Embeddings in a tensor of torch: the passes run where it lies, on the CPU or on a GPU."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from job.select.points import Vectors, unit
from job.select.shortlist import LONGEST, SHORTEST, Rows, Shortlist, Worth, slack

_VALUES_IN_BLOCK = 1 << 26
_CENTERS_AT_ONCE = 1024


class TensorPoints:
    """Embeddings in a tensor, read as arrays."""

    def __init__(self, embeddings: torch.Tensor) -> None:
        self._embeddings = embeddings.detach()
        self.shape: tuple[int, int] = (embeddings.shape[0], embeddings.shape[1])

    def blocks(self) -> Iterator[tuple[int, npt.NDArray[np.floating]]]:
        """Yields blocks in single precision."""
        size = max(256, (1 << 19) // max(1, self.shape[1]))
        for start in range(0, self.shape[0], size):
            yield start, _array(self._embeddings[start : start + size])

    def rows(self, indices: Sequence[int]) -> npt.NDArray[np.floating]:
        """Some rows, in the order of the indices."""
        wanted = torch.as_tensor(np.asarray(indices, np.int64), device=self._embeddings.device)
        return _array(self._embeddings[wanted])


class TensorPass:
    """A pass by torch, on the device of the tensor; see `job.select.shortlist`.

    One copy to the host for each shortlist, none for each pick.

    Args:
        embeddings: (n, d).
    """

    def __init__(self, embeddings: torch.Tensor) -> None:
        self._embeddings = embeddings.detach()
        self._device = embeddings.device
        count, dimension = embeddings.shape
        self._slack = slack(dimension)
        self._closest = torch.full((count,), -1.0, device=self._device)
        self._scale = torch.empty(count, device=self._device)
        self._weight: torch.Tensor | None = None
        self._started, self._taken = False, 0

    def shortlist(self, centers: Vectors, worth: Worth, size: int) -> Shortlist:
        """See `job.select.shortlist.Pass`."""
        if not self._started:
            self._start(worth)
        exact = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False  # its ten bits of mantissa are outside of `slack`
        try:
            with torch.autocast(self._device.type, enabled=False):
                self._take_in(torch.from_numpy(centers[self._taken :]).to(self._device))
        finally:
            torch.backends.cuda.matmul.allow_tf32 = exact
        self._taken = len(centers)
        values = self._values(worth)
        found, bound = _highest(values, worth, size)
        on_device = torch.as_tensor(found, device=self._device)
        vectors = unit(_array(self._embeddings[on_device]))
        return Shortlist(found, vectors, bound)

    def _start(self, worth: Worth) -> None:
        self._started = True
        for rows, block in self._blocks():
            length = torch.linalg.vector_norm(block.double(), dim=1)
            if not torch.isfinite(length).all():
                row = (rows.start or 0) + int(torch.isfinite(length).logical_not().nonzero()[0])
                raise ValueError(f"embeddings must be finite: row {row} is not")
            odd = (length < SHORTEST) | (length > LONGEST)
            scale = torch.where(odd, -1.0, 1 / length.masked_fill(odd, 1))
            self._scale[rows] = scale.masked_fill(length == 0, 0).float()
        if worth.weight is not None:
            self._weight = torch.from_numpy(worth.weight).to(self._device)

    def _take_in(self, centers: torch.Tensor) -> None:
        zeros = bool((centers == 0).all(dim=1).any())
        for rows, block in self._blocks() if len(centers) else ():
            scale, closest = self._scale[rows], self._closest[rows]
            single = block.float()
            for some in torch.split(centers, _CENTERS_AT_ONCE):
                cosine = (single @ some.T).amax(dim=1) * scale
                closest = torch.where(scale > 0, torch.maximum(closest, cosine), closest)
            # As in `job.select.shortlist.cosines`; of rows of odd lengths nothing is known.
            if zeros:
                closest = torch.where(scale > 0, closest.clamp(min=0.5), closest)
            self._closest[rows] = torch.where(scale == 0, closest.clamp(min=1.0 if zeros else 0.5), closest)

    def _values(self, worth: Worth) -> torch.Tensor:
        """As `Worth.of`, of all rows."""
        square = (self._closest.double() * -2 + (2 + self._slack)).clamp(min=0)
        values = torch.ones_like(square) if worth.strength == 0 else square.sqrt()
        if worth.strength not in (0, 1):
            values = square ** (worth.strength / 2)
        if self._weight is not None:
            values = values * self._weight
        allowed = torch.from_numpy(worth.allowed).to(self._device)
        if worth.min_distance > 0:
            allowed &= square >= worth.min_distance**2
        return values.masked_fill(~allowed, -1.0)

    def _blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        size = max(256, _VALUES_IN_BLOCK // max(1, self._embeddings.shape[1]))
        for start in range(0, len(self._embeddings), size):
            rows = slice(start, start + size)
            yield rows, self._embeddings[rows]


def _highest(values: torch.Tensor, worth: Worth, size: int) -> tuple[Rows, tuple[float, int]]:
    """The rows of the highest values that may be picked, highest first; value and rank of the best of all others."""
    if len(values) == 0:
        return np.empty(0, np.int64), (-1.0, 0)
    count = min(size + 1, len(values))
    least = torch.topk(values, count).values[-1].clamp(min=0)
    # Which rows topk takes among equals is left open: those that come first by rank are wanted.
    above, equal = torch.nonzero(values > least)[:, 0], torch.nonzero(values == least)[:, 0]
    if worth.rank is not None:
        ranks = torch.from_numpy(worth.rank).to(values.device)[equal]
        equal = equal[ranks.argsort()]
    taken = torch.cat([above, equal[: count - len(above)]])
    rows, highest = taken.cpu().numpy(), values[taken].cpu().numpy()
    order = np.lexsort((worth.ranks(rows), -highest))
    rows, highest = rows[order], highest[order]
    if len(rows) <= size:
        return rows, (-1.0, 0)
    return rows[:size], (float(highest[size]), int(worth.ranks(rows[size:])[0]))


def _array(rows: torch.Tensor) -> npt.NDArray[np.floating]:
    """On the host; numpy does not know bf16."""
    rows = rows.cpu()
    return (rows if rows.dtype in (torch.float32, torch.float64) else rows.float()).numpy()
