"""The detector that the settings name: its config, its weights, and everything that can be wrong with them."""

import datetime
import http.server
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import safetensors.torch
import torch
from detectron2 import model_zoo
from detectron2.model_zoo.model_zoo import _ModelZooUrls

from job.detect import config, model, runner, weights
from job.detect.model import Detector
from job.errors import ServiceUnavailable, SettingsError
from scripts import bake
from tests.conftest import SMALL_RCNN, random_checkpoint, settings


def failure(**values: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        model.build(settings(**values))
    assert caught.value.exit_code == 64
    return str(caught.value)


def test_a_model_name_with_a_typo() -> None:
    text = failure(model="COCO-Detection/faster_rcnn_R50_FPN_3x.yaml")
    assert "did you mean COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml?" in text


def test_every_yaml_of_the_zoo_with_weights_can_be_read() -> None:
    root = Path(model_zoo.__file__).parent / "configs"
    names = [path.relative_to(root).as_posix() for path in sorted(root.glob("*/*.yaml"))]
    with_weights = [name for name in names if _ModelZooUrls.query(name)]
    assert len(with_weights) > 50
    for name in with_weights:
        assert config.read(settings(model=name)).weights.startswith(weights.OFFICIAL_ZOO)
    without = next(name for name in names if not _ModelZooUrls.query(name) and "LVISv1" in name)
    assert "has no weights for" in failure(model=without)


def test_every_lazy_config_of_the_zoo_can_be_read() -> None:
    root = Path(model_zoo.__file__).parent / "configs"
    names = [path.relative_to(root).as_posix() for path in root.glob("*/*.py") if path.parent.name != "common"]
    for name in names:
        if name.startswith("Misc/"):  # models of other libraries
            continue
        described = config.read(settings(model=name, weights="w"))
        assert described.architecture in ("FCOS", "RetinaNet", "GeneralizedRCNN", "PanopticFPN")
        assert len(described.class_names) == (1 if "keypoint" in name else 80)
        assert described.class_names[0] == "person"
        assert (described.channels, described.min_size, described.max_size) == ("BGR", 800, 1333)


@pytest.mark.parametrize("name", ["COCO-Detection/fcos_R_50_FPN_1x.py", "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.py"])
def test_a_lazy_config_of_the_zoo_runs(name: str, tmp_path: Path) -> None:
    small = {"model": name, "weights": str(tmp_path / "random.pth"), "min_size": 64, "max_size": 96}
    torch.manual_seed(0)
    random = config.read(settings(**small)).build(torch.device("cpu"))
    torch.save({"model": random.state_dict()}, tmp_path / "random.pth")
    built = model.build(settings(**small, score_threshold=0.0))
    assert (built.min_size, built.max_size) == (64, 96)
    assert type(built.model) is type(random)
    assert built.probabilities == ("sigmoid" if "fcos" in name else "softmax")


def test_a_lazy_config_equals_its_yaml() -> None:
    """The zoo has one model with the same weights in both forms."""
    name = "COCO-Detection/retinanet_R_50_FPN_1x"
    lazy, yaml = (config.read(settings(model=name + suffix)) for suffix in (".py", ".yaml"))
    for field in ("architecture", "channels", "min_size", "max_size", "class_names", "weights"):
        assert getattr(lazy, field) == getattr(yaml, field)
    shapes = [
        {key: tensor.shape for key, tensor in each.build(torch.device("cpu")).state_dict().items()}
        for each in (lazy, yaml)
    ]
    assert shapes[0] == shapes[1]


def test_the_threshold_reaches_a_lazy_model() -> None:
    name = "COCO-Detection/retinanet_R_50_FPN_1x.py"
    assert config.read(settings(model=name, score_threshold=0.3)).build(torch.device("cpu")).test_score_thresh == 0.3
    digest = config.read(settings(model=name, score_threshold=0.3)).sha256
    assert digest != config.read(settings(model=name, score_threshold=0.4)).sha256
    # The digest must be the same in every process: if it changes, all images are detected again.
    assert digest == "16fef07c8734d2ae0cc8f5514c59d98187ec0d866ce01d7a8e2ae3a4e3a68724"


def test_a_python_config_of_the_user_is_not_run(tmp_path: Path) -> None:
    own = tmp_path / "model.py"
    own.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "loading it would run its code" in failure(model=str(own), weights="w")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".py", ".yaml"])
