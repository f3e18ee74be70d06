"""Selection toward a target distribution, of classes or of any other property with one value per image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from job.select.apart import Apart, find_forbidden
from job.select.greedy import Pick, coverage, find_nearest_center
from job.select.points import Array, Points, Vectors, to_unit_length
from job.select.shortlist import Rows, Worth

# As for scores: images without anything that is wanted can still be picked.
_FLOOR = 0.05
_ROUNDING = 1e-6  # of sums of shares


@dataclass(frozen=True)
class Balance:
    """A factor that is high for images with properties that are rare among the labelled and picked images.

    The value of an image is 0.05 + 0.95 * sum(p * t / (t + q)) over the classes. Here p is the distribution of the
    image, t the target, and q the distribution so far. A term is 1 for a wanted class that is missing so far, 0.5 for a
    class that is there as often as wanted, and towards 0 for a class that is there too often. An image of unwanted
    classes alone has the floor, 0.05.

    Attributes:
        shares: (n, c) distribution of each image, not negative, with the sum 1, or 0 if the image has none.
        target: (c,) target distribution, not negative, with the sum 1.
        strength: Exponent of the value.
    """

    shares: Array
    target: Array
    strength: float = 1.0

    def evaluate(self, sums: Array) -> Array:
        """Values of all images.

        Args:
            sums: (c,) sums of the shares of the labelled and picked images.

        Returns:
            (n,) values in [0.05, 1], to the power of `strength`.
        """
        so_far = sums / (sums.sum() or 1.0)
        wanted = np.where(self.target > 0, self.target, 0) / np.where(self.target > 0, self.target + so_far, 1)
        result: Array = (_FLOOR + (1 - _FLOOR) * np.minimum(self.shares @ wanted, 1)) ** self.strength
        return result.round(12)


def check_balance(balance: Balance, num_images: int) -> None:
    """Checks that shares and target are distributions: other numbers would be cut off and balance nothing.

    Raises:
        ValueError: If shapes do not match, a value is negative or not finite, or a sum is wrong.
    """
    shares, target = balance.shares, balance.target
    if shares.ndim != 2 or len(shares) != num_images or target.shape != shares.shape[1:]:
        raise ValueError(
            f"a balance needs shares of shape ({num_images}, classes) and a target of shape (classes,), not "
            f"{shares.shape} and {target.shape}"
        )
    sums = shares.sum(axis=1)
    is_good = (np.abs(sums - 1) <= _ROUNDING) | (sums == 0)
    is_good &= ((shares >= 0) & (shares < np.inf)).all(axis=1)
    if not is_good.all():
        row = int(np.flatnonzero(~is_good)[0])
        raise ValueError(
            "shares of a balance must be distributions, not negative and with the sum 1, or 0 for an image without: "
            f"row {row} has the sum {sums[row]:g} and the least share {shares[row].min():g}"
        )
    if not ((target >= 0) & (target < np.inf)).all() or abs(target.sum() - 1) > _ROUNDING:
        raise ValueError(
            "the target of a balance must be a distribution, not negative and with the sum 1, but it has the sum "
            f"{target.sum():g}"
        )


def select_balanced(
    points: Points,
    worth: Worth,
    balances: Sequence[Balance],
    count: int,
    *,
    labelled: Sequence[int],
    elsewhere: Vectors,
    apart: Apart | None = None,
) -> list[Pick]:
    """Picks as `job.select.greedy.select_greedily` does, with balances in the product.

    Balances rise and fall, so there are no upper bounds, and every pick takes a pass over the embeddings.

    Args:
        points: (n, d) embeddings, of any length.
        worth: Values of the images without balances; that for the first pick is multiplied by the balances, too.
            Labelled and picked images become forbidden in `Worth.allowed`.
        balances: Factors that multiply the values.
        count: Number of images to pick.
        labelled: Rows of the labelled images.
        elsewhere: (k, d) of unit length, embeddings of labelled images that are not among the n. The balances do not
            know their shares.
        apart: What else picks keep a distance in; None for nothing.

    Returns:
        The picks, best first; fewer than `count` if no more images may be picked.
    """
    distance, nearest = coverage(points, labelled, elsewhere)
    sums = [balance.shares[list(labelled)].sum(axis=0) for balance in balances]
    worth.allowed[find_forbidden(labelled, apart)] = False
    weight = 1.0 if worth.weight is None else worth.weight
    picks: list[Pick] = []
    while len(picks) < count:
        product = np.ones(points.shape[0])
        for balance, so_far in zip(balances, sums, strict=True):
            product *= balance.evaluate(so_far)
        if len(labelled) + len(elsewhere) == 0 and not picks:
            first = product if worth.first is None else worth.first * product
            chosen = replace(worth, first=first).choose_first()
            if chosen is None:
                break
            row, value = chosen
            pick = Pick(index=row, value=value, distance=None, nearest=None, balance=float(product[row]))
        else:
            values = distance**worth.strength * weight * product
            values[~worth.allowed | (distance < worth.min_distance)] = -1
            rows = np.flatnonzero(values == values.max())
            row = int(rows[worth.get_ranks(rows).argmin()])
            if values[row] < 0:
                break
            pick = Pick(
                index=row,
                value=float(values[row]),
                distance=float(distance[row]),
                nearest=int(nearest[row]),
                balance=float(product[row]),
            )
        picks.append(pick)
        worth.allowed[find_forbidden([row], apart)] = False
        _merge_center(points, row, distance, nearest)
        for balance, so_far in zip(balances, sums, strict=True):
            so_far += balance.shares[row]
    return picks


def _merge_center(points: Points, center: int, distance: Array, nearest: Rows) -> None:
    """Updates distances and nearest rows in place for a new center."""
    vector = to_unit_length(points.rows([center]))
    for start, block in points.blocks():
        to_center, _ = find_nearest_center(to_unit_length(block), vector)
        rows = slice(start, start + len(block))
        closer: npt.NDArray[np.bool_] = to_center < distance[rows]
        distance[rows][closer] = to_center[closer]
        nearest[rows][closer] = center
