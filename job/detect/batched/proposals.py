"""The proposals of detectron2's RPN for all images of a batch, in one padded table."""

from dataclasses import dataclass
from typing import Any

import torch

from job.detect.batched.choice import separate
from job.detect.batched.suppression import find_conflicts, suppress
from job.detect.batched.tables import clip, take


@dataclass(frozen=True)
class Proposals:
    """The proposals of N images.

    Attributes:
        boxes: (N, P, 4) corners, by falling score, in pixels of the resized image.
        exists: (N, P) bool: rows of an image that has fewer proposals come last and do not count.
        settled: () bool: whether suppression has decided all of them.
    """

    boxes: torch.Tensor
    exists: torch.Tensor
    settled: torch.Tensor


class Suppression:
    """The candidates of a batch, of which suppression keeps the proposals. It can be continued until it is settled."""

    def __init__(self, rpn: Any, features: dict[str, torch.Tensor], anchors: list[torch.Tensor], size: tuple[int, int]):
        """Selects the best anchors of each level and decodes their boxes.

        Args:
            rpn: detectron2's RPN.
            features: Feature maps of N images by name.
            anchors: For each level, (anchors, 4) corners.
            size: Height and width of the images, before padding.
        """
        self._limit: int = rpn.post_nms_topk[False]
        boxes, scores = _select(rpn, features, anchors)
        exists = torch.isfinite(boxes).all(dim=-1) & torch.isfinite(scores)
        boxes = clip(torch.where(exists[..., None], boxes, 0), size)
        exists &= (boxes[..., 2:] - boxes[..., :2] > rpn.min_box_size).all(dim=-1)
        images, levels, _ = scores.shape
        highest = torch.where(exists[..., None], boxes, 0).amax(dim=(1, 2, 3))
        numbers = torch.arange(levels, device=boxes.device)[:, None].expand(-1, scores.shape[2])
        moved, _ = separate(boxes.flatten(1, 2), numbers.flatten(), exists.sum(dim=(1, 2)), highest)
        self._boxes, self._scores = boxes.flatten(1, 2), scores.flatten(1, 2)
        self._candidates = exists.flatten(0, 1)
        self._conflicts = find_conflicts(moved.view(images * levels, -1, 4), rpn.nms_thresh)
        self._kept: torch.Tensor | None = None

    def run(self) -> Proposals:
        """Runs suppression, or continues it, and takes the best boxes."""
        self._kept, settled = suppress(self._conflicts, self._candidates, self._kept)
        scores = self._scores.masked_fill(~self._kept.view(self._scores.shape), -torch.inf)
        values, order = scores.sort(dim=1, descending=True, stable=True)
        order = order[:, : self._limit]
        return Proposals(take(self._boxes, order), torch.isfinite(values[:, : self._limit]), settled.all())


def _select(
    rpn: Any, features: dict[str, torch.Tensor], anchors: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns boxes (N, levels, K, 4) and scores (N, levels, K), by falling score and NaN at the end of each level."""
    logits, deltas = rpn.rpn_head([features[name] for name in rpn.in_features])
    boxes, scores = [], []
    for level_logits, level_deltas, level_anchors in zip(logits, deltas, anchors, strict=True):
        # From (N, anchors of a place, rows, columns) to (N, all anchors), in the order of the anchors.
        flat = level_logits.permute(0, 2, 3, 1).flatten(1)
        best = flat.topk(min(rpn.pre_nms_topk[False], flat.shape[1]), dim=1)
        flat_deltas = level_deltas.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
        decoded = rpn.box2box_transform.apply_deltas(
            take(flat_deltas, best.indices).flatten(0, 1), level_anchors[best.indices].flatten(0, 1)
        )
        boxes.append(decoded.view(*best.indices.shape, 4))
        scores.append(best.values)
    longest = max(values.shape[1] for values in scores)
    pad = torch.nn.functional.pad
    return (
        torch.stack([pad(values, (0, 0, 0, longest - values.shape[1])) for values in boxes], dim=1),
        torch.stack([pad(values, (0, longest - values.shape[1]), value=torch.nan) for values in scores], dim=1),
    )
