"""Makes a detector faster on a GPU. Results change by rounding only, so on a CPU the model stays as it is."""

import itertools
from collections import Counter
from typing import Any

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d, NaiveSyncBatchNorm
from detectron2.modeling import FCOS, GeneralizedRCNN, RetinaNet
from detectron2.structures import ImageList
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from job.detect.fused import FusedReLU
from job.detect.pyramid import InPlaceSums

_NORMS = (FrozenBatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm, NaiveSyncBatchNorm)


class Acceleration:
    """A model with folded batch norms, whose images are normalised and padded as one batch; `close` restores it.

    cuDNN does not choose its algorithms by measuring (`torch.backends.cudnn.benchmark`): another start would choose
    others, and give other last digits. It uses only those that always give the same (`cudnn.deterministic`).
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        """Changes a model on a GPU.

        Args:
            model: The model, in evaluation mode.
            dtype: The floating-point type that it computes in; in half precision, ReLUs are fused.
        """
        self._model: Any = model
        self._folded = FoldedNorms(model)
        half = dtype != torch.float32
        self._fused = FusedReLU(model, dtype) if half else None
        self._pyramids = InPlaceSums(model)
        self._batch = torch.empty(0)
        # torch lets cuDNN round float32 to TF32, which has 10 bits of mantissa, as float16 has. In half precision only
        # the last layers compute in float32, from numbers with no more bits: TF32 rounds their weights alone.
        cudnn = torch.backends.cudnn
        self._flags = cudnn.allow_tf32, cudnn.deterministic
        cudnn.allow_tf32, cudnn.deterministic = half, True
        self._has_own_preprocessing = type(model) not in (GeneralizedRCNN, RetinaNet, FCOS)
        if not self._has_own_preprocessing:
            model.__dict__["preprocess_image"] = self._preprocess

    def close(self) -> None:
        """Restores the model."""
        self._pyramids.close()
        if self._fused:
            self._fused.close()
        self._folded.close()
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = self._flags
        if not self._has_own_preprocessing:
            del self._model.__dict__["preprocess_image"]

    def expect(self, batch: torch.Tensor) -> None:
        """Sets the batch of the next pass, (n, 3, h, w) uint8; the model's inputs are views of its images."""
        self._batch = batch

    def _preprocess(self, inputs: list[dict[str, Any]]) -> ImageList:
        """Replaces preprocess_image, which starts three kernels per image; the values are the same."""
        model, batch = self._model, self._batch
        height, width = batch.shape[-2:]
        batch = batch.contiguous(memory_format=torch.channels_last)
        normalised = (batch - model.pixel_mean) / model.pixel_std
        shape = torch.empty(3, height, width, device="meta")
        constraints = {"padding_constraints": model.backbone.padding_constraints}
        padded = ImageList.from_tensors([shape], model.backbone.size_divisibility, **constraints).tensor.shape
        more = (0, padded[-1] - width, 0, padded[-2] - height)
        return ImageList(nn.functional.pad(normalised, more), [(height, width)] * len(inputs))


class FoldedNorms:
    """The batch norms of a model, folded into the convolutions before them; `close` restores the model.

    In evaluation a batch norm is a linear function of each channel, so it can be part of the convolution.
    """

    def __init__(self, model: nn.Module) -> None:
        self._originals: list[tuple[nn.Module, str, Any]] = []
        uses = Counter(child for module in model.modules() for child in module.children())
        for module in list(model.modules()):
            if type(module) is Conv2d and type(module.norm) in _NORMS:
                self._fold(module, module.norm)
                self._replace(module, "norm", None)
            elif type(module) is nn.Sequential:
                children = list(module.named_children())
                for (_, convolution), (name, norm) in itertools.pairwise(children):
                    # A convolution that is also used elsewhere may have another norm there.
                    if type(convolution) is nn.Conv2d and uses[convolution] == 1 and type(norm) in _NORMS:
                        self._fold(convolution, norm)
                        self._replace(module, name, nn.Identity())

    def close(self) -> None:
        """Restores the model."""
        for module, name, original in reversed(self._originals):
            setattr(module, name, original)
        self._originals.clear()

    @torch.no_grad()
    def _fold(self, convolution: Any, norm: Any) -> None:
        statistics = norm.running_mean, norm.running_var, norm.eps
        weight, bias = fuse_conv_bn_weights(convolution.weight, convolution.bias, *statistics, norm.weight, norm.bias)
        self._replace(convolution, "weight", weight)
        self._replace(convolution, "bias", bias)

    def _replace(self, module: nn.Module, name: str, value: Any) -> None:
        self._originals.append((module, name, getattr(module, name)))
        setattr(module, name, value)
