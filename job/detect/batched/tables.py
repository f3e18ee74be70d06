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


def resize(boxes: torch.Tensor, size: tuple[int, int], output_sizes: list[tuple[int, int]]) -> torch.Tensor:
    """Converts corners to pixels of the original images, and clips them.

    Args:
        boxes: (N, boxes, 4) corners in pixels of the resized images.
        size: Height and width of the resized images.
        output_sizes: Height and width of each original image.
    """
    factors = [[width / size[1], height / size[0]] for height, width in output_sizes]
    limits = [[float(width), float(height)] for height, width in output_sizes]
    # Does not wait: memory of the CPU that is not pinned is read before the call returns.
    numbers = torch.tensor([factors, limits]).to(boxes.device, non_blocking=True).repeat(1, 1, 2)[:, :, None]
    return (boxes * numbers[0]).clamp(min=0).minimum(numbers[1])
