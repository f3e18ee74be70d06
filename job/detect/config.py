"""Reads a detectron2 config: how to build the model, the format of its input, and where its weights are.

A YAML file is data. A lazy config is Python code that runs when it is loaded, so only those of the model zoo are
loaded: they are part of detectron2.
"""

import difflib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from omegaconf import DictConfig, OmegaConf

from job.detect import weights
from job.detect import yolo as yolo  # importing it registers the demo model with detectron2
from job.errors import JobError, SettingsError, one_line
from job.names import quantify, shorten
from job.settings import Settings
from job.uris import redact

_DIGEST_SECTIONS = ("MODEL", "INPUT", "TEST")


@dataclass(frozen=True)
class DetectorConfig:
    """A detector before it is built.

    Attributes:
        build: Builds the model on a device, with random weights.
        architecture: Name of detectron2's meta-architecture.
        channels: Channel order of the model's input, ``BGR`` or ``RGB``.
        min_size: Short side, in pixels, that images are resized to; 0 to keep their size.
        max_size: Limit for the long side, in pixels.
        class_names: Names by class index.
        weights: Path or URL of the weights.
        sha256: Digest of everything that changes the detections, so without the device and the path of the weights.
    """

    build: Callable[[torch.device], torch.nn.Module]
    architecture: str
    channels: str
    min_size: int
    max_size: int
    class_names: tuple[str, ...]
    weights: str
    sha256: str


def read(settings: Settings) -> DetectorConfig:
    """Reads the config that the settings name.

    Raises:
        SettingsError: If the model does not exist, if its config is not valid in detectron2, or if image sizes or class
            names do not fit the model.
    """
    path, in_zoo = _locate(settings)
    if path.suffix == ".py" and not in_zoo:
        raise SettingsError(
            f"CORAL_MODEL={settings.model!r} is a Python file, and loading it would run its code. Use a YAML file, or "
            "the name of a model-zoo config."
        )
    try:
        config = _read_lazy(settings, path) if path.suffix == ".py" else _read_yaml(settings, path, in_zoo)
    except JobError:
        raise
    except Exception as error:  # yaml, omegaconf and detectron2 raise many types on a malformed file
        problem = f"CORAL_MODEL={settings.model!r} is not a valid detectron2 config: {one_line(error)}"
        raise SettingsError(problem) from error
    if config.min_size > config.max_size:
        raise SettingsError(
            f"The short side of resized images (CORAL_MIN_SIZE, {config.min_size}) is above the limit of the long "
            f"side (CORAL_MAX_SIZE, {config.max_size}): lower the first or raise the second."
        )
    return config


def read_cfg(settings: Settings) -> CfgNode:
    """Reads the YAML file that the settings name, and sets their score threshold and image sizes in it."""
    return _merge(settings, *_locate(settings))


class _OwnFiles(CfgNode):  # type: ignore[misc]
    """Reads a YAML file with its bases, none of which may be a URL: detectron2 would request it from any host."""

    @classmethod
    def _open_cfg(cls, filename: str) -> Any:
        if "://" in filename:
            raise SettingsError(
                f"CORAL_MODEL has the _BASE_ {shorten(redact(filename))}, which is not a local file: download it, and "
                "give its path."
            )
        return super()._open_cfg(filename)


def _merge(settings: Settings, path: Path, in_zoo: bool) -> CfgNode:
    if not in_zoo:
        _OwnFiles.load_yaml_with_base(str(path))
    cfg = get_cfg()
    # Some YAML files of the zoo compute numbers in Python. They are part of detectron2; no other file may run code.
    cfg.merge_from_file(str(path), allow_unsafe=in_zoo)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = settings.score_threshold
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = settings.score_threshold
    cfg.INPUT.MIN_SIZE_TEST = settings.min_size or cfg.INPUT.MIN_SIZE_TEST
    cfg.INPUT.MAX_SIZE_TEST = settings.max_size or cfg.INPUT.MAX_SIZE_TEST
    return cfg


def _locate(settings: Settings) -> tuple[Path, bool]:
    """Returns the path of the config, and whether it belongs to the model zoo."""
    try:
        return weights.get_local_path(settings.model), False
    except OSError:
        pass
    try:
        if ".." in Path(settings.model).parts:  # it would lead out of the zoo, to files that must not run code
            raise RuntimeError
        return Path(model_zoo.get_config_file(settings.model)), True
    except RuntimeError:
        raise SettingsError(_describe_missing_model(settings.model)) from None


