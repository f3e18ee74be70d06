"""Selection on arrays: factors, distances and balances are multiplied, and the greedy takes the largest product."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from job.select.balance import Balance, balanced
from job.select.greedy import Pick, greedy
from job.select.passes import ArrayPass
from job.select.points import Array, ArrayPoints, ParquetPoints, Points
from job.select.shortlist import Pass, Worth
from job.select.typicality import typicality

if TYPE_CHECKING:
    import torch

    Embeddings = npt.NDArray[np.floating] | ParquetPoints | torch.Tensor

STRATEGIES = ("coral", "coreset", "active_learning", "two_stage", "typicality", "random")
# With a score of 0 a product is 0: the floor keeps images on which the detector saw nothing at all within reach.
SCORE_FLOOR = 0.05
# Of PPAL's code (Yang et al., CVPR 2024), where it is the ratio by which the budget is expanded.
TWO_STAGE_FACTOR = 4


@dataclass(frozen=True)
class Factor:
    """What an image is worth whatever else is picked.

    Attributes:
        name: Says what it is.
        values: (n,) finite and not negative.
        strength: Exponent.
    """

    name: str
    values: Array
    strength: float = 1.0


@dataclass(frozen=True)
class Selection:
    """The result of a selection.

    Attributes:
        picks: Best first.
        factors: What their values were made of, besides distances and balances.
    """

    picks: list[Pick]
    factors: list[Factor] = field(default_factory=list)


def select(
    embeddings: "Embeddings",
    scores: Array,
    count: int,
    *,
    strategy: str = "coral",
    labelled: Sequence[int] | npt.NDArray[np.int64] = (),
    candidates: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    score_strength: float = 1.0,
    diversity_strength: float = 1.0,
    min_distance: float = 0.0,
    seed: int = 0,
) -> Selection:
    """Selects the images most worth labelling.

    Each step picks the image of the largest value. With d, the Euclidean distance between embeddings of unit length to
    the nearest labelled or already picked image, and u = 0.05 + 0.95 score, that is

    - ``coral``: d ** diversity_strength * u ** score_strength.
    - ``coreset``: d, which is the greedy k-center of Gonzalez (1985), used for active learning by Sener and Savarese
      (2018).
    - ``active_learning``: the score.
    - ``two_stage``: d, among the 4 * count images of the highest scores.
    - ``typicality``: d times `job.select.typicality.typicality`: dense places first, for a pool without a useful model.
    - ``random``: drawn evenly.

    With nothing labelled or picked yet, the first is the image of the highest u, score or typicality. Ties go to the
    image that comes first.

    Args:
        embeddings: (n, d) finite, of any length: an array, a tensor of torch (on any device, where the passes over them
            then run), or `ParquetPoints` for a file that is larger than memory.
        scores: (n,) finite and not negative, higher for more worth labelling. If one is above 1, all are divided by the
            largest.
        count: How many images to pick, besides the labelled ones.
        strategy: One of those above.
        labelled: Rows of images that already have labels; they are never picked.
        candidates: Rows that may be picked; all by default.
        names: By which ties are broken, bytewise; the order of the rows by default.
        score_strength: Exponent of u, for coral.
        diversity_strength: Exponent of d, for coral.
        min_distance: No image is picked that is nearer than this to a labelled or picked one.
        seed: For random.

    Returns:
        The picks, fewer than `count` when no image is left that may be picked.

    Raises:
        ValueError: Shapes do not match, a value is not finite or negative, or the strategy is unknown.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}: use {', '.join(STRATEGIES[:-1])} or {STRATEGIES[-1]}")
    scores = scaled(checked("scores", scores, as_points(embeddings).shape[0], names))
    rank, labelled = ranks(names), [int(row) for row in labelled]
    options: dict[str, Any] = {"labelled": labelled, "rank": rank, "min_distance": min_distance}
    if strategy == "coral":
        utility = SCORE_FLOOR + (1 - SCORE_FLOOR) * scores
        factors = [Factor("utility", utility, score_strength)]
        return choose(embeddings, count, factors, diversity_strength, first=utility, candidates=candidates, **options)
    if strategy in ("coreset", "two_stage"):
        if strategy == "two_stage":
            candidates = best_by(scores, TWO_STAGE_FACTOR * count, candidates, labelled, rank)
        return choose(embeddings, count, [], 1.0, first=scores, candidates=candidates, **options)
    if strategy == "active_learning":
        return choose(embeddings, count, [Factor("score", scores)], 0.0, candidates=candidates, **options)
    if strategy == "typicality":
        factors = [Factor("typicality", typicality(as_points(embeddings), rank))]
        return choose(embeddings, count, factors, 1.0, candidates=candidates, **options)
    factors = [Factor("random order", random_order(len(scores), seed, rank))]
    return choose(embeddings, count, factors, 0.0, candidates=candidates, **options)


