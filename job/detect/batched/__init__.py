"""Inference on a whole batch at once, with waits for the GPU that do not grow with the batch."""

from typing import Any

import torch

from job.detect.batched import dense, rcnn, yolo
from job.detect.batched.found import Found, unpack
from job.detect.batched.steps import Steps, run

__all__ = ["Found", "Steps", "detect", "run", "supports", "unpack"]


def supports(model: torch.nn.Module) -> bool:
    """Checks whether `detect` knows the model. All others run as detectron2 runs them."""
    return any(kind.supports(model) for kind in (rcnn, dense, yolo))


def detect(model: Any, images: torch.Tensor, output_sizes: list[tuple[int, int]]) -> Steps[Found]:
    """Detects objects in images of one size. Boxes, scores and order are those of the model itself.

    The exceptions are images that are not settled; boxes that are not finite, which are dropped here, while detectron2
    fails; equal scores, which keep the order of their anchors here; and half precision, in which corners of regions are
    not rounded here.

    Args:
        model: A model that is supported, in evaluation mode.
        images: (N, 3, height, width) bytes on the device of the model.
        output_sizes: Height and width of each original image.

    Returns:
        Steps; the backbone is part of the first one. `run` does them all.
    """
    if yolo.supports(model):
        return yolo.detect(model, images, output_sizes)
    size = (images.shape[2], images.shape[3])
    features = model.backbone(model.preprocess_image([{"image": image} for image in images]).tensor)
    if rcnn.supports(model):
        found = yield from rcnn.detect(model, features, size)
    else:
        found = dense.detect(model, features)
    return found.resize(size, output_sizes)
