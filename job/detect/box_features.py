"""The feature of every box: what tells its object from those of other boxes.

- R-CNN: the input of the box predictor, of the proposal that the box came from. Of a cascade, that of the last stage.
- RetinaNet and FCOS: the feature map of the level, at the cell of the box's anchor. All levels share one head.
- YOLOv3-tiny: the input of the fine head at the cell of the box's center (`job.detect.yolo`).

Any other model has none.
"""

from typing import Any

import torch
from detectron2.structures import Instances


class LastInput:
    """Keeps what a module was called with last.

    Attributes:
        value: Its first argument, with all dimensions but the first flattened.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.value = torch.empty(0)
        module.register_forward_pre_hook(self._keep)

    def _keep(self, module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        self.value = inputs[0].flatten(start_dim=1)


def take_cells(feature_map: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Takes the features of cells.

    Args:
        feature_map: (D, rows, columns).
        cells: (k,) numbers of cells, row by row.

    Returns:
        (k, D).
    """
    return feature_map.flatten(1)[:, cells].T


def of_instances(outputs: list[Instances]) -> torch.Tensor | None:
    """Returns (boxes, D) features of the boxes of some images; None if the model has none."""
    if not all(instances.has("box_features") for instances in outputs):
        return None
    return torch.cat([instances.box_features for instances in outputs])
