"""Shared fixtures: the demo's files, small detectors of random weights, and the job as a process."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from demo import fetch
from job.context import LabelledElsewhere
from job.detect import model
from job.detect.model import Detector
from job.settings import Settings
from job.settings.mix import parse_score
from job.settings.strategy import parse_strategy
from job.shards import SCHEDULERS
from tests.standins import servers

if TYPE_CHECKING:
    from job.parts.pool import Pool
    from job.storage.local import LocalFolder
    from tests.standins.lightly_server import LightlyServer

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
DEMO_YAML = ROOT / "demo" / "yolov3-tiny.yaml"

Job = Callable[..., subprocess.CompletedProcess[str]]

# detectron2's R-CNN with a ResNet-18 and narrow layers: the real code, in a second.
SMALL_RCNN = """
VERSION: 2
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  BACKBONE: {NAME: build_resnet_fpn_backbone}
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, OUT_FEATURES: [res2, res3, res4, res5]}
  FPN: {IN_FEATURES: [res2, res3, res4, res5], OUT_CHANNELS: 32}
  ANCHOR_GENERATOR: {SIZES: [[32], [64], [128], [256], [512]], ASPECT_RATIOS: [[0.5, 1.0, 2.0]]}
  RPN: {IN_FEATURES: [p2, p3, p4, p5, p6], PRE_NMS_TOPK_TEST: 200, POST_NMS_TOPK_TEST: 50}
  ROI_HEADS: {NAME: StandardROIHeads, IN_FEATURES: [p2, p3, p4, p5], NUM_CLASSES: 5}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 1, FC_DIM: 64, POOLER_RESOLUTION: 7}
INPUT: {MIN_SIZE_TEST: 96, MAX_SIZE_TEST: 160}
TEST: {DETECTIONS_PER_IMAGE: 20}
"""


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing of the user's home is read or written."""
    os.environ["FVCORE_CACHE"] = str(tmp_path_factory.mktemp("fvcore"))


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """What a test configures does not change which lines the next one captures."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in set(root.handlers) - set(handlers):
        if type(handler).__module__ == "job.logs":
            root.removeHandler(handler)


@pytest.fixture(scope="session")
def frames() -> list[Path]:
    """The demo's 250 real frames."""
    fetch.fetch()
    return sorted(fetch.FRAMES.glob("*.jpg"))


@pytest.fixture(scope="session")
def demo_detector(frames: list[Path]) -> Detector:
    """The demo model with its real weights."""
    return model.build(Settings(input="in", output="out", model=str(DEMO_YAML), weights=str(fetch.WEIGHTS)))


