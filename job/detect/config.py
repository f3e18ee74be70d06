"""What a configuration of detectron2 says: how to build the model, what it wants to see, and where its weights are.

A yaml is data. A lazy configuration is Python and runs when it is loaded, so only those of the zoo are: they came with
detectron2 itself.
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
from job.settings import Settings

_PREPROCESSING = ("MODEL", "INPUT", "TEST")


@dataclass(frozen=True)
class Recipe:
    """A detector before it is built.

    Attributes:
        build: Makes the model, of random weights, on a device.
        architecture: Name of detectron2's meta-architecture.
        channels: Channel order that the model wants, ``BGR`` or ``RGB``.
        min_size: Short side, in pixels, that images are resized to; 0 leaves them.
        max_size: Limit for the long side, in pixels.
        class_names: By class index.
        weights: Where the weights are.
        sha256: Digest of what changes the detections; where the model runs and where its weights lie do not.
    """

    build: Callable[[torch.device], torch.nn.Module]
    architecture: str
    channels: str
    min_size: int
    max_size: int
    class_names: tuple[str, ...]
    weights: str
    sha256: str


def read(settings: Settings) -> Recipe:
    """Reads the configuration that the settings name.

    Raises:
        SettingsError: There is no such model, its configuration is not one of detectron2, or sizes or class names do
            not fit it.
    """
    path, in_zoo = _found(settings)
    if path.suffix == ".py" and not in_zoo:
        raise SettingsError(
            f"CORAL_MODEL={settings.model!r} is Python, and to load it is to run it: only the zoo's own are loaded. "
            "Give a yaml, or the name of a model of the zoo."
        )
    try:
        recipe = _lazy(settings, path) if path.suffix == ".py" else _yaml(settings, path, in_zoo)
    except JobError:
        raise
    except Exception as error:  # yaml, omegaconf and detectron2 raise what they like on a malformed file
        problem = f"CORAL_MODEL={settings.model!r} is no detectron2 configuration: {one_line(error)}"
        raise SettingsError(problem) from error
    if recipe.min_size > recipe.max_size:
        raise SettingsError(
            f"CORAL_MIN_SIZE={recipe.min_size} is above the model's largest size, {recipe.max_size}: "
            "lower it, or set CORAL_MAX_SIZE too."
        )
    return recipe


def config(settings: Settings) -> CfgNode:
    """The yaml that the settings name, with their threshold and sizes in it."""
    return _merged(settings, *_found(settings))


def _merged(settings: Settings, path: Path, in_zoo: bool) -> CfgNode:
    cfg = get_cfg()
    # Some of the zoo's, which came with detectron2 itself, compute numbers; no other may run code.
    cfg.merge_from_file(str(path), allow_unsafe=in_zoo)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = settings.score_threshold
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = settings.score_threshold
    cfg.INPUT.MIN_SIZE_TEST = settings.min_size or cfg.INPUT.MIN_SIZE_TEST
    cfg.INPUT.MAX_SIZE_TEST = settings.max_size or cfg.INPUT.MAX_SIZE_TEST
    return cfg


def _found(settings: Settings) -> tuple[Path, bool]:
    """Where the configuration is, and whether it is the zoo's."""
    try:
        return weights.local_copy(settings.model), False
    except OSError:
        pass
    try:
        if ".." in Path(settings.model).parts:  # it would lead out of the zoo, to what may not be run
            raise RuntimeError
        return Path(model_zoo.get_config_file(settings.model)), True
    except RuntimeError:
        raise SettingsError(_no_such_model(settings.model)) from None


def _yaml(settings: Settings, path: Path, in_zoo: bool) -> Recipe:
    cfg = _merged(settings, path, in_zoo)

    def build(device: torch.device) -> torch.nn.Module:
        cfg.MODEL.DEVICE = str(device)
        model: torch.nn.Module = build_model(cfg)
        return model

    plain = cfg.clone()
    plain.MODEL.DEVICE = plain.MODEL.WEIGHTS = ""
    one_stage = cfg.MODEL.META_ARCHITECTURE in ("RetinaNet", "FCOS")
    count = cfg.MODEL.RETINANET.NUM_CLASSES if one_stage else cfg.MODEL.ROI_HEADS.NUM_CLASSES
    return Recipe(
        build=build,
        architecture=cfg.MODEL.META_ARCHITECTURE,
        channels=cfg.INPUT.FORMAT,
        min_size=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        class_names=_class_names(settings, [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN], count),
        weights=_weights(settings, "" if in_zoo else cfg.MODEL.WEIGHTS, in_zoo),
        sha256=_sha256("\n".join(f"{name}:\n{plain[name].dump()}" for name in _PREPROCESSING)),
    )


def _lazy(settings: Settings, path: Path) -> Recipe:
    cfg = LazyConfig.load(str(path))
    model, mapper = cfg.model, cfg.dataloader.test.mapper
    heads = model.get("roi_heads") or DictConfig({})
    predictors = heads.get("box_predictors") or [heads.get("box_predictor") or model]
    for each in predictors:
        each.test_score_thresh = settings.score_threshold
    (resize,) = (each for each in mapper.augmentations if "short_edge_length" in each)
    min_size, max_size = settings.min_size or resize.short_edge_length, settings.max_size or resize.max_size
    channels = model.get("input_format") or mapper.image_format
    count = heads.get("num_classes", model.get("num_classes"))
    plain = [OmegaConf.to_container(model), channels, min_size, max_size]

    def build(device: torch.device) -> torch.nn.Module:
        built: torch.nn.Module = instantiate(model)
        return built.to(device)

    return Recipe(
        build=build,
        architecture=model._target_.__name__,
        channels=channels,
        min_size=min_size,
        max_size=max_size,
        class_names=_class_names(settings, [cfg.dataloader.test.dataset.names], count),
        weights=_weights(settings, "", in_zoo=True),
        sha256=_sha256(json.dumps(plain, default=_qualified_name, sort_keys=True)),
    )


def _qualified_name(code: Any) -> str:
    return f"{code.__module__}.{code.__qualname__}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _weights(settings: Settings, named: str, in_zoo: bool) -> str:
    location = settings.weights or named
    if in_zoo and not location:
        try:
            location = model_zoo.get_checkpoint_url(settings.model)
        except RuntimeError:
            raise SettingsError(f"The zoo has no weights for {settings.model}: set CORAL_WEIGHTS.") from None
    if not location:
        raise SettingsError(f"CORAL_WEIGHTS is not set, and {settings.model} names no weights: give the checkpoint.")
    return location


def _class_names(settings: Settings, datasets: list[str], count: int) -> tuple[str, ...]:
    """The user's, else those of the data set that the model was trained on, else numbers."""
    if settings.classes is not None:
        if len(settings.classes) != count:
            raise SettingsError(f"CORAL_CLASSES has {len(settings.classes)} names, but the model has {count} classes.")
        return settings.classes
    known = [MetadataCatalog.get(each).get("thing_classes") for each in datasets if each in MetadataCatalog.list()]
    return tuple(next((each for each in known if each and len(each) == count), [f"class {i}" for i in range(count)]))


def _no_such_model(name: str) -> str:
    root = Path(model_zoo.__file__).parent / "configs"
    known = [each.relative_to(root).as_posix() for each in root.glob("*/*") if each.suffix in (".yaml", ".py")]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "give a name of the zoo or the path of a yaml."
    return f"CORAL_MODEL={name!r} is neither a file nor in detectron2's model zoo: {hint}"