def choose(
    embeddings: "Embeddings",
    count: int,
    factors: Sequence[Factor],
    diversity_strength: float,
    *,
    balances: Sequence[Balance] = (),
    labelled: Sequence[int] | npt.NDArray[np.int64] = (),
    candidates: Sequence[int] | None = None,
    first: Array | None = None,
    rank: npt.NDArray[np.int64] | None = None,
    min_distance: float = 0.0,
) -> Selection:
    """Selects by a product of factors, of the distance to its strength, and of balances.

    Args:
        embeddings: As for `select`.
        count: How many images to pick, besides the labelled ones.
        factors: Each (n,).
        diversity_strength: Exponent of the distance.
        balances: Factors that depend on what is labelled and picked.
        labelled: Rows of images that already have labels; they are never picked.
        candidates: Rows that may be picked; all by default.
        first: (n,) by which the first pick is made where nothing is labelled; the product of the factors by default.
        rank: (n,) the lower comes first among images of one value; the order of the rows by default.
        min_distance: No image is picked that is nearer than this to a labelled or picked one.

    Returns:
        The picks, fewer than `count` when no image is left that may be picked.

    Raises:
        ValueError: An embedding is not finite.
    """
    points, labelled = as_points(embeddings), [int(row) for row in labelled]
    allowed = np.ones(points.shape[0], bool)
    if candidates is not None:
        allowed[:] = False
        allowed[list(candidates)] = True
    weight: Array | None = None
    for each in factors:
        power = each.values if each.strength == 1 else each.values**each.strength
        weight = power if weight is None else weight * power
    worth = Worth(weight, diversity_strength, min_distance, allowed, rank)
    first = weight if first is None else first
    if balances:
        picks = balanced(points, worth, balances, count, labelled=labelled, first=first)
    else:
        picks = greedy(points, _pass(embeddings, points), worth, count, labelled=labelled, first=first)
    return Selection(picks, list(factors))


def as_points(embeddings: "Embeddings") -> Points:
    """The embeddings as something to read in blocks."""
    if isinstance(embeddings, ParquetPoints):
        return embeddings
    if not isinstance(embeddings, np.ndarray):
        from job.select.tensors import TensorPoints  # torch is there if there is a tensor

        return TensorPoints(embeddings)
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings must be (n, d), and are {embeddings.shape}")
    return ArrayPoints(embeddings)


def _pass(embeddings: "Embeddings", points: Points) -> Pass:
    if isinstance(embeddings, np.ndarray | ParquetPoints):
        return ArrayPass(points)
    from job.select.tensors import TensorPass

    return TensorPass(embeddings)


def checked(what: str, values: Array, count: int, names: Sequence[str] | None = None) -> Array:
    """The values in float64, all of them finite and not negative.

    Raises:
        ValueError: One is not, or there are more or fewer than `count`.
    """
    values = np.asarray(values, np.float64)
    if values.shape != (count,):
        raise ValueError(f"{what} have the shape {values.shape} and do not match {count} embeddings")
    bad = np.flatnonzero(~((values >= 0) & (values < np.inf)))
    if len(bad):
        shown = ", ".join(f"{names[row] if names is not None else row}: {values[row]:g}" for row in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise ValueError(f"{what} must be finite and not negative, and are not for {shown}{more}")
    return values


def scaled(scores: Array) -> Array:
    """Scores in [0, 1]: divided by the largest, if that is above 1."""
    return scores / scores.max() if len(scores) and scores.max() > 1 else scores


def ranks(names: Sequence[str] | None) -> npt.NDArray[np.int64] | None:
    """(n,) places of the names in bytewise order; None for none, and where they are sorted already."""
    if names is None:
        return None
    order = sorted(range(len(names)), key=lambda row: names[row].encode())
    if order == list(range(len(names))):
        return None
    result = np.empty(len(names), np.int64)
    result[order] = np.arange(len(names))
    return result


def best_by(
    scores: Array,
    count: int,
    candidates: Sequence[int] | None,
    labelled: Sequence[int],
    rank: npt.NDArray[np.int64] | None,
) -> list[int]:
    """The unlabelled candidates of the highest scores."""
    among = np.arange(len(scores)) if candidates is None else np.asarray(candidates, np.int64)
    rows = np.setdiff1d(among, np.asarray(labelled, np.int64))
    order = np.lexsort((rows if rank is None else rank[rows], -scores[rows]))
    return [int(row) for row in rows[order[:count]]]


def random_order(count: int, seed: int, rank: npt.NDArray[np.int64] | None) -> Array:
    """(n,) in [0, 1), a random order of the images, the same for the same names."""
    order = np.random.default_rng(seed).permutation(count) / max(1, count)
    return order if rank is None else order[rank]
