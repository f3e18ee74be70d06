"""Builds the detector that the settings name, and runs it once as a test."""

import logging
from dataclasses import dataclass

import torch
from detectron2.modeling import GeneralizedRCNN

from job import scores
from job.detect import config, gpu, last_layers, probabilities, weights
from job.errors import JobError, SettingsError, one_line
from job.parts.provenance import PROJECTION
from job.settings import Settings
from job.settings.schema import Precision

logger = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_TENSOR_CORES = (7, 0)  # compute capability of the first GPUs that have them


@dataclass(frozen=True)
class Detector:
    """A detector that is ready to run.

    Attributes:
        model: detectron2 model in evaluation mode, on its device.
        class_names: Names by class index.
        channels: Channel order of the model's input, ``BGR`` or ``RGB``.
        min_size: Short side, in pixels, that images are resized to; 0 to keep their size.
        max_size: Limit for the long side, in pixels.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        probabilities: Source of the class probabilities (`job.detect.probabilities`).
        config_sha256: Digest of the part of the config that changes detections.
        weights_sha256: Digest of the weights file.
        embedder: Name of the model that makes the features, if that is not the detector (`job.detect.embedder`).
        embedder_sha256: Digest of its weights and of how it runs.
        projection: How features are shortened (`job.detect.projection`); empty to keep them whole.
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
    embedder: str = ""
    embedder_sha256: str = ""
    projection: str = PROJECTION

    @property
    def device(self) -> torch.device:
        """The device that the model runs on."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type that the model computes in."""
        return _DTYPES[self.precision]


def build(settings: Settings) -> Detector:
    """Builds the detector and loads its weights.

    Raises:
        SettingsError: If the model, its weights, its classes or the device do not exist or do not fit together.
        ServiceUnavailable: If the weights cannot be downloaded, or the GPU fails.
    """
    device, _ = gpu.choose(settings)
    detector_config = config.read(settings)
    try:
        with gpu.translate_errors():
            model = detector_config.build(device)
    except JobError:
        raise
    except Exception as error:  # detectron2 raises many types on unknown values
        raise SettingsError(f"CORAL_MODEL={settings.model!r} cannot be built: {one_line(error)}") from error
    path = weights.fetch(detector_config.weights)
    with weights.discard_unreadable(path):
        weights_sha256 = weights.check_sha256(path, settings.weights_sha256)
        weights.load(model, path, detector_config.weights, trust_pickle=settings.trust_pickle)
    model.eval()
    with gpu.translate_errors():
        # The fastest memory layout for convolutions, on CPUs and on GPUs.
        model.to(memory_format=torch.channels_last)
    kind = probabilities.attach(model)
    if kind == "synthetic":
        logger.warning(
            "%s does not provide class probabilities: %s use only the detection confidence.",
            detector_config.architecture,
            ", ".join(scores.OF_PROBABILITIES),
        )
    _disable_masks(model)
    last_layers.keep_in_float32(model)
    _run_once(model, settings.model)
    return Detector(
        model=model,
        class_names=detector_config.class_names,
        channels=detector_config.channels,
        min_size=detector_config.min_size,
        max_size=detector_config.max_size,
        precision=choose_precision(settings, device),
        probabilities=kind,
        config_sha256=detector_config.sha256,
        weights_sha256=weights_sha256,
    )


def choose_precision(settings: Settings, device: torch.device) -> Precision:
    """Chooses the number format of a model on a device: ``fp32``, ``fp16`` or ``bf16``."""
    if settings.precision != "auto":
        return settings.precision
    # With tensor cores fp16 is as fast as bf16, and rounds 8 times finer.
    has_tensor_cores = device.type == "cuda" and torch.cuda.get_device_capability(device) >= _TENSOR_CORES
    return "fp16" if has_tensor_cores else "fp32"


def _disable_masks(model: torch.nn.Module) -> None:
    """Disables masks and keypoints, which cost time and change no box. Their weights were loaded to check them."""
    if type(model) is not GeneralizedRCNN:  # other classes may need them, as PanopticFPN does
        return
    for switch in ("mask_on", "keypoint_on"):
        if getattr(model.roi_heads, switch, False):
            setattr(model.roi_heads, switch, False)


def _run_once(model: torch.nn.Module, name: str) -> None:
    """Runs the model once, to reject one that returns no boxes or lacks a dependency before any work is done."""
    blank = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "height": 64, "width": 64}
    try:
        with gpu.translate_errors(), torch.inference_mode():
            instances = model([blank])[0]["instances"]
        complete = all(instances.has(field) for field in ("pred_boxes", "scores", "pred_classes"))
    except JobError:
        raise
    except Exception as error:  # any error shows that this model cannot be used
        reason = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise SettingsError(
            f"CORAL_MODEL={name!r} cannot be run as a detector ({reason}). Choose another model."
        ) from error
    if not complete:
        raise SettingsError(f"CORAL_MODEL={name!r} returns no boxes with scores and classes. Choose a detection model.")
