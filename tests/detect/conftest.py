"""Helpers for the tests of the detector."""

from pathlib import Path
from typing import Any

from job import parts
from job.budget import Budget
from job.detect import model
from job.detect.cpu_turns import Turns
from job.detect.model import Detector
from job.detect.prepare import Preparation, PreparedImage
from job.prefetch import Workers
from job.storage import Entry, Source
from tests.conftest import SMALL_RCNN, random_checkpoint, settings

MASK = SMALL_RCNN.replace(
    "  ROI_BOX_HEAD:",
    "  MASK_ON: true\n"
    "  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 1, CONV_DIM: 16, POOLER_RESOLUTION: 14}\n"
    "  ROI_BOX_HEAD:",
)


def build(tmp_path: Path, yaml_text: str, **more: Any) -> Detector:
    yaml = tmp_path / "model.yaml"
    yaml.write_text(yaml_text)
    weights = random_checkpoint(yaml, tmp_path / "model.pth")
    return model.build(settings(model=str(yaml), weights=str(weights), **more))


def prepared(entries: list[Entry], source: Source, detector: Detector) -> list[PreparedImage | parts.Row]:
    preparation = Preparation(source, detector, Budget(1 << 30), Turns(on_cpu=True))
    with Workers(2) as executor:
        return list(preparation.prepare(entries, executor, ahead=4))