def test_a_path_that_leads_out_of_the_zoo_runs_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    deep = tmp_path.joinpath(*"abcdefghijklmnopqrst")  # so that the relative path does not exist from here
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    own, trace = tmp_path / f"model{suffix}", tmp_path / "ran"
    code = f"open({str(trace)!r}, 'w')"
    own.write_text(code if suffix == ".py" else f'A: !!python/object/apply:eval ["{code}"]\n')
    root = Path(model_zoo.__file__).parent / "configs"
    outside = os.path.relpath(own, root)
    assert (root / outside).is_file() and not Path(outside).is_file()
    assert "neither a file nor in detectron2's model zoo" in failure(model=outside, weights="w")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("location", "official"),
    [
        (weights.OFFICIAL_ZOO + "COCO-Detection/x/1/model_final.pkl", True),
        ("detectron2://ImageNetPretrained/x.pkl", True),
        (weights.OFFICIAL_ZOO + "../other/evil.pkl", False),
        (weights.OFFICIAL_ZOO + "%2e%2e/other/evil.pkl", False),
        ("detectron2://../evil.pkl", False),
        ("https://dl.fbaipublicfiles.com.evil.example/detectron2/x.pkl", False),
        ("/data/model_final.pkl", False),
    ],
)
def test_what_counts_as_the_official_zoo(location: str, official: bool) -> None:
    assert weights._is_official(location) is official


def test_safetensors(small_rcnn: tuple[Path, Path], tmp_path: Path) -> None:
    state = torch.load(small_rcnn[1], weights_only=True)["model"]
    path = tmp_path / "small.safetensors"
    safetensors.torch.save_file(state, path)
    built = model.build(settings(model=str(small_rcnn[0]), weights=str(path)))
    for name, tensor in built.model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    path.write_bytes(path.read_bytes()[:1000])
    assert "cannot be read" in failure(model=str(small_rcnn[0]), weights=str(path))


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_a_pickle_that_is_trusted_loads(small_rcnn: tuple[Path, Path], tmp_path: Path, suffix: str) -> None:
    state = torch.load(small_rcnn[1], weights_only=True)["model"]
    path = tmp_path / f"small{suffix}"
    # With an object that is not a tensor, as training scripts save it.
    content: dict[str, Any] = {"model": state, "made": datetime.date(2026, 1, 1), "__author__": "us"}
    if suffix == ".pkl":
        content["model"] = {name: tensor.numpy() for name, tensor in state.items()}
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    yaml, weights_path = str(small_rcnn[0]), str(path)
    assert "set CORAL_TRUST_PICKLE=1" in failure(model=yaml, weights=weights_path)
    built = model.build(settings(model=yaml, weights=weights_path, trust_pickle=True))
    assert all(torch.equal(tensor, state[name]) for name, tensor in built.model.state_dict().items())


def test_a_model_that_returns_no_boxes_is_refused(tmp_path: Path) -> None:
    yaml = tmp_path / "model.yaml"
    yaml.write_text(SMALL_RCNN.replace("GeneralizedRCNN", "ProposalNetwork"))
    with pytest.raises(SettingsError, match="cannot be run as a detector"):
        model.build(settings(model=str(yaml), weights=str(random_checkpoint(yaml, tmp_path / "model.pth"))))


