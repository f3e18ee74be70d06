"""Builds the detector that the settings name, and tries it."""

import logging
from dataclasses import dataclass

import torch
from detectron2.modeling import GeneralizedRCNN

from job.detect import config, gpu, probabilities, weights
from job.errors import JobError, SettingsError, one_line
from job.settings import Settings

logger = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Detector:
    """A detector, ready to run.

    Attributes:
        model: detectron2 model in evaluation mode, on its device.
        class_names: Names by class index.
        channels: Channel order that the model wants, ``BGR`` or ``RGB``.
        min_size: Short side, in pixels, that images are resized to; 0 leaves them.
        max_size: Limit for the long side, in pixels.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        probabilities: Where class probabilities come from (`job.detect.probabilities`).
        config_sha256: Digest of the part of the configuration that changes what is detected.
        weights_sha256: Digest of the weights file.
    """

    model: torch.nn.Module
    class_names: tuple[str, ...]
    channels: str
    min_size: int
    max_size: int
    precision: str
    probabilities: probabilities.Kind
    config_sha256: str
    weights_sha256: str

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type that the model computes in."""
        return _DTYPES[self.precision]


def build(settings: Settings) -> Detector:
    """Builds the detector and loads its weights.

    Raises:
        SettingsError: The model, its weights, classes or device do not exist or do not fit together.
        ServiceUnavailable: The weights cannot be downloaded, or the GPU fails.
    """
    device, _ = gpu.choose(settings)
    described = config.read(settings)
    try:
        with gpu.faults():
            model = described.build(device)
    except JobError:
        raise
    except Exception as error:  # detectron2 raises all kinds on values that it does not know
        raise SettingsError(f"CORAL_MODEL={settings.model!r} cannot be built: {one_line(error)}") from error
    path = weights.fetch(described.weights)
    weights.load(model, path, described.weights, trust_pickle=settings.trust_pickle)
    model.eval()
    with gpu.faults():
        # The layout that convolutions are fastest in, on CPUs and GPUs alike.
        model.to(memory_format=torch.channels_last)
    kind = probabilities.attach(model)
    if kind == "synthetic":
        logger.warning(
            "%s does not give class probabilities: uncertainty scores are computed from the top score alone.",
            described.architecture,
        )
    _without_masks(model)
    _try(model, settings.model)
    return Detector(
        model=model,
        class_names=described.class_names,
        channels=described.channels,
        min_size=described.min_size,
        max_size=described.max_size,
        precision=_precision(settings, device),
        probabilities=kind,
        config_sha256=described.sha256,
        weights_sha256=weights.sha256(path),
    )


def _precision(settings: Settings, device: torch.device) -> str:
    if settings.precision != "auto":
        return settings.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def _without_masks(model: torch.nn.Module) -> None:
    """Masks and keypoints cost time and change no box; their weights are loaded all the same, to check them."""
    if type(model) is not GeneralizedRCNN:  # others may need them, as PanopticFPN does
        return
    for part in ("mask_on", "keypoint_on"):
        if getattr(model.roi_heads, part, False):
            setattr(model.roi_heads, part, False)


def _try(model: torch.nn.Module, name: str) -> None:
    """Runs the model once, so that one that finds no boxes, or needs what is not here, is told before any work."""
    blank = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "height": 64, "width": 64}
    try:
        with gpu.faults(), torch.inference_mode():
            found = model([blank])[0]["instances"]
        complete = all(found.has(each) for each in ("pred_boxes", "scores", "pred_classes"))
    except JobError:
        raise
    except Exception as error:  # whatever it is, this model cannot be used
        reason = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise SettingsError(f"CORAL_MODEL={name!r} cannot be run as a detector ({reason}). Choose another.") from error
    if not complete:
        raise SettingsError(f"CORAL_MODEL={name!r} gives no boxes with scores and classes. Choose a detector.")
