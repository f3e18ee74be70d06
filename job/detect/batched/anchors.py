"""The anchors of detectron2's generator, made on the device."""

from typing import Any

import torch


def make_anchors(generator: Any, maps: list[torch.Tensor]) -> list[torch.Tensor]:
    """Makes the anchors of all levels as `DefaultAnchorGenerator` does, whose copies to the GPU wait for it.

    Args:
        generator: DefaultAnchorGenerator.
        maps: For each level, a feature map (N, channels, rows, columns).

    Returns:
        For each level, (anchors, 4) corners, by row, by column and by shape.
    """
    anchors = []
    for level, stride, cells in zip(maps, generator.strides, generator.cell_anchors, strict=True):
        y, x = (
            torch.arange(
                generator.offset * stride, count * stride, step=stride, dtype=torch.float32, device=cells.device
            )
            for count in level.shape[-2:]
        )
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        shifts = torch.stack([grid_x, grid_y, grid_x, grid_y], dim=2)
        anchors.append((shifts[:, :, None] + cells).flatten(0, 2))
    return anchors
