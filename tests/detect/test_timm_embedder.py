"""Models of timm as embedders: their features, their weights, and what is refused."""

import functools
import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from job.detect import embedder
from job.detect.inference import Inference
from job.detect.model import Detector
from job.detect.prepare import PreparedImage, to_tensor
from job.errors import ServiceUnavailable, SettingsError, Stopped
from tests.conftest import picture, settings

timm: Any = pytest.importorskip("timm", reason="requirements/timm.txt is not installed")

NAME = "resnet10t"


def save(path: Path, num_classes: int = 1000, name: str = NAME, drop: str = "", nested: bool = False) -> Path:
    torch.manual_seed(0)
    tensors = timm.create_model(name, pretrained=False, num_classes=num_classes).state_dict()
    tensors.pop(drop, None)
    torch.save({"state_dict": tensors} if nested else tensors, path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("timm") / "weights.pth")


def build(checkpoint: Path | None, name: str = NAME, **more: Any) -> Detector:
    given = {"predictions": "a.json", "device": "cpu", "embedding": f"timm:{name}", "full_features": True} | more
    return embedder.build(settings(**given, embedding_weights=checkpoint and str(checkpoint)))


def embed(detector: Detector, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    inference = Inference(detector, 1)
    (row,) = inference.detect([PreparedImage.from_tensor(to_tensor(image, detector))])
    inference.close()
    assert row.boxes is not None and row.feature is not None
    assert len(row.boxes) == 0 and row.feature.dtype == np.float16
    return row.feature.astype(np.float32)


@pytest.mark.parametrize("name", [NAME, "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_the_features_are_those_of_timm(tmp_path: Path, name: str) -> None:
    """The truth is timm's own transform and its model without a classifier, on an image of the input size."""
    path = save(tmp_path / "weights.pth", name=name)
    detector = build(path, name)
    network = timm.create_model(name, pretrained=False, checkpoint_path=str(path)).eval()
    network.reset_classifier(0)
    config = timm.data.resolve_model_data_config(network)
    image = picture(1, *config["input_size"][1:])
    rgb = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1).float() / 255
    normal = (rgb - torch.tensor(config["mean"])[:, None, None]) / torch.tensor(config["std"])[:, None, None]
    with torch.inference_mode():
        expected = network(normal[None])[0].numpy()
    np.testing.assert_allclose(embed(detector, image), expected, rtol=2e-3, atol=2e-3)


def test_nothing_at_the_sides_is_cut_off(weights: Path) -> None:
    image = picture(1, 200, 600)
    changed = image.copy()
    changed[:, :60] = 255 - changed[:, :60]  # timm's own crop would leave this out
    detector = build(weights)
    assert np.abs(embed(detector, image) - embed(detector, changed)).max() > 0.01


def test_beside_a_detector_its_boxes_stay_and_the_features_are_those_of_timm(
    small_rcnn: tuple[Path, Path], weights: Path
) -> None:
    model: dict[str, Any] = {
        "model": str(small_rcnn[0]),
        "weights": str(small_rcnn[1]),
        "predictions": None,
        "min_size": 176,
    }
    alone, beside = build(weights), build(weights, **model, max_size=176)
    detector = embedder.build(settings(**model | {"max_size": 176, "device": "cpu"}))
    image = picture(2, 176, 176)  # neither is resized
    inference, plain = Inference(beside, 1), Inference(detector, 1)
    (row,) = inference.detect([PreparedImage.from_tensor(to_tensor(image, beside))])
    (expected,) = plain.detect([PreparedImage.from_tensor(to_tensor(image, detector))])
    assert row.boxes is not None and len(row.boxes) > 0 and row.feature is not None
    np.testing.assert_array_equal(row.boxes, expected.boxes)
    np.testing.assert_array_equal(row.class_probabilities, expected.class_probabilities)
    np.testing.assert_allclose(row.feature.astype(np.float32), embed(alone, image), rtol=2e-3, atol=2e-3)
    assert beside.config_sha256 == detector.config_sha256 and beside.embedder == f"timm:{NAME}"


def test_weights_of_another_classifier_or_without_one(tmp_path: Path, weights: Path) -> None:
    digests = {build(weights).embedder_sha256, build(weights).embedder_sha256}
    for number, path in enumerate((save(tmp_path / "7.pth", 7), save(tmp_path / "0.pth", 0, nested=True))):
        digests.add(build(path).embedder_sha256)
        assert len(digests) == number + 2


@pytest.mark.parametrize(
    ("weights", "name", "expected"),
    [
        ("weights.pth", "resnet18", r"do not fit CORAL_EMBEDDING='timm:resnet18' .*Missing key"),
        ("dropped.pth", NAME, r"do not fit .*Missing key\(s\) in state_dict: \"layer1.0.conv1.weight\""),
        ("text.pth", NAME, r"cannot be read .*use .safetensors, or a .pth with only the state_dict"),
        ("none.pth", NAME, r"CORAL_EMBEDDING_WEIGHTS='.*none.pth' cannot be read: there is no such file"),
        ("weights.pth", "resnet10", r"CORAL_EMBEDDING='timm:resnet10' is not a model of timm: did you mean timm:resn"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, weights: str, name: str, expected: str) -> None:
    save(tmp_path / "weights.pth")
    save(tmp_path / "dropped.pth", 7, drop="layer1.0.conv1.weight")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(SettingsError, match=expected):
        build(tmp_path / weights, name)


def test_a_checkpoint_that_can_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "path": tmp_path}, tmp_path / "pickle.pth")
    with pytest.raises(SettingsError, match="CORAL_TRUST_PICKLE=1 also loads one that can run code"):
        build(tmp_path / "pickle.pth")


def test_a_missing_package_is_one_sentence(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SettingsError, match=r"needs the package timm .* `pip install --no-deps --requirement"):
        build(weights)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stand-in for the hub, which no test can reach: a folder that a real HTTP server serves."""
    folder = tmp_path / "hub"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
        yield folder
        server.shutdown()


def test_weights_come_from_the_hub_that_timm_names(hub: Path, weights: Path) -> None:
    path = hub / "timm" / "resnet10t.c3_in1k" / "resolve" / "main" / "model.safetensors"
    path.parent.mkdir(parents=True)
    safetensors.torch.save_file(torch.load(weights, weights_only=True), path)
    image = picture(3, 176, 176)
    np.testing.assert_array_equal(embed(build(None), image), embed(build(weights), image))
    path.unlink()
    np.testing.assert_array_equal(embed(build(None), image), embed(build(weights), image))  # from the cache
    with pytest.raises(ServiceUnavailable, match="download the file elsewhere and set CORAL_EMBEDDING_WEIGHTS to its"):
        build(None, "resnet18")


@pytest.mark.parametrize("step", ["timm.models.load_state_dict", "timm.create_model"])
def test_a_stop_while_weights_are_loaded_does_not_discard_them(
    hub: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise Stopped("as asked")  # as the handler of the signal does, anywhere

    path = hub / "timm" / "resnet10t.c3_in1k" / "resolve" / "main" / "model.safetensors"
    path.parent.mkdir(parents=True)
    safetensors.torch.save_file(torch.load(weights, weights_only=True), path)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(step, stop)
        build(None)
    path.unlink()
    build(None)  # from the cache
