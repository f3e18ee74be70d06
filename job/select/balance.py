"""Selection toward a distribution, of classes or of anything that images have one of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from job.select.greedy import Pick, coverage, first_pick, nearest_center
from job.select.points import Array, Points, unit
from job.select.shortlist import Rows, Worth

# As for scores: images that have nothing of what is wanted stay within reach.
_FLOOR = 0.05


@dataclass(frozen=True)
class Balance:
    """A factor that is high for images of what is rare among the labelled and picked ones.

    An image's value is 0.05 + 0.95 * sum(p * t / (t + q)) over the classes, where p is its own distribution, t the
    target and q the distribution so far: 1 for what is wanted and not there, one half for what is there as wanted,
    towards 0 for what is there too often, and the floor for what is not wanted at all.

    Attributes:
        shares: (n, c) not negative; each image's distribution, with the sum 1, or 0 where it has nothing.
        target: (c,) not negative, with the sum 1.
        strength: Exponent.
    """

    shares: Array
    target: Array
    strength: float = 1.0

    def of(self, sums: Array) -> Array:
        """(n,) values in [0.05, 1], given the (c,) sums of the shares of the labelled and picked images."""
        so_far = sums / (sums.sum() or 1.0)
        wanted = np.where(self.target > 0, self.target, 0) / np.where(self.target > 0, self.target + so_far, 1)
        result: Array = (_FLOOR + (1 - _FLOOR) * np.minimum(self.shares @ wanted, 1)) ** self.strength
        return result.round(12)


def balanced(
    points: Points,
    worth: Worth,
    balances: Sequence[Balance],
    count: int,
    *,
    labelled: Sequence[int],
    first: Array | None,
) -> list[Pick]:
    """Picks as `job.select.greedy.greedy` does, with balances in the product.

    These rise and fall, so that there are no bounds, and every pick is a pass over the embeddings.

    Args:
        points: (n, d) embeddings, of any length.
        worth: What an image is worth without balances. Picks are taken off the images that it allows.
        balances: Multiplied into it.
        count: How many images to pick.
        labelled: Rows of images that have labels.
        first: (n,) by which the first pick is made, times the balances, where nothing is labelled.
    """
    distance, nearest = coverage(points, labelled)
    sums = [each.shares[list(labelled)].sum(axis=0) for each in balances]
    worth.allowed[list(labelled)] = False
    weight = 1.0 if worth.weight is None else worth.weight
    picks: list[Pick] = []
    while len(picks) < count:
        product = np.ones(points.shape[0])
        for each, so_far in zip(balances, sums, strict=True):
            product *= each.of(so_far)
        if len(labelled) == 0 and not picks:
            chosen = first_pick(worth, product if first is None else first * product)
            if chosen is None:
                break
            row, value = chosen
            pick = Pick(row, value, None, None, float(product[row]))
        else:
            values = distance**worth.strength * weight * product
            values[~worth.allowed | (distance < worth.min_distance)] = -1
            rows = np.flatnonzero(values == values.max())
            row = int(rows[worth.ranks(rows).argmin()])
            if values[row] < 0:
                break
            pick = Pick(row, float(values[row]), float(distance[row]), int(nearest[row]), float(product[row]))
        picks.append(pick)
        worth.allowed[row] = False
        _take_in(points, row, distance, nearest)
        for each, so_far in zip(balances, sums, strict=True):
            so_far += each.shares[row]
    return picks


def _take_in(points: Points, center: int, distance: Array, nearest: Rows) -> None:
    vector = unit(points.rows([center]))
    for start, block in points.blocks():
        found, _ = nearest_center(unit(block), vector)
        rows = slice(start, start + len(block))
        closer: npt.NDArray[np.bool_] = found < distance[rows]
        distance[rows][closer] = found[closer]
        nearest[rows][closer] = center