@pytest.fixture
def few_frames(frames: list[Path], tmp_path: Path) -> Path:
    """A folder of 12 frames from all over the clip, some of them in a folder below."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for number, frame in enumerate(frames[::21]):
        (folder / ("sub" if number % 3 == 0 else ".") / frame.name).write_bytes(frame.read_bytes())
    return folder


def random_checkpoint(yaml: Path, path: Path, seed: int = 0, spread: float = 1.0) -> Path:
    """Saves random weights for a configuration, spread enough for scores from 0 to 1."""
    cfg = get_cfg()
    cfg.merge_from_file(str(yaml), allow_unsafe=False)
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(seed)
    built = build_model(cfg)
    for name, parameter in built.named_parameters():
        if name.endswith(("cls_score.weight", "cls_score.bias")):
            parameter.data.normal_(0, (2.0 if name.endswith("weight") else 1.0) * spread)
    torch.save({"model": built.state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def small_rcnn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small Faster R-CNN: its yaml and a checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("rcnn")
    yaml = folder / "small.yaml"
    yaml.write_text(SMALL_RCNN)
    return yaml, random_checkpoint(yaml, folder / "small.pth")


def settings(**values: Any) -> Settings:
    """Settings with the given values, where a strategy and a score are texts; input and output are never opened."""
    parsers: dict[str, Any] = {"strategy": parse_strategy, "score": parse_score}
    parsed: dict[str, Any] = {
        name: parsers[name](value) if name in parsers else value for name, value in values.items()
    }
    return Settings(**{"input": "in", "output": "out", **parsed})


def nothing_elsewhere(dimension: int) -> LabelledElsewhere:
    """No labelled images but those of the pool."""
    return LabelledElsewhere([], np.empty((0, dimension), np.float32))


def picture(seed: int, height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A smooth random picture, BGR."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


def clean_environment(**variables: Any) -> dict[str, str]:
    """The environment of a job: nothing of ours but what is given."""
    platform = tuple(each.index for each in SCHEDULERS)  # the tests themselves may run on one
    ours = ("CORAL_", "LIGHTLY_", *platform)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {"CORAL_LOG_FORMAT": "text"} | {name: str(value) for name, value in variables.items()}


@pytest.fixture
def job() -> Job:
    """Runs `python entrypoint.py` with the given arguments and CORAL_ variables."""

    def run(*arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "entrypoint.py", *arguments],
            cwd=ROOT, env=clean_environment(**variables), capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip

    return run


def start_job(*arguments: str, **variables: Any) -> subprocess.Popen[str]:
    """Starts the job as a process, to be disturbed."""
    return subprocess.Popen(
        [sys.executable, "entrypoint.py", *arguments],
        cwd=ROOT, env=clean_environment(**variables), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def demo_variables(source: Path | str, output: Path | str, **more: Any) -> dict[str, Any]:
    """The variables of a run with the demo model."""
    return {
        "CORAL_INPUT": source,
        "CORAL_OUTPUT": output,
        "CORAL_MODEL": DEMO_YAML,
        "CORAL_WEIGHTS": fetch.WEIGHTS,
        "CORAL_N_SAMPLES": 5,
        **more,
    }


@dataclass(frozen=True)
class S3:
    """An S3 server that the environment of this process leads to.

    Attributes:
        endpoint: Its URL.
        bucket: Name of a bucket.
    """

    endpoint: str
    bucket: str = servers.BUCKET

    def uri(self, path: str) -> str:
        """The URI of something in the bucket."""
        return f"s3://{self.bucket}/{path}"


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """moto's S3 server."""
    with servers.moto() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def seaweedfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.SeaweedFS]:
    """A real S3 server, as a process of its own."""
    server = servers.SeaweedFS(tmp_path_factory.mktemp("seaweedfs"))
    server.start()
    yield server
    server.kill()


def _lead_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3:
    for name, value in (servers.ADMIN | {"AWS_ENDPOINT_URL": endpoint}).items():
        monkeypatch.setenv(name, value)
    return S3(endpoint)


@pytest.fixture
def moto(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3:
    """moto's server, and the variables that lead to it."""
    return _lead_to(moto_endpoint, monkeypatch)


@pytest.fixture
def seaweedfs(seaweedfs_server: servers.SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> S3:
    """SeaweedFS, and the variables that lead to it."""
    return _lead_to(seaweedfs_server.endpoint, monkeypatch)


@pytest.fixture
def proxy(seaweedfs: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[servers.FaultProxy]:
    """A proxy with faults before SeaweedFS, and the variable that leads to it."""
    made = servers.FaultProxy(seaweedfs.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
    yield made
    made.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator["LightlyServer"]:
    """The stand-in for the Lightly platform; it must have refused nothing by the end of a test."""
    from tests.standins.lightly_server import LightlyServer

    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with LightlyServer().running() as running:
        yield running
    assert not running.unexpected()


@pytest.fixture
def small(tmp_path: Path) -> tuple["LocalFolder", "Pool"]:
    """An output of eight images, in parts of three, and the pool that they are."""
    from tests.exports.test_lightly_files import filled
    from tests.standins.lightly_client import NAMES

    return filled(tmp_path / "out", NAMES, per_part=3)
