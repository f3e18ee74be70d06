"""The greedy selection behind every strategy.

Each step picks the image with the largest ``distance ** a * utility ** b``, where the distance is Euclidean, between
embeddings of unit length, to the nearest labelled or already picked image. With nothing labelled or picked yet, it is
the image of the largest utility. Ties go to the image that comes first.

- coral: a and b as set, utility = floor + (1 - floor) * score. The floor keeps images of score 0, on which the detector
  saw nothing at all, within reach.
- coreset: a = 1, b = 0. This is the greedy k-center of Gonzalez (1985), used for active learning by Sener and Savarese
  (2018).
- active_learning: a = 0, b = 1, utility = score.
- random: a = 0, b = 1, utility = a random order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

SCORE_FLOOR = 0.05
_BLOCK = 4096


@dataclass(frozen=True)
class Pick:
    """One selected image.

    Attributes:
        index: Its row.
        value: What it was picked for, ``distance ** a * utility ** b``; the utility where there was no distance yet.
        distance: To the nearest labelled or earlier picked image, 0 to 2; None where there was none.
        nearest: Row of that image; None where there was none.
    """

    index: int
    value: float
    distance: float | None
    nearest: int | None


@dataclass(frozen=True)
class Selection:
    """The result of a selection.

    Attributes:
        picks: Best first.
        distance: (n,) of every image to the nearest labelled or picked one; infinite where there is none.
        nearest: (n,) row of that image, -1 where there is none.
    """

    picks: list[Pick]
    distance: Array
    nearest: npt.NDArray[np.int64]


def select(
    embeddings: npt.NDArray[np.floating],
    scores: Array,
    count: int,
    *,
    strategy: str = "coral",
    labelled: Sequence[int] = (),
    candidates: Sequence[int] | None = None,
    score_strength: float = 1.0,
    diversity_strength: float = 1.0,
    min_distance: float = 0.0,
    seed: int = 0,
) -> Selection:
    """Selects the images most worth labelling.

    Args:
        embeddings: (n, d) finite, of any length; rows are scaled to length 1 here.
        scores: (n,) in [0, 1]; higher is more worth labelling.
        count: How many images to pick, besides the labelled ones.
        strategy: ``coral``, ``coreset``, ``active_learning`` or ``random``.
        labelled: Rows of images that already have labels; they are never picked.
        candidates: Rows that may be picked; all by default.
        score_strength: Exponent b, for coral.
        diversity_strength: Exponent a, for coral.
        min_distance: No image is picked that is nearer than this to a labelled or picked one.
        seed: For random.

    Returns:
        The picks, fewer than `count` when no image is left that may be picked, and how they cover the pool.

    Raises:
        ValueError: Shapes do not match, a value is not finite, a score is outside [0, 1], or the strategy is unknown.
    """
    if embeddings.ndim != 2 or scores.shape != (len(embeddings),):
        raise ValueError(f"embeddings {embeddings.shape} and scores {scores.shape} do not match")
    if not np.isfinite(embeddings).all():
        raise ValueError("embeddings must be finite")
    if not ((scores >= 0) & (scores <= 1)).all():  # also false for NaN
        raise ValueError("scores must lie in [0, 1]")
    allowed = np.ones(len(scores), bool)
    if candidates is not None:
        allowed[:] = False
        allowed[list(candidates)] = True

    def greedy(utility: Array, diversity_strength: float, utility_strength: float) -> Selection:
        strengths = diversity_strength, utility_strength
        return _greedy(embeddings, utility, *strengths, count, labelled, allowed, min_distance)

    if strategy == "coral":
        utility = SCORE_FLOOR + (1 - SCORE_FLOOR) * scores
        return greedy(utility, diversity_strength, score_strength)
    if strategy == "coreset":
        return greedy(scores, 1, 0)
    if strategy == "active_learning":
        return greedy(scores, 0, 1)
    if strategy == "random":
        order = np.random.default_rng(seed).permutation(len(scores)) / max(1, len(scores))
        return greedy(order, 0, 1)
    raise ValueError(f"unknown strategy {strategy!r}: use coral, coreset, active_learning or random")


def unit(embeddings: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Scales rows to Euclidean length 1; a row of zeros stays one."""
    length = np.sqrt(np.einsum("ij,ij->i", embeddings, embeddings, dtype=np.float64))
    length[length == 0] = 1
    scaled: npt.NDArray[np.float32] = (embeddings / length[:, None]).astype(np.float32)
    return scaled


def distances(unit_embeddings: npt.NDArray[np.float32], row: int) -> Array:
    """Euclidean distances of all rows to one row, (n,), by differences in float64.

    The shorter form by dot products loses the distances of near-duplicates in rounding.
    """
    center = unit_embeddings[row].astype(np.float64)
    result = np.empty(len(unit_embeddings))
    for start in range(0, len(unit_embeddings), _BLOCK):
        difference = unit_embeddings[start : start + _BLOCK] - center
        result[start : start + _BLOCK] = np.einsum("ij,ij->i", difference, difference)
    return np.sqrt(result)


def _greedy(
    embeddings: npt.NDArray[np.floating],
    utility: Array,
    diversity_strength: float,
    utility_strength: float,
    count: int,
    labelled: Sequence[int],
    allowed: npt.NDArray[np.bool_],
    min_distance: float,
) -> Selection:
    points = unit(embeddings)
    distance = np.full(len(points), np.inf)
    nearest = np.full(len(points), -1, np.int64)
    available = allowed.copy()
    weight = utility**utility_strength

    def take(row: int) -> None:
        available[row] = False
        to_row = distances(points, row)
        closer = to_row < distance
        nearest[closer] = row
        np.minimum(distance, to_row, out=distance)

    for row in labelled:
        take(row)
    picks: list[Pick] = []
    while len(picks) < count:
        first = not (len(labelled) or picks)
        candidates = available & (distance >= min_distance)
        if not candidates.any():
            break
        value = utility if first else distance**diversity_strength * weight
        row = int(np.where(candidates, value, -1).argmax())
        pick = Pick(row, float(value[row]), *((None, None) if first else (float(distance[row]), int(nearest[row]))))
        picks.append(pick)
        take(row)
    return Selection(picks, distance, nearest)
