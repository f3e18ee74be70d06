"""What the parts of a detector say of its configuration, without the libraries that read it.

detectron2 and torch take seconds and 650 MB to import. So the digest and the class names of a configuration are left
with the parts, in a file whose name is a digest of all that they depend on.
"""

import hashlib
import importlib.metadata
import json
from dataclasses import dataclass, replace
from pathlib import Path

import job
from job.parts import FOLDER, checked
from job.parts.checked import DamagedTableError
from job.parts.provenance import PROJECTION
from job.settings import Settings
from job.settings.choices import TIMM
from job.storage import Storage, read_required
from job.uris import Location

DETECTOR = "detector"  # CORAL_EMBEDDING, and what the names of embedders begin with that are made of CORAL_MODEL
_PREFIX = FOLDER + "detector-"


@dataclass(frozen=True)
class Described:
    """A detector's configuration, as far as the parts depend on it.

    Attributes:
        sha256: Digest of everything that changes the detections; see `job.detect.config.DetectorConfig`.
        class_names: Names by class index.
    """

    sha256: str
    class_names: tuple[str, ...]


def describe(settings: Settings, output: Storage) -> Described:
    """Returns what an earlier run has left, or else reads the configuration.

    Args:
        settings: The settings that name the model.
        output: Folder with the parts.

    Raises:
        SettingsError: If the model does not exist, or its configuration is not valid.
        JobError: If the output cannot be used.
    """
    name = _name_file(settings)
    if name is not None and (known := _read(output, name)) is not None:
        return known
    from job.detect import config

    read = config.read(settings)
    return Described(read.sha256, read.class_names)


def leave(settings: Settings, output: Storage) -> None:
    """Leaves what `describe` returns with the parts, once it is certain that they are of this detector.

    Args:
        settings: The settings that name the model.
        output: Folder with the parts.

    Raises:
        SettingsError: If the model does not exist, or its configuration is not valid.
        JobError: If the output cannot be used.
    """
    if settings.predictions:
        if not settings.uses_features or settings.embedding.startswith(TIMM):
            return
        settings = without_boxes(settings)
    name = _name_file(settings)
    if name is not None and _read(output, name) is None:
        output.write(name, checked.dump_json(vars(describe(settings, output))))


def describe_embedder(settings: Settings, output: Storage) -> str:
    """Returns the name that the model of the features has in the provenance of parts; empty for the detector.

    Args:
        settings: The settings.
        output: Folder with the parts.

    Raises:
        SettingsError: If CORAL_MODEL does not exist.
        JobError: If the output cannot be used.
    """
    if settings.embedding.startswith(TIMM):
        return settings.embedding
    return f"{DETECTOR} {describe(without_boxes(settings), output).sha256}" if settings.predictions else ""


def describe_projection(settings: Settings) -> str:
    """Returns the name that the projection of features has in the provenance of parts; empty for none."""
    return "" if settings.full_features else PROJECTION


def without_boxes(settings: Settings) -> Settings:
    """The settings without those that are about the imported boxes, and that change no feature."""
    return replace(settings, classes=None, score_threshold=Settings.score_threshold)


def _name_file(settings: Settings) -> str | None:
    """The name of the file; None if the configuration is in a bucket, or is based on other files."""
    content, path = b"", Path(settings.model)
    if Location.parse(settings.model).scheme:
        return None
    if path.is_file():
        content = path.read_bytes()
        if b"_BASE_" in content:
            return None
    depends_on = [
        *(settings.model, hashlib.sha256(content).hexdigest(), settings.classes),
        *(settings.score_threshold, settings.min_size, settings.max_size),
        *(job.__version__, importlib.metadata.version("sal-detectron2")),
    ]
    return f"{_PREFIX}{hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:24]}.json"


def _read(output: Storage, name: str) -> Described | None:
    if output.stat(name) is None:
        return None
    try:
        content = checked.load_json(read_required(output, name))
        return Described(str(content["sha256"]), tuple(map(str, content["class_names"])))
    except (DamagedTableError, KeyError, TypeError):  # it is written again
        return None
