"""The detector's own view of an image: its deepest backbone feature map, averaged over the image."""

from typing import Any

import torch
from torch import nn


def backbone_of(model: nn.Module) -> nn.Module | None:
    """The part of a detector that turns pixels into features; None where a model has no such part.

    Below a feature pyramid it is the classification network, whose last features are the most abstract ones.
    """
    backbone: nn.Module | None = getattr(model, "backbone", None)
    bottom_up: nn.Module | None = getattr(backbone, "bottom_up", None)
    return bottom_up if bottom_up is not None else backbone


def deepest(features: torch.Tensor | dict[str, torch.Tensor]) -> torch.Tensor:
    """Of a backbone's feature maps the one of the lowest resolution, shape (N, D, h, w)."""
    if isinstance(features, torch.Tensor):
        return features
    return min(features.values(), key=lambda each: each.shape[-1] * each.shape[-2])


class PooledFeature:
    """Keeps, after each forward pass, the mean of the deepest feature map over each image.

    Attributes:
        value: Shape (N, D) float32 for the N images of the last pass; None when the model has no backbone.
    """

    def __init__(self, model: nn.Module) -> None:
        self.value: torch.Tensor | None = None
        self._size = (0, 0)
        backbone = backbone_of(model)
        self._hook = None if backbone is None else backbone.register_forward_hook(self._keep)

    def close(self) -> None:
        """Leaves the model as it was."""
        if self._hook:
            self._hook.remove()

    def expect(self, height: int, width: int) -> None:
        """Says how large the images of the next pass are before padding, so that padding is not averaged in."""
        self._size = (height, width)

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        features = deepest(output)
        rows, columns = (
            -(-size * cells // padded)
            for size, cells, padded in zip(self._size, features.shape[-2:], inputs[0].shape[-2:], strict=True)
        )
        self.value = features[..., :rows, :columns].float().mean(dim=(-2, -1))
