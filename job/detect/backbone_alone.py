"""A detector that stops after its backbone, for images whose detections were made elsewhere."""

from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from job.detect.features import find_backbone


class BackboneAlone(nn.Module):
    """A detector that stops after its backbone.

    Args:
        detector: A model of detectron2, or one with its methods.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector: Any = detector

    @property
    def backbone(self) -> nn.Module | None:
        """The part that turns pixels into features; None if the detector has none."""
        return find_backbone(self.detector)

    @property
    def pixel_mean(self) -> torch.Tensor:
        """Mean of each channel, on the scale of pixels."""
        mean: torch.Tensor = self.detector.pixel_mean
        return mean

    @property
    def pixel_std(self) -> torch.Tensor:
        """Standard deviation of each channel, on the scale of pixels."""
        std: torch.Tensor = self.detector.pixel_std
        return std

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Runs the backbone, whose features `job.detect.features.PooledFeature` keeps, and detects nothing."""
        if self.backbone is not None:
            self.backbone(self.detector.preprocess_image(batched_inputs).tensor)
        return detect_nothing(batched_inputs, self.pixel_mean.device)


def detect_nothing(batched_inputs: list[dict[str, Any]], device: torch.device) -> list[dict[str, Instances]]:
    """Makes the output of a detector without classes that found no boxes."""
    empty = torch.zeros(0, device=device)
    return [
        {
            "instances": Instances(
                (item["height"], item["width"]),
                pred_boxes=Boxes(empty.reshape(0, 4)),
                scores=empty,
                pred_classes=empty.long(),
                class_probabilities=empty.reshape(0, 1),
            )
        }
        for item in batched_inputs
    ]
