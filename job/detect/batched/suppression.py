"""Non-maximum suppression of many groups of boxes at once, without waiting for the GPU.

The usual loop goes from the best box to the worst, and keeps a box unless a kept one overlaps it. Here all boxes are
decided in rounds: a box is kept if none of the boxes above it that overlap it was kept in the round before. A box is
decided after n rounds if no chain of boxes, each overlapping the next, leads to it from n boxes above. Once a round
changes nothing, the result is that of the loop: by induction from the best box, only one set agrees with itself.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

# Rounds of one call. Only long chains of boxes need more.
ROUNDS = 16

_WORD_BITS = 64
# Pairs of boxes whose overlaps are computed at a time: tables of 64 MiB.
_MAX_PAIRS = 1 << 24


def find_conflicts(boxes: torch.Tensor, threshold: float, classes: torch.Tensor | None = None) -> torch.Tensor:
    """Finds, for each box, the boxes above it that overlap it by more than the threshold.

    The arithmetic is that of `torchvision.ops.nms` on a CPU, to the last bit.

    Args:
        boxes: (groups, boxes, 4) float32 corners, with the best box of each group first. A box with NaN has no
            conflicts.
        threshold: Intersection over union, from 0 to 1.
        classes: (groups, boxes) classes of the boxes; only boxes of one class conflict. None for one class.

    Returns:
        (groups, boxes, words) int64: bit ``j % 64`` of word ``j // 64`` stands for box ``j``.
    """
    groups, count, _ = boxes.shape
    step = max(1, _MAX_PAIRS // max(1, count * count))
    limit = _round_down(threshold)
    parts = []
    for start in range(0, groups, step):
        conflicts = _compute_overlaps(boxes[start : start + step]) > limit
        if classes is not None:
            some = classes[start : start + step]
            conflicts &= some[:, :, None] == some[:, None, :]
        parts.append(_pack(conflicts.tril_(diagonal=-1)))
    return torch.cat(parts)


def suppress(
    conflicts: torch.Tensor, candidates: torch.Tensor, kept: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decides which boxes are kept.

    Args:
        conflicts: Result of `find_conflicts`.
        candidates: (groups, boxes) bool. Boxes that are no candidates are not kept, and suppress none.
        kept: Result of an earlier call with the same arguments, to continue from.

    Returns:
        (groups, boxes) bool of the kept boxes, and (groups,) bool of the groups whose boxes are all decided.
    """
    before = kept = candidates if kept is None else kept
    for _ in range(ROUNDS):
        before = kept
        suppressed = (conflicts & _pack(kept)[:, None, :]).any(dim=2)
        kept = candidates & ~suppressed
    return kept, (kept == before).all(dim=1)


def _round_down(threshold: float) -> float:
    """Returns the largest float32 that is at most the threshold: any float32 exceeds both or none of them."""
    rounded = np.float32(threshold)
    return float(rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-np.inf)))


def _compute_overlaps(boxes: torch.Tensor) -> torch.Tensor:
    """Computes (groups, boxes, boxes) intersections over unions."""

    def pair(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
        return function(values[:, :, None], values[:, None, :])

    left, top, right, bottom = boxes.unbind(dim=2)
    area = (right - left) * (bottom - top)
    # In place, since these tables are by far the largest ones of the post-processing.
    width = pair(torch.minimum, right).sub_(pair(torch.maximum, left)).clamp_(min=0)
    height = pair(torch.minimum, bottom).sub_(pair(torch.maximum, top)).clamp_(min=0)
    intersection = width.mul_(height)
    return intersection.div(pair(torch.add, area).sub_(intersection))


def _pack(mask: torch.Tensor) -> torch.Tensor:
    """Packs the last dimension of a bool tensor into words of 64 bits."""
    padded = functional.pad(mask, (0, -mask.shape[-1] % _WORD_BITS))
    powers = torch.bitwise_left_shift(1, torch.arange(8, dtype=torch.uint8, device=mask.device))
    octets = padded.view(torch.uint8).view(*padded.shape[:-1], padded.shape[-1] // 8, 8)
    return (octets * powers).sum(dim=-1, dtype=torch.uint8).view(torch.int64)
