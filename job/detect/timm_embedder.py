"""Features of a model of timm (https://github.com/huggingface/pytorch-image-models), an optional package.

The model gets the whole image, resized to its input size. timm crops the centre, but what is at the sides of a street
counts as much. With a detector, it gets the images as they were resized for the detector.
"""

import difflib
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Instances
from torch import nn

from job.detect import gpu, weights
from job.detect.backbone_alone import detect_nothing
from job.detect.model import Detector, choose_precision
from job.errors import JobError, SettingsError, one_line
from job.names import shorten
from job.settings import Settings
from job.settings.choices import TIMM

# The hub that timm names in its table of weights. The variable is that of the hub's own client.
_HUB = "https://huggingface.co"
_HUB_VARIABLE = "HF_ENDPOINT"
_WEIGHTS_FILE = "model.safetensors"
# Limits the long side of very wide images, in multiples of the input size.
_MAX_ASPECT = 4


class _Network(nn.Module):
    """A model of timm with its normalisation.

    Args:
        network: The model, which returns a vector per image.
        mean: Mean of each channel, RGB, in [0, 1].
        std: Standard deviation of each channel.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Turns (N, 3, H, W) RGB images with values in [0, 1] into a feature map of one cell, (N, D, 1, 1)."""
        features: torch.Tensor = self.network((images - self.mean) / self.std)
        return features[:, :, None, None]


class TimmEmbedder(nn.Module):
    """A detector, or none, with a model of timm in the place of its backbone.

    Args:
        network: The model of timm.
        size: Height and width of its input.
        interpolation: ``bicubic`` or ``bilinear``.
        detector: The detector; None if it detects nothing.
        channels: Channel order of the images, ``RGB`` or ``BGR``.
    """

    def __init__(
        self,
        network: _Network,
        size: tuple[int, int],
        interpolation: str,
        detector: nn.Module | None = None,
        channels: str = "RGB",
    ) -> None:
        super().__init__()
        self.backbone = network
        self.detector = detector
        self._size, self._interpolation, self._flip = size, interpolation, channels == "BGR"

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Runs the detector, and the model, whose features `job.detect.features.PooledFeature` keeps."""
        device = self.backbone.mean.device
        images = torch.stack([item["image"].to(device) for item in batched_inputs]).float() / 255
        if self._flip:
            images = images.flip(1)
        resized = nn.functional.interpolate(images, self._size, mode=self._interpolation, antialias=True)
        self.backbone(resized.clamp(0, 1))
        if self.detector is None:
            return detect_nothing(batched_inputs, device)
        outputs: list[dict[str, Instances]] = self.detector(batched_inputs)
        return outputs


def build(settings: Settings, detector: Detector | None) -> Detector:
    """Builds the model that CORAL_EMBEDDING names, and loads its weights.

    Args:
        settings: The settings.
        detector: The detector that it runs beside; None if the detections were made elsewhere.

    Raises:
        SettingsError: If timm is not installed, or the model, its weights or the device do not exist or do not fit
            together.
        ServiceUnavailable: If the weights cannot be downloaded, or the GPU fails.
    """
    timm = _import_timm()
    name = settings.embedding.removeprefix(TIMM)
    origin = _find_origin(timm, name)
    path = weights.fetch(_locate_weights(settings, origin), "CORAL_EMBEDDING_WEIGHTS")
    device = detector.device if detector else gpu.choose(settings)[0]
    with weights.discard_unreadable(path):
        network = _load(timm, settings, origin, path)
    inputs = timm.data.resolve_model_data_config(network)
    size = tuple(inputs["input_size"][1:])
    # timm knows Lanczos and random choices, too, which torch does not.
    interpolation = "bilinear" if inputs["interpolation"] == "bilinear" else "bicubic"
    with gpu.translate_errors():
        backbone = _Network(network, inputs["mean"], inputs["std"]).to(device).to(memory_format=torch.channels_last)
    _run_once(backbone, size, settings.embedding)
    precision = detector.precision if detector else choose_precision(settings, device)
    resized_for = [detector.min_size, detector.max_size] if detector else []
    made_with = [weights.sha256(path), precision, size, interpolation, inputs["mean"], inputs["std"], resized_for]
    given = detector or Detector(
        model=backbone,
        class_names=(),
        channels="RGB",
        min_size=min(size),
        max_size=_MAX_ASPECT * min(size),
        precision=precision,
        probabilities="synthetic",
        config_sha256="",
        weights_sha256="",
    )
    embedder = TimmEmbedder(backbone, size, interpolation, detector.model if detector else None, given.channels)
    return Detector(
        **vars(given)
        | {
            "model": embedder.eval(),
            "embedder": settings.embedding,
            "embedder_sha256": hashlib.sha256(json.dumps(made_with).encode()).hexdigest(),
        }
    )


def _import_timm() -> Any:
    try:
        import timm
        import timm.data
        import timm.models
    except ImportError as error:
        raise SettingsError(
            f"CORAL_EMBEDDING={TIMM}... needs the package timm ({one_line(error)}): install it with `pip install "
            "--no-deps --requirement requirements/timm.txt`."
        ) from None
    logging.getLogger("timm").setLevel(logging.WARNING)  # its lines are about each file that it loads
    return timm


def _find_origin(timm: Any, name: str) -> Any:
    """Finds timm's record of a model: where its weights are, and what its classifier is called."""
    known = timm.list_models() + timm.list_pretrained()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {TIMM}{close[0]}?" if close else "timm.list_models() lists all."
        raise SettingsError(f"CORAL_EMBEDDING={shorten(TIMM + name)} is not a model of timm: {hint}")
    return timm.get_pretrained_cfg(name)


