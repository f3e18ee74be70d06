"""The proposals of a batch as one list without gaps, and their features from the right level of the pyramid."""

from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling.poolers import assign_boxes_to_levels
from detectron2.structures import Boxes


@dataclass(frozen=True)
class Regions:
    """Regions of interest of a batch.

    Attributes:
        images: (M,) number of the image in the batch.
        boxes: (M, 4) corners in pixels of the resized image.
        levels: (M,) level of the feature pyramid.
        level_counts: Number of regions on each level.
    """

    images: torch.Tensor
    boxes: torch.Tensor
    levels: torch.Tensor
    level_counts: list[int]


def assign_levels(pooler: Any, boxes: torch.Tensor) -> torch.Tensor:
    """Returns the level of the pyramid of each box, (M,) of (M, 4)."""
    if len(pooler.level_poolers) == 1:
        return torch.zeros_like(boxes[:, 0], dtype=torch.int64)
    canonical = pooler.canonical_box_size, pooler.canonical_level
    levels: torch.Tensor = assign_boxes_to_levels([Boxes(boxes)], pooler.min_level, pooler.max_level, *canonical)
    return levels


def count_levels(pooler: Any, levels: torch.Tensor) -> torch.Tensor:
    """Counts the regions of each level, without waiting for the GPU as `bincount` does."""
    return (levels == torch.arange(len(pooler.level_poolers), device=levels.device)[:, None]).sum(dim=1)


def pool(pooler: Any, maps: list[torch.Tensor], regions: Regions) -> torch.Tensor:
    """Pools the features of regions as detectron2's `ROIPooler` does, without waiting for the GPU.

    Args:
        pooler: detectron2's ROIPooler.
        maps: Feature maps of its levels.
        regions: M regions.

    Returns:
        (M, channels, rows, columns).
    """
    rows = torch.cat([regions.images[:, None].to(regions.boxes.dtype), regions.boxes], dim=1)
    if len(pooler.level_poolers) == 1:
        return pooler.level_poolers[0](maps[0], rows)  # type: ignore[no-any-return]
    pooled = maps[0].new_zeros((len(rows), maps[0].shape[1], *pooler.output_size))
    by_level = torch.split(regions.levels.argsort(stable=True), regions.level_counts)
    for level_pooler, level_map, index in zip(pooler.level_poolers, maps, by_level, strict=True):
        pooled[index] = level_pooler(level_map, rows[index])
    return pooled
