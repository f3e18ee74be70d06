"""The detectors of the checks: each architecture with random weights that behave like trained ones.

Weights as initialised make a ResNet's activations grow beyond float16, and give all boxes almost the same score. So
they are fitted: batch norms get the statistics of their inputs on real frames, layers without a norm a mean of 0 and a
spread of 1, and the last layers a mean and a spread that trained heads have. The demo's YOLO has its real weights.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torch.nn import functional

from demo import fetch
from gpu.harness import Bench
from job import images
from job.detect import config, model
from job.detect.model import Detector
from job.detect.prepare import to_tensor
from job.settings import Settings
from job.settings.schema import Precision

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURES = {
    "rcnn": "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
    "cascade": "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml",
    "retinanet": "COCO-Detection/retinanet_R_50_FPN_3x.yaml",
    "fcos": "COCO-Detection/fcos_R_50_FPN_1x.py",
    "yolo": str(ROOT / "demo" / "yolov3-tiny.yaml"),
}


@dataclass(frozen=True)
class Spread:
    """Mean and spread of a last layer's outputs.

    Attributes:
        mean: Mean of every channel.
        std: Standard deviation within the channels.
        last: Mean of the last channel, where it is the background; None if it is like the others.
    """

    mean: float
    std: float
    last: float | None = None


# By the end of the layer's name. With these, about 1 in 10 boxes of a softmax head is above the score threshold.
_LAST_LAYERS = {
    "rpn_head.objectness_logits": Spread(-3, 2),
    "rpn_head.anchor_deltas": Spread(0, 0.3),
    "box_predictor.cls_score": Spread(0, 2.5, last=14),
    "box_predictor.bbox_pred": Spread(0, 0.5),
    **{f"box_predictor.{stage}.cls_score": Spread(0, 2.5, last=14) for stage in range(3)},
    **{f"box_predictor.{stage}.bbox_pred": Spread(0, 0.5) for stage in range(3)},
    "head.cls_score": Spread(-10, 1.5),
    "head.bbox_pred": Spread(0, 0.3),
    "head.ctrness": Spread(0, 1),
}
_INNER = Spread(0, 1)  # every other layer without a norm
_FCOS_BOXES = Spread(3, 1)  # distances to the four sides, in strides


def build(bench: Bench, name: str, device: str, precision: Precision = "fp32", **more: Any) -> Detector:
    """Builds a detector as the job does; the first time, its weights are fitted and saved.

    Args:
        bench: Where the checks run.
        name: Key of `ARCHITECTURES`.
        device: Value of CORAL_DEVICE.
        precision: Value of CORAL_PRECISION.
        **more: Further settings.
    """
    return model.build(replace(make_settings(bench, name), device=device, precision=precision, **more))


def make_settings(bench: Bench, name: str) -> Settings:
    """Returns the settings of a detector with saved weights, at the sizes of its config."""
    if name == "yolo":
        return Settings(input="", output="", model=ARCHITECTURES[name], weights=str(fetch.WEIGHTS))
    settings = Settings(input="", output="", model=_choose_model(bench, name), weights="none")
    if bench.toy:
        settings = replace(settings, min_size=128, max_size=224)
    path = bench.folder / f"{name}.pth"
    if not path.is_file():
        torch.manual_seed(0)
        # At half the usual size, which is enough for statistics.
        built = config.read(replace(settings, min_size=settings.min_size or 400, max_size=settings.max_size or 667))
        state = _fit(built.build(torch.device("cpu")).eval(), built)
        temporary = path.with_suffix(".tmp")
        torch.save({"model": state}, temporary)
        temporary.replace(path)
    return replace(settings, weights=str(path))


def _choose_model(bench: Bench, name: str) -> str:
    """Returns the model; in a rehearsal, the R-CNNs get the smallest backbone."""
    if not (bench.toy and name in ("rcnn", "cascade")):  # the others' files compute numbers, which the job refuses
        return ARCHITECTURES[name]
    path = bench.folder / f"{name}.yaml"
    base = model_zoo.get_config_file(ARCHITECTURES[name])
    smaller = "RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64}, RPN: {POST_NMS_TOPK_TEST: 100}"
    path.write_text(f"_BASE_: {base}\nMODEL: {{{smaller}}}\n")
    return str(path)


def _fit(network: nn.Module, built: config.DetectorConfig) -> dict[str, torch.Tensor]:
    """Fits the weights on two frames of the demo, and returns them."""
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            hooks.append(module.register_forward_pre_hook(_Once(_measure_norm)))
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            spread = next((spread for ending, spread in _LAST_LAYERS.items() if name.endswith(ending)), _INNER)
            if built.architecture == "FCOS" and name.endswith("head.bbox_pred"):
                spread = _FCOS_BOXES
            hooks.append(module.register_forward_pre_hook(_Once(_make_spreading(spread))))
    paths = sorted(fetch.FRAMES.iterdir())
    decoded = [images.decode(paths[index].read_bytes()) for index in (0, len(paths) // 2)]
    inputs = [{"image": to_tensor(image, _Sizes(built)), "height": 100, "width": 200} for image in decoded]  # type: ignore[arg-type]
    with torch.inference_mode():
        network(inputs)
    for hook in hooks:
        hook.remove()
    return network.state_dict()


class _Sizes:
    """The part of a detector that `to_tensor` reads."""

    def __init__(self, built: config.DetectorConfig) -> None:
        self.channels, self.min_size, self.max_size = built.channels, built.min_size, built.max_size


class _Once:
    """Calls a hook the first time only: later calls, for other levels, use what was fitted."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self._hook: Callable[..., Any] | None = hook

    def __call__(self, *arguments: Any) -> Any:
        hook, self._hook = self._hook, None
        return hook(*arguments) if hook else None


def _measure_norm(norm: Any, inputs: tuple[torch.Tensor]) -> None:
    variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance.clamp(min=1e-3 * float(variance.mean())))


def _make_spreading(spread: Spread) -> Callable[..., None]:
    def hook(layer: Any, inputs: tuple[torch.Tensor]) -> None:
        weight, bias = layer.weight, layer.bias
        is_linear = isinstance(layer, nn.Linear)
        # Before the activation, which some of detectron2's layers contain.
        output = functional.linear(inputs[0], weight) if is_linear else layer._conv_forward(inputs[0], weight, None)
        mean = output.mean(dim=[dimension for dimension in range(output.ndim) if dimension != 1])
        scale = spread.std / (output - mean.view((1, -1) + (1,) * (output.ndim - 2))).std()
        target = torch.full_like(mean, spread.mean)
        if spread.last is not None:
            target[-1] = spread.last
        weight.mul_(scale)
        bias.copy_(target - mean * scale)

    return hook
