"""Counts the operations that make the CPU wait for a GPU, on a machine without one.

Tensors pose as those of a GPU while their values stay on the CPU, so the real code runs and gives real results. The
list of operations is that of `torch.cuda.set_sync_debug_mode`, read in torch 2.14's sources.
"""

import contextlib
from collections import Counter
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

# With "cuda", torch would load the driver.
_GPU = torch.device("meta")
# The number of results depends on values, so the CPU has to read it.
_SIZED_BY_VALUES = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::equal",
    "torchvision::nms",
}


class GpuTensor(torch.Tensor):
    """A tensor that claims to be on a GPU.

    Attributes:
        on_cpu: Its values.
    """

    on_cpu: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "GpuTensor":
        tensor: GpuTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=_GPU,
        )
        tensor.on_cpu = values
        return tensor

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise AssertionError(f"{function} is called outside of Waits")


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs operations on tensors that pose as those of a GPU.

    Attributes:
        counts: How often each operation has waited.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Any:
        # So that `torch.tensor(..., device="meta")` makes a tensor on the CPU, and copies it visibly.
        self._lifting = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        self._autocast = mock.patch("torch.autocast", lambda *_, **__: contextlib.nullcontext())  # unknown to "meta"
        self._autocast.start()
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._autocast.stop()
        torch._C._set_only_lift_cpu_tensors(self._lifting)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat = pytree.tree_leaves((args, kwargs))
        from_gpu = any(isinstance(leaf, GpuTensor) for leaf in flat)
        device = kwargs.get("device")
        to_gpu = from_gpu if device is None else torch.device(device) == _GPU
        name = function._schema.name
        if self._waits(name, args, kwargs, from_gpu, to_gpu):
            self.counts[name] += 1
        if to_gpu and device is not None:
            kwargs = kwargs | {"device": torch.device("cpu")}
        args, kwargs = pytree.tree_map_only(GpuTensor, lambda tensor: tensor.on_cpu, (args, kwargs))
        results = function(*args, **kwargs)
        return pytree.tree_map_only(torch.Tensor, GpuTensor, results) if to_gpu else results

    @staticmethod
    def _waits(name: str, args: Any, kwargs: Any, from_gpu: bool, to_gpu: bool) -> bool:
        if name == "aten::_to_copy":
            return from_gpu != to_gpu and not kwargs.get("non_blocking")
        if name == "aten::copy_":
            blocking = not (len(args) > 2 and args[2])
            return isinstance(args[0], GpuTensor) != isinstance(args[1], GpuTensor) and blocking
        if not from_gpu:
            return False
        if name in ("aten::index", "aten::index_put", "aten::index_put_"):
            masks = [mask for mask in args[1] if mask is not None and mask.dtype in (torch.bool, torch.uint8)]
            return bool(masks)
        if name == "aten::repeat_interleave":
            return kwargs.get("output_size") is None
        return name in _SIZED_BY_VALUES


def move(model: nn.Module) -> nn.Module:
    """Lets the parameters and buffers of a model pose as those of a GPU."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = GpuTensor(tensor.detach())  # type: ignore[assignment]
    return model