def test_old_checkpoints_with_the_model_s_own_buffers_load(small_rcnn: tuple[Path, Path], tmp_path: Path) -> None:
    state = torch.load(small_rcnn[1], weights_only=True)["model"]
    state["pixel_mean"], state["pixel_std"] = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    torch.save({"model": state}, tmp_path / "old.pth")
    assert model.build(settings(model=str(small_rcnn[0]), weights=str(tmp_path / "old.pth")))


def test_weights_of_another_class_count_are_refused(small_rcnn: tuple[Path, Path], tmp_path: Path) -> None:
    yaml = tmp_path / "seven.yaml"
    yaml.write_text(SMALL_RCNN.replace("NUM_CLASSES: 5", "NUM_CLASSES: 7"))
    text = failure(model=str(yaml), weights=str(small_rcnn[1]))
    assert "cls_score.weight has shape (6, 64), but the model needs (8, 64)" in text
    assert "CORAL_MODEL" in text and "number of classes" in text


def test_missing_and_unexpected_tensors_are_listed(small_rcnn: tuple[Path, Path], tmp_path: Path) -> None:
    state = torch.load(small_rcnn[1], weights_only=True)["model"]
    state["surplus"] = state.pop("roi_heads.box_predictor.cls_score.bias")
    torch.save(state, tmp_path / "other.pth")
    text = failure(model=str(small_rcnn[0]), weights=str(tmp_path / "other.pth"))
    assert "roi_heads.box_predictor.cls_score.bias is missing; surplus is not in the model" in text


class Weights(http.server.BaseHTTPRequestHandler):
    """Serves a checkpoint: after two errors, or truncated, depending on the path."""

    data = b""
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if "hiccup" in self.path and len(self.asked) < 3:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()
        self.wfile.write(self.data[: len(self.data) // 2] if "short" in self.path else self.data)

    def log_message(self, *arguments: Any) -> None: ...


@pytest.fixture
def server(
    small_rcnn: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, list[str]]]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(Weights, "data", small_rcnn[1].read_bytes())
    monkeypatch.setattr(Weights, "asked", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Weights) as running:
        threading.Thread(target=running.serve_forever).start()
        yield f"http://127.0.0.1:{running.server_port}", Weights.asked
        running.shutdown()


def test_weights_are_downloaded_once_with_retries(small_rcnn: tuple[Path, Path], server: tuple[str, list[str]]) -> None:
    url, asked = server
    for _ in range(2):
        built = model.build(settings(model=str(small_rcnn[0]), weights=f"{url}/hiccup/small.pth?signature=abc"))
        assert built.weights_sha256 == weights.sha256(small_rcnn[1])
    assert asked == ["/hiccup/small.pth?signature=abc"] * 3


def test_weights_that_an_image_was_built_with_need_no_download(
    small_rcnn: tuple[Path, Path], server: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = tmp_path / "model.yaml"
    yaml.write_text(small_rcnn[0].read_text().replace("MODEL:", f"MODEL:\n  WEIGHTS: {server[0]}/small.pth", 1))
    assert bake.main(str(yaml), str(tmp_path / "weights")) == 0
    assert server[1] == ["/small.pth"]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "another"))
    monkeypatch.setattr(weights, "BAKED_FOLDER", tmp_path / "weights")
    assert model.build(settings(model=str(yaml))).weights_sha256 == weights.sha256(small_rcnn[1])
    assert server[1] == ["/small.pth"]


def test_a_download_that_breaks_off_is_an_error_and_leaves_nothing(
    small_rcnn: tuple[Path, Path], server: tuple[str, list[str]], tmp_path: Path
) -> None:
    with pytest.raises(ServiceUnavailable, match=r"could not be downloaded from .*/short\.pth") as caught:
        model.build(settings(model=str(small_rcnn[0]), weights=f"{server[0]}/short.pth?signature=abc"))
    assert "signature" not in str(caught.value)
    assert not [each for each in (tmp_path / "torch").rglob("*") if each.is_file()]


