"""Inference on a whole batch at once, with waits for the GPU that do not grow with the batch."""

from typing import Any

import torch

from job.detect.batched import dense, rcnn
from job.detect.batched.found import Found, unpack

__all__ = ["Found", "detect", "supports", "unpack"]


def supports(model: torch.nn.Module) -> bool:
    """Checks whether `detect` knows the model. All others run as detectron2 runs them."""
    return rcnn.supports(model) or dense.supports(model)


def detect(model: Any, images: torch.Tensor, output_sizes: list[tuple[int, int]]) -> Found:
    """Detects objects in images of one size. Boxes, scores and order are those of the model itself.

    The exceptions are rows that are not settled, boxes that are not finite, at which detectron2 fails and which are
    dropped here, and half precision, in which fewer values are rounded here.

    Args:
        model: A model that is supported, in evaluation mode.
        images: (N, 3, height, width) bytes on the device of the model.
        output_sizes: Height and width of each original image.
    """
    size = (images.shape[2], images.shape[3])
    features = model.backbone(model.preprocess_image([{"image": image} for image in images]).tensor)
    found = rcnn.detect(model, features, size) if rcnn.supports(model) else dense.detect(model, features)
    return found.resize(size, output_sizes)
