"""Keeps the last layers of a detector in single precision while the rest runs in half precision.

In half precision many objectness logits are equal, so that the order of a sort decides which of their anchors become
proposals. Confidences and class probabilities would be rounded as well.
"""

from functools import partial
from typing import Any

import torch
from detectron2.modeling import FastRCNNOutputLayers
from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from torch import nn

_NAMES: dict[type, tuple[str, ...]] = {
    StandardRPNHead: ("objectness_logits", "anchor_deltas"),
    FastRCNNOutputLayers: ("cls_score", "bbox_pred"),
    RetinaNetHead: ("cls_score", "bbox_pred"),
    FCOSHead: ("cls_score", "bbox_pred", "ctrness"),
}


def keep_in_float32(model: nn.Module) -> None:
    """Lets the layers that compute logits and box deltas compute in float32 under autocast, too.

    Args:
        model: A detectron2 model, changed in place. Nothing changes without autocast, or for layers of other classes.
    """
    for module in model.modules():
        for name in _NAMES.get(type(module), ()):
            layer: Any = getattr(module, name)
            layer.forward = partial(_compute_in_float32, layer)


def _compute_in_float32(layer: nn.Module, values: torch.Tensor) -> torch.Tensor:
    with torch.autocast(values.device.type, enabled=False):
        return type(layer).forward(layer, values.float())  # type: ignore[no-any-return]
