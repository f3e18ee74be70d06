"""How many images make a batch: the size that was set or measured, less where memory or integers do not suffice."""

from typing import Any

import torch

from job.detect.features import find_detector

# RoIAlign of torchvision addresses feature maps and its results on a GPU with 32-bit integers.
_MAX_VALUES = 2**31 - 1
# Models pad images to a multiple of this, or of less.
_PADDED_TO = 32


class BatchLimit:
    """Limits batches in images and in pixels, since the memory that a batch needs grows with both.

    Attributes:
        images: The most images in a batch, of any shape.
    """

    def __init__(self, images: int, model: torch.nn.Module) -> None:
        """Sets the limit in images, less if the results of RoIAlign would be too large, and that in pixels."""
        model = find_detector(model)
        self.images = max(1, min(images, _MAX_VALUES // _count_region_values(model)))
        self._pixels = int(_MAX_VALUES / _count_values_per_pixel(model))

    def of(self, height: int, width: int) -> int:
        """Returns how many images of a size, in pixels, make a full batch; at least 1."""
        return max(1, min(self.images, self._pixels // _count_pixels(height, width)))

    def halve(self, count: int, height: int, width: int) -> int:
        """Learns that some images of one size did not fit into memory, and returns how many of them to try next.

        Batches of smaller images keep their size as long as they have fewer pixels.
        """
        self._pixels = min(self._pixels, max(1, count // 2) * _count_pixels(height, width))
        return self.of(height, width)


def _count_pixels(height: int, width: int) -> int:
    """Counts the pixels of an image after padding."""
    return -(-height // _PADDED_TO) * -(-width // _PADDED_TO) * _PADDED_TO**2


def _count_values_per_pixel(model: torch.nn.Module) -> float:
    """Counts the values of a model's largest feature map for each pixel of its input.

    Models whose backbone does not tell its shapes get the number of a usual feature pyramid: 256 channels at stride 4.
    """
    shapes: dict[str, Any] = getattr(getattr(model, "backbone", None), "output_shape", dict)()
    known = [shape.channels / shape.stride**2 for shape in shapes.values() if shape.channels and shape.stride]
    return max(known, default=16.0)


def _count_region_values(model: Any) -> int:
    """Counts the values that RoIAlign computes for one image; 1 for a model without it."""
    heads, generator = getattr(model, "roi_heads", None), getattr(model, "proposal_generator", None)
    pooler = getattr(heads, "box_pooler", None) or getattr(heads, "pooler", None)  # of a feature pyramid; of one map
    if pooler is None or not hasattr(generator, "post_nms_topk"):
        return 1
    shapes = model.backbone.output_shape()
    channels = max(shapes[name].channels for name in model.roi_heads.in_features)
    height, width = pooler.output_size
    return int(model.proposal_generator.post_nms_topk[False] * channels * height * width)
