"""Convolutions with the ReLU after them in one call of cuDNN, in half precision on a GPU.

torch adds the bias, adds the residual and applies ReLU in calls of their own, each of which reads and writes the whole
feature map. cuDNN does so while it computes the convolution. No compiler is needed, unlike for torch.compile.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from detectron2.utils.logger import log_first_n
from torch import nn
from torch.nn import functional

from job.errors import first_line


class FusedReLU:
    """A model in which a convolution and the ReLU after it are one call; `close` restores the model."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        """Changes the model. A norm between convolution and ReLU must be folded before (`FoldedNorms`).

        Args:
            model: A model in evaluation mode on a GPU.
            dtype: float16 or bfloat16.
        """
        self._changed: list[nn.Module] = []
        self._removed: list[tuple[nn.Sequential, str, nn.Module]] = []
        self._dtype = dtype
        uses = Counter(child for module in model.modules() for child in module.children())
        for module in list(model.modules()):
            kind: type = type(module)
            block: Any = module
            if kind is BottleneckBlock:
                self._replace_block(block, [block.conv1, block.conv2, block.conv3])
            elif kind is BasicBlock:
                self._replace_block(block, [block.conv1, block.conv2])
            elif kind is BasicStem:
                self._replace(block, _run_stem, [block.conv1])
            elif kind is Conv2d and type(block.activation) is nn.ReLU:
                self._replace(block, _run_convolution, [block])
            elif kind is nn.Sequential:
                for (_, first), (name, second) in itertools.pairwise(list(module.named_children())):
                    if type(second) is nn.ReLU and type(first) is nn.Conv2d and uses[first] == 1 and _is_plain(first):
                        self._replace(first, _run_convolution, [first])
                        self._removed.append((block, name, second))
                        setattr(block, name, nn.Identity())

    def close(self) -> None:
        """Restores the model."""
        for module in self._changed:
            del module.__dict__["forward"]
        for sequence, name, relu in self._removed:
            setattr(sequence, name, relu)
        self._changed.clear()
        self._removed.clear()

    def _replace_block(self, block: Any, convolutions: list[Any]) -> None:
        shortcut = block.shortcut
        if shortcut is None:
            self._replace(block, partial(_run_block, None), convolutions)
        elif type(shortcut) is Conv2d and shortcut.activation is None and _is_plain(shortcut):
            run = partial(_run_block, _Shortcut(shortcut, self._dtype))
            self._replace(block, run, convolutions, shortcut.bias)

    def _replace(
        self,
        module: nn.Module,
        run: Callable[..., torch.Tensor],
        convolutions: list[Any],
        last_bias: torch.Tensor | None = None,
    ) -> None:
        if "forward" not in vars(module) and all(map(_is_plain, convolutions)):
            *first, last = convolutions
            fused = [*(_Fused(item, self._dtype) for item in first), _Fused(last, self._dtype, last_bias)]
            module.__dict__["forward"] = partial(run, fused)
            self._changed.append(module)


def _is_plain(convolution: Any) -> bool:
    zeros = convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
    return zeros and getattr(convolution, "norm", None) is None


class _Fused:
    """A convolution with ReLU; `more_bias` is added to its bias."""

    def __init__(self, convolution: nn.Conv2d, dtype: torch.dtype, more_bias: torch.Tensor | None = None) -> None:
        self._dtype = dtype
        self._weight = convolution.weight.detach().to(dtype, memory_format=torch.channels_last)
        biases = [bias.detach().float() for bias in (convolution.bias, more_bias) if bias is not None]
        self._bias = sum(biases, torch.zeros(len(self._weight), device=self._weight.device)).to(dtype)
        self._geometry: Any = convolution.stride, convolution.padding, convolution.dilation, convolution.groups

    def __call__(self, images: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Computes relu(convolution(images) + bias + residual)."""
        images = images.to(self._dtype)
        try:
            if residual is None:
                return torch.cudnn_convolution_relu(images, self._weight, self._bias, *self._geometry)
            residual = residual.to(self._dtype)
            return torch.cudnn_convolution_add_relu(images, self._weight, residual, 1.0, self._bias, *self._geometry)
        except RuntimeError as error:  # whatever it is, the calls below decide: an error of the GPU appears there again
            reason = first_line(error)
        result = functional.conv2d(images, self._weight, self._bias, *self._geometry)
        text = f"ReLU runs in a call of its own, which is slower: cuDNN cannot fuse it ({reason})."
        log_first_n(logging.WARNING, text, name=__name__)
        return functional.relu_(result if residual is None else result.add_(residual))


class _Shortcut:
    """The convolution of a residual without its bias, which the block's last convolution adds."""

    def __init__(self, convolution: nn.Conv2d, dtype: torch.dtype) -> None:
        self._weight = convolution.weight.detach().to(dtype, memory_format=torch.channels_last)
        self._geometry: Any = convolution.stride, convolution.padding, convolution.dilation, convolution.groups

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(images.to(self._weight.dtype), self._weight, None, *self._geometry)


def _run_block(shortcut: _Shortcut | None, fused: list[_Fused], images: torch.Tensor) -> torch.Tensor:
    """Replaces `forward` of BasicBlock and BottleneckBlock."""
    residual = shortcut(images) if shortcut else images
    *first, last = fused
    for convolution in first:
        images = convolution(images)
    return last(images, residual)


def _run_stem(fused: list[_Fused], images: torch.Tensor) -> torch.Tensor:
    """Replaces `forward` of BasicStem."""
    return functional.max_pool2d(fused[0](images), kernel_size=3, stride=2, padding=1)


def _run_convolution(fused: list[_Fused], images: torch.Tensor) -> torch.Tensor:
    return fused[0](images)