def _locate_weights(settings: Settings, origin: Any) -> str:
    if settings.embedding_weights:
        return settings.embedding_weights
    if origin.hf_hub_id:
        hub = os.environ.get(_HUB_VARIABLE) or _HUB
        return f"{hub.rstrip('/')}/{origin.hf_hub_id}/resolve/main/{origin.hf_hub_filename or _WEIGHTS_FILE}"
    if isinstance(origin.url, str) and origin.url:
        return origin.url
    raise SettingsError(
        f"timm has no weights for CORAL_EMBEDDING={settings.embedding!r}: set CORAL_EMBEDDING_WEIGHTS to a checkpoint."
    )


def _load(timm: Any, settings: Settings, origin: Any, path: Path) -> nn.Module:
    """Builds a model with its weights and without its classifier."""
    try:
        tensors = timm.models.load_state_dict(str(path), weights_only=not settings.trust_pickle)
    except Exception as error:  # torch, safetensors, pickle and zipfile raise many types on a damaged file
        raise SettingsError(
            f"The weights {path} cannot be read ({one_line(error)[:200]}): use .safetensors, or a .pth with only the "
            "state_dict. If you trust the author of the file, CORAL_TRUST_PICKLE=1 also loads one that can run code."
        ) from error
    num_classes = _count_classes(tensors, origin)
    # With the same number in its record, timm compares all tensors with the model, and leaves none of them random.
    overlay = {"state_dict": tensors, "custom_load": False, "num_classes": num_classes, "label_offset": 0}
    try:
        network: Any = timm.create_model(
            settings.embedding.removeprefix(TIMM),
            pretrained=True,
            pretrained_cfg_overlay=overlay,
            num_classes=num_classes,
        )
        network.reset_classifier(0)
    except Exception as error:  # timm raises many types on tensors that do not fit
        raise SettingsError(
            f"The weights {path} do not fit CORAL_EMBEDDING={settings.embedding!r} ({one_line(error)[:300]}): use the "
            "weights of this model."
        ) from error
    built: nn.Module = network.eval()
    return built


def _count_classes(tensors: dict[str, torch.Tensor], origin: Any) -> int:
    """Counts the classes of a checkpoint; 0 if it has no classifier.

    Checkpoints that timm converts have other names. Then the number is that of timm's own checkpoint.
    """
    names = [origin.classifier] if isinstance(origin.classifier, str) else list(origin.classifier or ())
    if names and (classifier := tensors.get(f"{names[0]}.weight")) is not None:
        return len(classifier)
    first = [origin.first_conv] if isinstance(origin.first_conv, str) else list(origin.first_conv or ())
    is_converted = not (first and f"{first[0]}.weight" in tensors)
    return int(origin.num_classes) if is_converted else 0


def _run_once(network: _Network, size: tuple[int, int], name: str) -> None:
    """Runs the model once, to reject one that does not return a vector per image."""
    blank = torch.zeros(1, 3, *size, device=network.mean.device)
    try:
        with gpu.translate_errors(), torch.inference_mode():
            features = network(blank)
        usable = features.ndim == 4 and bool(torch.isfinite(features).all())
    except JobError:
        raise
    except Exception as error:  # any error shows that this model cannot be used
        raise SettingsError(
            f"CORAL_EMBEDDING={name!r} cannot be run ({type(error).__name__}: {one_line(error)[:200]}). Choose another "
            "model."
        ) from error
    if not usable:
        raise SettingsError(f"CORAL_EMBEDDING={name!r} returns no vector of finite numbers. Choose another model.")