def _read_yaml(settings: Settings, path: Path, in_zoo: bool) -> DetectorConfig:
    cfg = _merge(settings, path, in_zoo)

    def build(device: torch.device) -> torch.nn.Module:
        cfg.MODEL.DEVICE = str(device)
        model: torch.nn.Module = build_model(cfg)
        return model

    plain = cfg.clone()
    plain.MODEL.DEVICE = plain.MODEL.WEIGHTS = ""
    one_stage = cfg.MODEL.META_ARCHITECTURE in ("RetinaNet", "FCOS")
    count = cfg.MODEL.RETINANET.NUM_CLASSES if one_stage else cfg.MODEL.ROI_HEADS.NUM_CLASSES
    return DetectorConfig(
        build=build,
        architecture=cfg.MODEL.META_ARCHITECTURE,
        channels=cfg.INPUT.FORMAT,
        min_size=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        class_names=_choose_class_names(settings, [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN], count),
        weights=_locate_weights(settings, "" if in_zoo else cfg.MODEL.WEIGHTS, in_zoo),
        sha256=_sha256("\n".join(f"{name}:\n{plain[name].dump()}" for name in _DIGEST_SECTIONS)),
    )


def _read_lazy(settings: Settings, path: Path) -> DetectorConfig:
    cfg = LazyConfig.load(str(path))
    model, mapper = cfg.model, cfg.dataloader.test.mapper
    heads = model.get("roi_heads") or DictConfig({})
    predictors = heads.get("box_predictors") or [heads.get("box_predictor") or model]
    for predictor in predictors:
        predictor.test_score_thresh = settings.score_threshold
    (resize,) = (augmentation for augmentation in mapper.augmentations if "short_edge_length" in augmentation)
    min_size, max_size = settings.min_size or resize.short_edge_length, settings.max_size or resize.max_size
    channels = model.get("input_format") or mapper.image_format
    count = heads.get("num_classes", model.get("num_classes"))
    plain = [OmegaConf.to_container(model), channels, min_size, max_size]

    def build(device: torch.device) -> torch.nn.Module:
        built: torch.nn.Module = instantiate(model)
        return built.to(device)

    return DetectorConfig(
        build=build,
        architecture=model._target_.__name__,
        channels=channels,
        min_size=min_size,
        max_size=max_size,
        class_names=_choose_class_names(settings, [cfg.dataloader.test.dataset.names], count),
        weights=_locate_weights(settings, "", in_zoo=True),
        sha256=_sha256(json.dumps(plain, default=_qualified_name, sort_keys=True)),
    )


def _qualified_name(code: Any) -> str:
    return f"{code.__module__}.{code.__qualname__}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _locate_weights(settings: Settings, default: str, in_zoo: bool) -> str:
    location = settings.weights or default
    if in_zoo and not location:
        try:
            location = model_zoo.get_checkpoint_url(settings.model)
        except RuntimeError:
            raise SettingsError(f"The model zoo has no weights for {settings.model}: set CORAL_WEIGHTS.") from None
    if not location:
        raise SettingsError(
            f"The config {settings.model} does not name its weights: set CORAL_WEIGHTS to a checkpoint."
        )
    return location


def _choose_class_names(settings: Settings, datasets: list[str], count: int) -> tuple[str, ...]:
    """Returns the user's class names, else those of the model's data set, else numbered ones."""
    if settings.classes is not None:
        if len(settings.classes) != count:
            raise SettingsError(
                f"CORAL_CLASSES has {quantify(len(settings.classes), 'name')}, but the model has {count} classes: give "
                "one name per class."
            )
        return settings.classes
    registered = [name for name in datasets if name in MetadataCatalog.list()]
    candidates = [MetadataCatalog.get(name).get("thing_classes") for name in registered]
    numbered = [f"class {index}" for index in range(count)]
    return tuple(next((names for names in candidates if names and len(names) == count), numbered))


def _describe_missing_model(name: str) -> str:
    root = Path(model_zoo.__file__).parent / "configs"
    names = [path.relative_to(root).as_posix() for path in root.glob("*/*") if path.suffix in (".yaml", ".py")]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else "give the name of a model-zoo config or the path of a YAML file."
    return f"CORAL_MODEL={name!r} is neither a file nor in detectron2's model zoo: {hint}"
