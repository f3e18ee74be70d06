"""The detector's embedding of an image: its deepest backbone feature map, averaged over the image."""

from typing import Any

import torch
from torch import nn


def find_backbone(model: nn.Module) -> nn.Module | None:
    """Finds the part of a detector that turns pixels into features.

    With a feature pyramid, this is the classification network below it, whose last features are the most abstract ones.

    Returns:
        The backbone; None if the model has none.
    """
    backbone: nn.Module | None = getattr(model, "backbone", None)
    bottom_up: nn.Module | None = getattr(backbone, "bottom_up", None)
    return bottom_up if bottom_up is not None else backbone


def find_detector(model: nn.Module) -> nn.Module:
    """Finds the detector in a model of `job.detect.embedder`; any other model is one itself."""
    detector: nn.Module | None = getattr(model, "detector", None)
    return model if detector is None else detector


def find_deepest_map(features: torch.Tensor | dict[str, torch.Tensor]) -> torch.Tensor:
    """Returns the feature map of the lowest resolution of a backbone, shape (N, D, h, w)."""
    if isinstance(features, torch.Tensor):
        return features
    return min(features.values(), key=lambda feature_map: feature_map.shape[-1] * feature_map.shape[-2])


class PooledFeature:
    """Keeps, after each forward pass, the mean of the deepest feature map over each image.

    Attributes:
        value: Shape (N, D) float32 for the N images of the last pass; None if the model has no backbone.
    """

    def __init__(self, model: nn.Module) -> None:
        self.value: torch.Tensor | None = None
        self._size = (0, 0)
        backbone = find_backbone(model)
        self._hook = None if backbone is None else backbone.register_forward_hook(self._keep)

    def close(self) -> None:
        """Restores the model."""
        if self._hook:
            self._hook.remove()

    def expect(self, height: int, width: int) -> None:
        """Sets the size, before padding, of the images in the next pass, to leave the padding out of the mean."""
        self._size = (height, width)

    def _keep(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        features = find_deepest_map(output)
        rows, columns = (
            -(-size * cells // padded)
            for size, cells, padded in zip(self._size, features.shape[-2:], inputs[0].shape[-2:], strict=True)
        )
        self.value = features[..., :rows, :columns].float().mean(dim=(-2, -1))
