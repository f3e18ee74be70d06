"""Weights baked into the image: the build downloads them from a stand-in server under the name of the model zoo."""

import pickle
import ssl
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from tests.conftest import ROOT
from tests.image.engine import ZOO, Engine

pytestmark = pytest.mark.image

MODEL = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *values: Any) -> None: ...


@pytest.fixture
def zoo(tmp_path: Path, certificates: tuple[Path, Path, Path]) -> Iterator[None]:
    """Serves the default model with random weights over TLS, at the path of the real one."""
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(MODEL))
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    tensors = {name: tensor.numpy() for name, tensor in build_model(cfg).state_dict().items()}
    path = tmp_path / model_zoo.get_checkpoint_url(MODEL).split(f"{ZOO}/")[1]
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps({"model": tensors, "__author__": "random"}))
    server = ThreadingHTTPServer(("127.0.0.1", 443), partial(_Quiet, directory=str(tmp_path)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates[1], certificates[2])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("zoo")
def test_a_baked_model_needs_no_network(
    engine: Engine, image: str, base: str, frames: list[Path], tmp_path: Path
) -> None:
    options = ("--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"BAKE_WEIGHTS={MODEL}")
    engine.build(ROOT, "coralpick-baked", *options)
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for frame in frames[:3]:
        (source / frame.name).write_bytes(frame.read_bytes())
    output.mkdir()
    output.chmod(0o777)
    tmp_path.chmod(0o755)
    folders = ("--volume", f"{source}:/in:ro", "--volume", f"{output}:/out")
    variables = ("--env", "CORAL_INPUT=/in", "--env", "CORAL_OUTPUT=/out", "--env", "CORAL_MIN_SIZE=64")
    command = ("run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", *folders, *variables)
    without = engine.docker(*command, image)
    assert without.returncode == 69
    assert "BAKE_WEIGHTS" in without.stderr
    done = engine.docker(*command, "coralpick-baked")
    assert done.returncode == 0, done.stderr
    assert len((output / "selected.txt").read_text().splitlines()) == 3


def test_a_model_that_does_not_exist_ends_the_build(
    engine: Engine, base: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Exception, match="returned non-zero exit status"):
        engine.build(
            ROOT, "coralpick-none", "--build-arg", f"BASE_IMAGE={base}", "--build-arg", "BAKE_WEIGHTS=fastest.yaml"
        )
    assert "BAKE_WEIGHTS: CORAL_MODEL='fastest.yaml' is neither a file nor" in "".join(capfd.readouterr())
