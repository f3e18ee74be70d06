"""The model of the map step: a detector, an embedder alone, or a detector with an embedder beside it.

An embedder makes features without detections, or in place of the detector's own. It is a `Detector`, too, so images
are prepared, put into batches and computed as for any other, and get the same features.
"""

import hashlib
import json
from dataclasses import replace

from job.detect import model
from job.detect.backbone_alone import BackboneAlone
from job.detect.described import DETECTOR, describe_projection, without_boxes
from job.detect.features import find_backbone
from job.detect.model import Detector
from job.errors import SettingsError
from job.settings import Settings
from job.settings.choices import TIMM


def build(settings: Settings) -> Detector:
    """Builds the model that the settings need.

    Raises:
        SettingsError: If a model, its weights, its classes or the device do not exist or do not fit together.
        ServiceUnavailable: If weights cannot be downloaded, or the GPU fails.
    """
    if settings.embedding.startswith(TIMM):
        from job.detect import timm_embedder  # its checks of timm's models take seconds

        detector = timm_embedder.build(settings, None if settings.predictions else model.build(settings))
    else:
        detector = _build_backbone(settings) if settings.predictions else model.build(settings)
    return replace(detector, projection=describe_projection(settings))


def _build_backbone(settings: Settings) -> Detector:
    detector = model.build(without_boxes(settings))
    if settings.embedding == DETECTOR and find_backbone(detector.model) is None:
        raise SettingsError(
            f"CORAL_EMBEDDING='detector' needs features, and CORAL_MODEL={settings.model!r} has no backbone: set "
            "CORAL_EMBEDDING=simclr."
        )
    made_with = [detector.config_sha256, detector.weights_sha256, detector.precision]
    return replace(
        detector,
        model=BackboneAlone(detector.model).eval(),
        class_names=(),
        embedder=f"{DETECTOR} {detector.config_sha256}",
        embedder_sha256=hashlib.sha256(json.dumps(made_with).encode()).hexdigest(),
    )
