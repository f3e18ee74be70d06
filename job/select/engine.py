"""Selection on arrays: the greedy picks the largest product of factors, distance and balances."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from job.select.apart import Apart
from job.select.balance import Balance, check_balance, select_balanced
from job.select.checks import Rows, check_apart, check_count, check_elsewhere, check_names, check_rows, check_values
from job.select.greedy import select_greedily
from job.select.objects import Objects, check_objects, select_by_objects
from job.select.passes import ArrayPass
from job.select.points import Array, ArrayPoints, Points
from job.select.selection import Factor, Selection
from job.select.shortlist import WithPass, Worth
from job.select.typicality import typicality

if TYPE_CHECKING:
    from job.select.points import Embeddings

STRATEGIES = ("coral", "coral_objects", "coreset", "active_learning", "two_stage", "typicality", "random")
_WITHOUT_SCORES = ("coral_objects", "coreset", "typicality", "random")
# With a score of 0 a product is 0: with the floor, images without detections can still be picked.
SCORE_FLOOR = 0.05
SCALE_QUANTILE = 0.99
# From PPAL's code (Yang et al., CVPR 2024), where the budget is expanded by this ratio.
TWO_STAGE_FACTOR = 4


def select(
    embeddings: "Embeddings",
    scores: Array | None,
    count: int,
    *,
    strategy: str = "coral",
    objects: Objects | None = None,
    labelled: Rows = (),
    labelled_elsewhere: npt.NDArray[np.floating] | None = None,
    candidates: Rows | None = None,
    names: Sequence[str] | None = None,
    score_strength: float = 1.0,
    diversity_strength: float = 1.0,
    min_distance: float = 0.0,
    apart: Apart | None = None,
    seed: int = 0,
) -> Selection:
    """Selects the images most worth labelling.

    Each step picks the image with the largest value. Let d be the Euclidean distance, between embeddings of unit
    length, to the nearest labelled or already picked image, and u = 0.05 + 0.95 score. Then the value is

    - ``coral``: d ** diversity_strength * u ** score_strength.
    - ``coral_objects``: the same, where u is the value of the image's `objects`.
    - ``coreset``: d, which is the greedy k-center of Gonzalez (1985), used for active learning by Sener and Savarese
      (2018).
    - ``active_learning``: the score.
    - ``two_stage``: d, among the 4 * count images with the highest scores.
    - ``typicality``: d times `job.select.typicality.typicality`. It picks dense regions first, for a pool without a
      useful model.
    - ``random``: a random number.

    If nothing is labelled, the first pick is the image with the highest u, score or typicality. Ties go to the image
    that comes first.

    Args:
        embeddings: (n, d) finite, of any length: an array, a torch tensor, or any `Points`, such as `ParquetPoints` for
            a file that is larger than memory. The passes over a tensor run on its device.
        scores: (n,) finite and not negative; higher scores are more worth labelling. If more than 1 % are above 1, all
            are divided by their 99th percentile. coral_objects, coreset, typicality and random need none (None);
            coreset then begins with the first image.
        count: Number of images to pick, besides the labelled ones.
        strategy: One of the strategies above.
        objects: The boxes of the images, for coral_objects, with `score_strength` in place of their own; see `choose`.
        labelled: The labelled images, which are never picked: rows from 0 to n - 1, or a boolean mask of n.
        labelled_elsewhere: (k, d) embeddings of labelled images that are not among the n; None for none. Distances to
            these count, too.
        candidates: The images that may be picked, as rows or as a mask; all by default.
        names: (n,) file names, which break ties in bytewise order; the order of the rows by default.
        score_strength: Exponent of u, for coral and coral_objects.
        diversity_strength: Exponent of d, for coral and coral_objects.
        min_distance: Smallest distance of a pick to a labelled or earlier picked image.
        apart: Another distance that picks keep from labelled and earlier picked images, such as seconds of video.
        seed: Seed of the random strategy.

    Returns:
        The picks; fewer than `count` if no more images may be picked.

    Raises:
        ValueError: If shapes do not match, a value is not finite or is negative, a row does not exist, the strategy is
            unknown, or it needs scores or objects and there are none.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}: use {', '.join(STRATEGIES[:-1])} or {STRATEGIES[-1]}")
    num_images = as_points(embeddings).shape[0]
    if scores is None:
        if strategy not in _WITHOUT_SCORES:
            raise ValueError(f"the strategy {strategy!r} needs scores: give one per image, or use coreset")
        scores = np.zeros(num_images)
    if strategy == "coral_objects" and objects is None:
        raise ValueError("the strategy 'coral_objects' needs objects: give the boxes of the images, or use coral")
    check_names(names, num_images)
    scores = scale_scores(check_values("scores", scores, num_images, names))
    rank, labelled = rank_names(names), check_rows("labelled", labelled, num_images)
    candidates = None if candidates is None else check_rows("candidates", candidates, num_images)
    check_count(count)
    options: dict[str, Any] = {
        "labelled": labelled,
        "labelled_elsewhere": labelled_elsewhere,
        "rank": rank,
        "min_distance": min_distance,
        "apart": apart,
    }
    if strategy == "coral":
        utility = SCORE_FLOOR + (1 - SCORE_FLOOR) * scores
        factors = [Factor("utility", utility, score_strength)]
        return choose(embeddings, count, factors, diversity_strength, first=utility, candidates=candidates, **options)
    if strategy == "coral_objects" and objects is not None:
        options |= {"objects": replace(objects, strength=score_strength), "candidates": candidates}
        return choose(embeddings, count, [], diversity_strength, **options)
    if strategy in ("coreset", "two_stage"):
        if strategy == "two_stage":
            candidates = find_highest(scores, TWO_STAGE_FACTOR * count, candidates, labelled, rank)
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
    objects: Objects | None = None,
    labelled: Rows = (),
    labelled_elsewhere: npt.NDArray[np.floating] | None = None,
    candidates: Rows | None = None,
    first: Array | None = None,
    rank: npt.NDArray[np.int64] | None = None,
    min_distance: float = 0.0,
    apart: Apart | None = None,
) -> Selection:
    """Selects by the product of factors, of the distance to the power of its strength, and of balances.

    Args:
        embeddings: As for `select`.
        count: Number of images to pick, besides the labelled ones.
        factors: Values that do not depend on the other picks.
        diversity_strength: Exponent of the distance.
        balances: Factors that depend on the labelled and picked images.
        objects: The boxes of the images, if these should differ, too; their weights are scaled as `scale_scores` scales
            their sums per image. They cannot be combined with balances.
        labelled: As for `select`.
        labelled_elsewhere: As for `select`.
        candidates: As for `select`.
        first: (n,) values for the first pick if nothing is labelled; the product of the factors by default.
        rank: (n,) order among images of equal value, the lowest first; the order of the rows by default.
        min_distance: Smallest distance of a pick to a labelled or earlier picked image.
        apart: As for `select`.

    Returns:
        The picks; fewer than `count` if no more images may be picked.

    Raises:
        ValueError: If an embedding is not finite, a row does not exist, an image has boxes without features, shares of
            a balance are no distributions, or there are both objects and balances.
    """
    points = as_points(embeddings)
    labelled = check_rows("labelled", labelled, points.shape[0])
    elsewhere = check_elsewhere(labelled_elsewhere, points.shape[1])
    check_count(count)
    allowed = np.ones(points.shape[0], bool)
    if candidates is not None:
        allowed[:] = False
        allowed[check_rows("candidates", candidates, points.shape[0])] = True
    weight: Array | None = None
    for factor in factors:
        power = factor.values if factor.strength == 1 else factor.values**factor.strength
        weight = power if weight is None else weight * power
    if apart is not None:
        check_apart(apart, points.shape[0])
    first = weight if first is None else first
    if labelled or len(elsewhere):
        first = None  # there are distances from the first pick on
    worth = Worth(weight, diversity_strength, min_distance, allowed, rank, first)
    options: dict[str, Any] = {"labelled": labelled, "elsewhere": elsewhere, "apart": apart}
    if objects is not None:
        check_objects(objects, points.shape[0])
        if balances:
            raise ValueError("objects and balances cannot be combined: leave out one of them")
        scale = find_scale(objects.sum_weights())
        picks = select_by_objects(points, worth, replace(objects, weights=objects.weights / scale), count, **options)
    elif balances:
        for balance in balances:
            check_balance(balance, points.shape[0])
        picks = select_balanced(points, worth, balances, count, **options)
    else:
        embedding_pass = points.make_pass(worth) if isinstance(points, WithPass) else ArrayPass(points, worth)
        picks = select_greedily(embedding_pass, count, **options)
    return Selection(picks, list(factors))


