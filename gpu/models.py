"""The detectors of the checks: each architecture with random weights that behave like trained ones.

Weights as initialised make a ResNet's activations grow beyond float16, and give all boxes almost the same score. So
they are fitted: batch norms get the statistics of their inputs on real frames, layers without a norm a mean of 0 and a
spread of 1, and scores a spread as that of trained heads. The demo's YOLO has its real weights.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from detectron2 import model_zoo
from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torch.nn import functional

from demo import fetch
from gpu import pictures
from gpu.harness import Bench
from job import images
from job.detect import config, model
from job.detect.model import Detector
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


# Mean and standard deviation of the outputs of layers without a norm, by the end of their names; else 0 and 1.
_SPREADS = {
    "rpn_head.objectness_logits": (-3.0, 2.0),
    "rpn_head.anchor_deltas": (0.0, 0.3),
    "cls_score": (0.0, 2.5),
    "bbox_pred": (0.0, 0.3),
    "fcos.bbox_pred": (3.0, 1.0),  # distances to the four sides, in strides
}
# The weight of the last norm of each residual branch. At 1, a deep random network makes small differences large: on a
# CPU, bf16 lost 187 of 200 boxes of Faster R-CNN, and with 0.2 48 of 177.
_BRANCH_WEIGHT = 0.2
# Boxes of an image above the score threshold before non-maximum suppression, and the highest score.
_BOXES_PER_IMAGE, _THRESHOLD, _HIGHEST = 100, 0.05, 0.95


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
    hooks, outputs = [], defaultdict[nn.Module, list[torch.Tensor]](list)
    for name, module in network.named_modules():
        full_name = name.replace("head.", "fcos.") if built.architecture == "FCOS" else name
        if isinstance(module, FrozenBatchNorm2d):
            if name.endswith("conv3.norm"):
                module.weight.fill_(_BRANCH_WEIGHT)
            hooks.append(module.register_forward_pre_hook(_Once(_measure_norm)))
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            spread = next((spread for ending, spread in _SPREADS.items() if full_name.endswith(ending)), (0.0, 1.0))
            hooks.append(module.register_forward_pre_hook(_Once(partial(_spread, *spread))))
        if name.endswith("cls_score"):
            hooks.append(module.register_forward_hook(lambda layer, _, output: outputs[layer].append(output)))
    paths = pictures.list_frames()
    decoded = [images.decode(paths[index].read_bytes()) for index in (len(paths) // 4, len(paths) * 3 // 4)]
    inputs = [{"image": _resize(image, built.min_size), "height": 100, "width": 200} for image in decoded]
    with torch.inference_mode():
        network(inputs)
        for layer, logits in outputs.items():
            fit_scores = _fit_background if isinstance(layer, nn.Linear) else _fit_sigmoids
            fit_scores(layer, torch.cat([values.flatten(1) for values in logits], dim=1), len(inputs))
    for hook in hooks:
        hook.remove()
    return network.state_dict()


def _resize(image: images.BGR, short_side: int) -> torch.Tensor:
    scale = short_side / min(image.shape[:2])
    return torch.from_numpy(cv2.resize(image, None, fx=scale, fy=scale)).permute(2, 0, 1)


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


def _spread(mean: float, std: float, layer: Any, inputs: tuple[torch.Tensor]) -> None:
    """Gives each channel of a layer's output a mean, and all of them a standard deviation."""
    weight, bias = layer.weight, layer.bias
    is_linear = isinstance(layer, nn.Linear)
    # Before the activation, which some of detectron2's layers contain.
    output = functional.linear(inputs[0], weight) if is_linear else layer._conv_forward(inputs[0], weight, None)
    center = output.mean(dim=[dimension for dimension in range(output.ndim) if dimension != 1])
    scale = std / (output - center.view((1, -1) + (1,) * (output.ndim - 2))).std()
    weight.mul_(scale)
    bias.copy_(mean - center * scale)


def _fit_sigmoids(layer: Any, logits: torch.Tensor, count: int) -> None:
    """Moves and scales logits so that a number of scores is above the threshold, and the highest is as it should be."""
    low = logits.flatten().topk(min(logits.numel(), count * _BOXES_PER_IMAGE)).values[-1]
    threshold, highest = torch.tensor([_THRESHOLD, _HIGHEST]).logit()
    scale = (highest - threshold) / (logits.max() - low)
    layer.weight.mul_(scale)
    layer.bias.copy_(layer.bias * scale + threshold - low * scale)


def _fit_background(layer: Any, logits: torch.Tensor, count: int) -> None:
    """Raises the logit of the background until only a number of softmax scores is above the threshold."""
    raised = 0.0
    while raised < 50:
        logits[:, -1] += 0.25
        raised += 0.25
        if int((logits.softmax(dim=1)[:, :-1] > _THRESHOLD).sum()) <= count * _BOXES_PER_IMAGE:
            break
    layer.bias[-1] += raised