class Malicious:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_pickle_runs_no_code(small_rcnn: tuple[Path, Path], tmp_path: Path, suffix: str) -> None:
    trace, file = tmp_path / "trace", tmp_path / f"evil{suffix}"
    if suffix == ".pth":
        torch.save({"model": Malicious(str(trace))}, file)
    else:
        file.write_bytes(pickle.dumps({"model": Malicious(str(trace)), "__author__": "me"}))
    assert "run" in failure(model=str(small_rcnn[0]), weights=str(file))
    assert not trace.exists()


def test_a_yaml_runs_no_code(tmp_path: Path) -> None:
    yaml = tmp_path / "evil.yaml"
    yaml.write_text(f"VERSION: 2\nOUTPUT_DIR: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'trace'}]\n")
    assert "not a valid detectron2 config" in failure(model=str(yaml), weights="w.pth")
    assert not (tmp_path / "trace").exists()


def test_other_things_that_are_wrong_with_a_model(small_rcnn: tuple[Path, Path], tmp_path: Path) -> None:
    yaml, weights = map(str, small_rcnn)
    (tmp_path / "bad.pth").write_bytes(b"not a checkpoint")
    (tmp_path / "bad.yaml").write_text("MODEL: {NO_SUCH_KEY: 1}")
    (tmp_path / "bad.weights").write_bytes(bytes(100))
    assert "above the limit of the long side (CORAL_MAX_SIZE, 160)" in failure(
        model=yaml, weights=weights, min_size=4000
    )
    assert "there is no such file" in failure(model=yaml, weights="/nowhere.pth")
    assert "damaged" in failure(model=yaml, weights=str(tmp_path / "bad.pth"))
    assert "not a valid detectron2 config" in failure(model=str(tmp_path / "bad.yaml"), weights=weights)
    assert "a Darknet file" in failure(model=yaml, weights=str(tmp_path / "bad.weights"))
    assert "2 names, but the model has 5 classes" in failure(model=yaml, weights=weights, classes=("a", "b"))
    with pytest.raises(ServiceUnavailable, match="CORAL_DEVICE='cuda:99': There is no"):  # another machine may have it
        model.build(settings(model=yaml, weights=weights, device="cuda:99"))


def test_class_names_come_from_the_model_or_the_user(small_rcnn: tuple[Path, Path], demo_detector: Detector) -> None:
    yaml, weights = map(str, small_rcnn)
    assert demo_detector.class_names[:3] == ("person", "bicycle", "car") and len(demo_detector.class_names) == 80
    own = ("a", "b", "c", "d", "e")
    assert model.build(settings(model=yaml, weights=weights, classes=own)).class_names == own


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "fp16"), ((9, 0), "fp16"), ((12, 0), "fp16")],
)
def test_auto_is_fp16_wherever_the_chosen_gpu_has_tensor_cores(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str
) -> None:
    """So shards on a T4 (7.5) and on an A10 (8.6) have the same precision. Needs no GPU: torch's answer is replaced."""
    gpu = torch.device("cuda:1")
    answers = {gpu: capability}  # no other GPU may be asked
    monkeypatch.setattr(torch.cuda, "get_device_capability", answers.__getitem__)
    assert model.choose_precision(settings(), gpu) == precision
    assert model.choose_precision(settings(), torch.device("cpu")) == "fp32"
    for wanted in ("fp32", "fp16", "bf16"):
        assert model.choose_precision(settings(precision=wanted), gpu) == wanted


def test_the_digest_covers_what_changes_detections_and_nothing_else(small_rcnn: tuple[Path, Path]) -> None:
    def digest(**values: Any) -> str:
        yaml, weights = map(str, small_rcnn)
        return runner.provenance(model.build(settings(model=yaml, weights=weights, **values))).digest

    plain = digest()
    assert digest(seed=5, n_samples=3, batch_size=7, part_size=3, device="cpu") == plain
    for change in ({"score_threshold": 0.2}, {"min_size": 64}, {"precision": "bf16"}, {"classes": tuple("abcde")}):
        assert digest(**change) != plain
