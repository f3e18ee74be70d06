"""Builds the detector that the settings name, and says what identifies it."""

import difflib
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import GeneralizedRCNN, build_model

from job.detect import gpu, probabilities, weights
from job.detect import yolo as yolo  # importing it registers the demo model with detectron2
from job.errors import JobError, SettingsError
from job.settings import Settings

logger = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_PREPROCESSING = ("MODEL", "INPUT", "TEST")


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
    cfg, location = config(settings)
    cfg.MODEL.DEVICE = str(device)
    class_names = _class_names(cfg, settings.classes)
    try:
        with gpu.faults():
            model = build_model(cfg)
    except (KeyError, ValueError, AssertionError, AttributeError, RuntimeError) as error:
        raise SettingsError(
            f"CORAL_MODEL={settings.model!r} cannot be built: {' '.join(str(error).split())}"
        ) from error
    path = weights.fetch(location)
    weights.load(model, path, location)
    model.eval()
    model.to(memory_format=torch.channels_last)  # the layout that convolutions are fastest in, on CPUs and GPUs alike
    kind = probabilities.attach(model)
    if kind == "synthetic":
        logger.warning(
            "%s does not give class probabilities: uncertainty scores are computed from the top score alone.",
            cfg.MODEL.META_ARCHITECTURE,
        )
    _without_masks(model)
    _try(model, settings.model)
    return Detector(
        model=model,
        class_names=class_names,
        channels=cfg.INPUT.FORMAT,
        min_size=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        precision=_precision(settings, device),
        probabilities=kind,
        config_sha256=_digest(cfg),
        weights_sha256=weights.sha256(path),
    )


def described(settings: Settings) -> tuple[str, tuple[str, ...]]:
    """Digest of the configuration and class names of the detector that the settings name, without its weights."""
    cfg, _ = config(settings)
    return _digest(cfg), _class_names(cfg, settings.classes)


def config(settings: Settings) -> tuple[CfgNode, str]:
    """The detectron2 configuration that the settings name, and where its weights are.

    Raises:
        SettingsError: There is no such model, or its yaml is not one of detectron2.
    """
    cfg = get_cfg()
    in_zoo = False
    try:
        path = weights.local_copy(settings.model)
    except OSError:
        try:
            path, in_zoo = Path(model_zoo.get_config_file(settings.model)), True
        except RuntimeError:
            raise SettingsError(_no_such_model(settings.model)) from None
    try:
        # A yaml is data and must not run code; but some of the zoo, which came with detectron2 itself, compute numbers.
        cfg.merge_from_file(str(path), allow_unsafe=in_zoo)
    except JobError:
        raise
    except Exception as error:  # yaml and detectron2 raise what they like on a malformed file
        reason = " ".join(str(error).split())
        raise SettingsError(f"CORAL_MODEL={settings.model!r} is no detectron2 yaml: {reason}") from error
    location = settings.weights or ("" if in_zoo else cfg.MODEL.WEIGHTS)
    if in_zoo and not location:
        try:
            location = model_zoo.get_checkpoint_url(settings.model)
        except RuntimeError:
            raise SettingsError(f"The zoo has no weights for {settings.model}: set CORAL_WEIGHTS.") from None
    if not location:
        raise SettingsError(f"CORAL_WEIGHTS is not set, and {settings.model} names no weights: give the checkpoint.")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = settings.score_threshold
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = settings.score_threshold
    cfg.INPUT.MIN_SIZE_TEST = settings.min_size or cfg.INPUT.MIN_SIZE_TEST
    cfg.INPUT.MAX_SIZE_TEST = settings.max_size or cfg.INPUT.MAX_SIZE_TEST
    if cfg.INPUT.MIN_SIZE_TEST > cfg.INPUT.MAX_SIZE_TEST:
        raise SettingsError(
            f"CORAL_MIN_SIZE={cfg.INPUT.MIN_SIZE_TEST} is above the model's largest size, {cfg.INPUT.MAX_SIZE_TEST}: "
            "lower it, or set CORAL_MAX_SIZE too."
        )
    return cfg, location


def _no_such_model(name: str) -> str:
    root = Path(model_zoo.__file__).parent / "configs"
    known = [each.relative_to(root).as_posix() for each in root.glob("*/*.yaml")]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "give a name of the zoo or the path of a yaml."
    return f"CORAL_MODEL={name!r} is neither a file nor in detectron2's model zoo: {hint}"


def _class_names(cfg: CfgNode, given: Sequence[str] | None) -> tuple[str, ...]:
    retina = cfg.MODEL.META_ARCHITECTURE in ("RetinaNet", "FCOS")
    count = cfg.MODEL.RETINANET.NUM_CLASSES if retina else cfg.MODEL.ROI_HEADS.NUM_CLASSES
    names = given
    if names is None:
        sets = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
        known = [MetadataCatalog.get(each).get("thing_classes") for each in sets if each in MetadataCatalog.list()]
        names = next((each for each in known if each and len(each) == count), [f"class {i}" for i in range(count)])
    if len(names) != count:
        raise SettingsError(f"CORAL_CLASSES has {len(names)} names, but the model has {count} classes.")
    return tuple(names)


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
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise SettingsError(f"CORAL_MODEL={name!r} cannot be run as a detector ({reason}). Choose another.") from error
    if not complete:
        raise SettingsError(f"CORAL_MODEL={name!r} gives no boxes with scores and classes. Choose a detector.")


def _digest(cfg: CfgNode) -> str:
    """The sections that say what is detected; where it runs and where its weights lie do not."""
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = cfg.MODEL.WEIGHTS = ""
    text = "\n".join(f"{name}:\n{cfg[name].dump()}" for name in _PREPROCESSING)
    return hashlib.sha256(text.encode()).hexdigest()
