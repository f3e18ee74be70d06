"""Keeps the parts of a detector in single precision whose rounding would move boxes and confidences.

In half precision many objectness logits are equal, so that the order of a sort decides which of their anchors become
proposals. Confidences and class probabilities would be rounded as well. And detectron2 rounds the corners of regions to
the precision of the feature maps before it pools them: above 1,024 pixels to whole pixels in fp16, to 8 pixels in bf16.
"""

from functools import partial
from typing import Any

import torch
from detectron2.layers import ROIAlign
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
    """Lets the last layers and the pooling of regions compute in float32 under autocast, too.

    Args:
        model: A detectron2 model, changed in place. Nothing changes without autocast, or for layers of other classes.
    """
    for module in model.modules():
        for name in _NAMES.get(type(module), ()):
            layer: Any = getattr(module, name)
            layer.forward = partial(_compute_in_float32, layer)
        if type(module) is ROIAlign:
            module.forward = partial(_pool_in_float32, module)


def _compute_in_float32(layer: nn.Module, values: torch.Tensor) -> torch.Tensor:
    with torch.autocast(values.device.type, enabled=False):
        return type(layer).forward(layer, values.float())  # type: ignore[no-any-return]


def _pool_in_float32(layer: nn.Module, feature_map: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
    """Returns pooled features in the precision of the feature map."""
    # On a GPU it reads maps without gaps between one row and the next; making them so at the same time saves a copy.
    plain = feature_map.to(torch.float32, memory_format=torch.contiguous_format)
    with torch.autocast(feature_map.device.type, enabled=False):
        pooled: torch.Tensor = type(layer).forward(layer, plain, regions)
    return pooled.to(feature_map.dtype)
