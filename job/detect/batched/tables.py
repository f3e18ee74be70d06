"""Padded tables of boxes: one row per image, and as many columns for each."""

import torch


def clip(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Clips (..., 4) corners to an image of a height and a width."""
    height, width = size
    horizontal, vertical = boxes[..., 0::2].clamp(min=0, max=width), boxes[..., 1::2].clamp(min=0, max=height)
    return torch.stack([horizontal, vertical], dim=-1).flatten(-2)


def take(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Takes rows of each image: (N, rows, values) by (N, K) gives (N, K, values)."""
    return table.gather(1, index[..., None].expand(-1, -1, table.shape[2]))


def order_first(mask: torch.Tensor) -> torch.Tensor:
    """Returns, along the last dimension, the indices where a mask is True and then all others, both in their order."""
    return (~mask).to(torch.uint8).argsort(dim=-1, stable=True)
