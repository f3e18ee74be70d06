"""Chooses the boxes of all images of a batch as detectron2 does, from padded tables and without waiting for the GPU."""

from dataclasses import dataclass

import torch

from job.detect.batched.suppression import find_conflicts, suppress
from job.detect.batched.tables import order_first

# Candidates of an image that suppression compares with each other. The best ones suffice nearly always.
MAX_CANDIDATES = 2048

# torchvision's `batched_nms` separates the classes of few boxes by moving the boxes apart, which rounds the corners,
# and suppresses each class by itself when there are more boxes (`torchvision/ops/boxes.py`, numbers divided by 4).
_MOST_MOVED_BOXES_ON_CPU, _MOST_MOVED_BOXES_ON_GPU = 1_000, 25_000


@dataclass(frozen=True)
class Ranking:
    """The best candidates of each image, of N images.

    Attributes:
        index: (N, candidates) positions in the table of scores, by falling score and then by position.
        scores: (N, candidates), -inf where an image has fewer candidates.
        total: (N,) number of all candidates of the image.
    """

    index: torch.Tensor
    scores: torch.Tensor
    total: torch.Tensor


@dataclass(frozen=True)
class Choice:
    """The chosen boxes of each image, of N images.

    Attributes:
        index: (N, boxes) positions in the ranking, by falling score.
        exists: (N, boxes) bool: rows of an image that has fewer boxes come last and do not count.
        settled: (N,) bool: whether the choice is surely that of detectron2. It may not be after very long chains of
            overlapping boxes, or if more candidates would have to be compared.
    """

    index: torch.Tensor
    exists: torch.Tensor
    settled: torch.Tensor


def rank(scores: torch.Tensor, most: int | None = None) -> Ranking:
    """Ranks candidates.

    Args:
        scores: (N, entries) float32, -inf for entries that are no candidates.
        most: Length of the ranking; None for as many candidates as suppression compares.
    """
    best = scores.topk(min(MAX_CANDIDATES if most is None else most, scores.shape[1]), dim=1)
    # In the order of positions before the stable sort, since `topk` leaves the order of equal scores open.
    index = best.indices.sort(dim=1).values
    values, order = scores.gather(1, index).sort(dim=1, descending=True, stable=True)
    return Ranking(index.gather(1, order), values, torch.isfinite(scores).sum(dim=1))


def separate(
    boxes: torch.Tensor, groups: torch.Tensor, count: torch.Tensor, highest: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Moves the boxes of different groups apart in images with few boxes, as `batched_nms` does.

    Args:
        boxes: (N, boxes, 4) corners.
        groups: (N, boxes) or (boxes,) numbers of classes or of levels.
        count: (N,) number of boxes that `batched_nms` would be given.
        highest: (N,) their highest coordinate.

    Returns:
        The boxes, and (N,) bool of the images whose boxes were moved.
    """
    limit = _MOST_MOVED_BOXES_ON_CPU if boxes.device.type == "cpu" else _MOST_MOVED_BOXES_ON_GPU
    moved = count <= limit
    offsets = groups.to(boxes.dtype) * (highest + 1)[:, None]
    return boxes + torch.where(moved[:, None], offsets, 0)[:, :, None], moved


def choose(
    ranking: Ranking,
    boxes: torch.Tensor,
    classes: torch.Tensor,
    highest: torch.Tensor,
    *,
    threshold: float,
    most: int,
) -> Choice:
    """Suppresses boxes that overlap a better one of their class, and keeps the best.

    Args:
        ranking: The candidates.
        boxes: (N, candidates, 4) their corners.
        classes: (N, candidates) their classes.
        highest: (N,) highest coordinate of all candidates of the image.
        threshold: Intersection over union, from 0 to 1.
        most: Boxes of an image; any negative number for all.
    """
    candidates = torch.isfinite(ranking.scores)
    moved_boxes, moved = separate(boxes, classes, ranking.total, highest)
    conflicts = find_conflicts(moved_boxes, threshold, torch.where(moved[:, None], 0, classes))
    kept, decided = suppress(conflicts, candidates)
    size = kept.shape[1]
    limit = size if most < 0 else min(most, size)
    index = order_first(kept)[:, :limit]
    exists = kept.gather(1, index)
    # All candidates that were left out have the lowest score of the ranking or a lower one.
    complete = ranking.total <= size
    if 0 < limit < size:
        last = ranking.scores.gather(1, index[:, -1:])[:, 0]
        complete |= exists[:, -1] & (last > ranking.scores[:, -1])
    return Choice(index, exists, decided & complete)