def as_points(embeddings: "Embeddings") -> Points:
    """Makes the embeddings readable in blocks.

    Raises:
        ValueError: If an array does not have two dimensions.
    """
    if isinstance(embeddings, Points):
        return embeddings
    if not isinstance(embeddings, np.ndarray):
        from job.select.tensors import TensorPoints  # a tensor means that torch is installed

        return TensorPoints(embeddings)
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings must have the shape (n, d), not {embeddings.shape}")
    return ArrayPoints(embeddings)


def scale_scores(scores: Array) -> Array:
    """Scales scores so that at most 1 % are above 1: divides them by their 99th percentile if that is above 1.

    The largest would make the scale hang on one image: a crowd with a hundred faint boxes would bring all others close
    to the floor. The percentile is a score of the pool, the largest of up to 100.
    """
    return scores / find_scale(scores)


def find_scale(scores: Array) -> float:
    """What `scale_scores` divides by."""
    return max(1.0, float(np.quantile(scores, SCALE_QUANTILE, method="higher"))) if len(scores) else 1.0


def rank_names(names: Sequence[str] | None) -> npt.NDArray[np.int64] | None:
    """(n,) positions of the names in bytewise order; None without names, or if they are sorted already."""
    if names is None:
        return None
    order = sorted(range(len(names)), key=lambda row: names[row].encode())
    if order == list(range(len(names))):
        return None
    result = np.empty(len(names), np.int64)
    result[order] = np.arange(len(names))
    return result


def find_highest(
    scores: Array,
    count: int,
    candidates: Sequence[int] | None,
    labelled: Sequence[int],
    rank: npt.NDArray[np.int64] | None,
) -> list[int]:
    """Finds the unlabelled candidates with the highest scores.

    Args:
        scores: (n,) scores.
        count: Number of rows to find.
        candidates: Rows to search; None for all.
        labelled: Rows to leave out.
        rank: (n,) order among images of equal score; None for the order of the rows.

    Returns:
        At most `count` rows, highest score first.
    """
    searched = np.arange(len(scores)) if candidates is None else np.asarray(candidates, np.int64)
    rows = np.setdiff1d(searched, np.asarray(labelled, np.int64))
    order = np.lexsort((rows if rank is None else rank[rows], -scores[rows]))
    return [int(row) for row in rows[order[:count]]]


def random_order(count: int, seed: int, rank: npt.NDArray[np.int64] | None) -> Array:
    """(n,) values in [0, 1) that put the images into a random order, the same for the same names and seed."""
    order = np.random.default_rng(seed).permutation(count) / max(1, count)
    return order if rank is None else order[rank]
