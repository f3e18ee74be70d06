"""Why a GPU cannot be used. These tests need no GPU: the output of the driver is made up."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch
from detectron2.modeling import GeneralizedRCNN

from job import pipeline
from job.detect import config, gpu, model, weights
from job.detect.gpu import Machine, runs_on
from job.errors import ServiceUnavailable, SettingsError, TryAgain
from job.settings.resolve import resolve
from job.shards import Shard
from job.stopping import Stop
from tests.conftest import Job, demo_variables, settings

WHEELS = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")  # of torch 2.14.1 for CUDA 13.0
H100 = Machine("580.95.05", (13, 0), "13.0", WHEELS, ("NVIDIA H100",), ((9, 0),))


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (WHEELS, (7, 0), False),  # V100
        (WHEELS, (7, 5), True),  # T4
        (WHEELS, (8, 0), True),  # A100
        (WHEELS, (8, 6), True),  # A10G
        (WHEELS, (8, 9), True),  # L4 runs the code for 8.6
        (WHEELS, (9, 0), True),  # H100
        (WHEELS, (10, 3), True),  # B300 runs the code for 10.0
        (WHEELS, (11, 0), False),
        (WHEELS, (13, 0), False),
        (("sm_90a",), (9, 0), True),
        (("sm_100a",), (10, 3), False),
        (("sm_100f",), (10, 3), True),
        (("sm_100f",), (11, 0), False),
        (("compute_100f",), (11, 0), False),
        (("sm_86",), (8, 0), False),
        (("sm_75", "compute_90"), (13, 0), True),
        (("compute_90",), (8, 9), False),
        ((), (9, 0), False),
    ],
)
def test_which_architectures_run_where(architectures: tuple[str, ...], capability: tuple[int, int], runs: bool) -> None:
    assert runs_on(architectures, capability) is runs


@pytest.mark.parametrize(
    ("changes", "index", "sentence"),
    [
        ({}, 0, None),
        ({}, 1, "There is no GPU 1: the highest index is 0."),
        ({"names": (), "driver": "", "driver_cuda": (0, 0)}, 0, "start the container with --gpus all"),
        (
            {"names": (), "driver": "535.104.05", "driver_cuda": (12, 2)},
            0,
            "The NVIDIA driver 535.104.05 supports CUDA up to 12.2, but torch needs 13.0: update the driver to 580 or "
            "newer, or build the image with TORCH_INDEX_URL set to an older CUDA.",
        ),
        ({"names": (), "torch_cuda": "14.1"}, 0, "torch needs 14.1: update the driver, or"),
        ({"names": (), "reason": "no device"}, 0, "CUDA finds no usable GPU (no device): check nvidia-smi"),
        ({"names": (), "driver_cuda": (0, 0)}, 0, "CUDA finds no usable GPU: check nvidia-smi"),
        (
            {"names": (), "driver": "", "reason": "Driver/library version mismatch"},
            0,
            "CUDA finds no usable GPU (Driver/library version mismatch)",
        ),
        (
            {"names": ("NVIDIA V100",), "capabilities": ((7, 0),)},
            0,
            "NVIDIA V100 has compute capability 7.0, but torch is built for sm_75, sm_80, sm_86, sm_90, sm_100, "
            "sm_120: use a newer GPU, or build the image with TORCH_INDEX_URL set to an older CUDA.",
        ),
        ({"torch_cuda": ""}, 0, "built without CUDA"),
    ],
)
def test_problems_are_described(changes: dict[str, Any], index: int, sentence: str | None) -> None:
    problem = dataclasses.replace(H100, **changes).find_problem(index)
    assert problem is None if sentence is None else sentence in str(problem)


@pytest.fixture(autouse=True)
def _inspect_again() -> Iterator[None]:
    gpu.inspect.cache_clear()
    yield
    gpu.inspect.cache_clear()


def test_the_driver_version_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: "535.104.05")
    monkeypatch.setattr(pynvml, "nvmlSystemGetCudaDriverVersion_v2", lambda: 12020)
    seen = gpu.inspect()
    assert (seen.driver, seen.driver_cuda, seen.names) == ("535.104.05", (12, 2), ())
    assert "The NVIDIA driver 535.104.05 supports CUDA up to 12.2" in str(seen.find_problem())


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    properties = SimpleNamespace(name="NVIDIA V100", major=7, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    seen = gpu.inspect()
    assert seen.architectures == WHEELS
    assert "NVIDIA V100 has compute capability 7.0" in str(seen.find_problem())


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_the_warning_of_torch_is_reported_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch warns only once."""
    monkeypatch.setattr(pynvml, "nvmlInit", failing(pynvml.NVMLError_LibraryNotFound()))
    sayings = ["CUDA initialization: The NVIDIA driver on your system is too old (found version 12020)."]

    def is_available() -> bool:
        if sayings:
            warnings.warn(sayings.pop(), stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    for _ in range(2):
        assert "(CUDA initialization: The NVIDIA driver on your system is too old" in str(gpu.choose(settings())[1])


@pytest.mark.parametrize("error", [torch.AcceleratorError("busy\nand advice"), torch.OutOfMemoryError("full")])
def test_a_gpu_that_fails_is_not_the_models_fault(
    small_rcnn: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    """Another machine may have a working GPU, so the exit code is 69, not 64, wherever the error appears first."""
    ours = settings(model=str(small_rcnn[0]), weights=str(small_rcnn[1]))
    said = f"GPU error \\({str(error).splitlines()[0]}\\): check nvidia-smi"
    for target, name in (
        (config, "build_model"),
        (weights._StrictCheckpointer, "load"),
        (GeneralizedRCNN, "forward"),
    ):
        with monkeypatch.context() as patch, pytest.raises(ServiceUnavailable, match=said):
            patch.setattr(target, name, failing(error))
            model.build(ours)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_properties", failing(error))
        gpu.inspect.cache_clear()
        assert f"no usable GPU ({str(error).splitlines()[0]})" in str(gpu.inspect().find_problem())
    monkeypatch.setattr(gpu, "inspect", lambda: H100)
    monkeypatch.setattr(torch, "zeros", failing(error))
    with pytest.raises(ServiceUnavailable, match=said):
        gpu.choose(settings(require_gpu=True))
    assert "GPU error" in str(gpu.choose(settings())[1])


def test_the_job_falls_back_to_the_cpu_unless_a_gpu_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "inspect", lambda: dataclasses.replace(H100, names=(), driver=""))
    assert gpu.choose(settings(device="cpu")) == (torch.device("cpu"), None)
    device, why = gpu.choose(settings())
    assert device.type == "cpu"
    assert "There is no NVIDIA GPU" in str(why)
    with pytest.raises(
        ServiceUnavailable, match=r"There is no NVIDIA GPU.*CORAL_REQUIRE_GPU=1 forbids falling back to the CPU"
    ):
        gpu.choose(settings(require_gpu=True))
    with pytest.raises(ServiceUnavailable):  # another machine may have this GPU
        gpu.choose(settings(require_gpu=True, device="cuda:1"))
    with pytest.raises(ServiceUnavailable, match=r"CORAL_DEVICE='cuda:1': There is no NVIDIA GPU"):
        gpu.choose(settings(device="cuda:1"))


@pytest.mark.parametrize("text", ["cuda:01", "cuda:99999999999", "cuda:300", "cuda:", "gpu", "CUDA"])
def test_a_device_that_torch_does_not_accept_is_a_wrong_setting(text: str) -> None:
    with pytest.raises(SettingsError, match="must be auto, cpu, cuda or cuda:N"):
        resolve({}, {"CORAL_INPUT": "a", "CORAL_OUTPUT": "b", "CORAL_DEVICE": text})


def test_a_usable_gpu_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "inspect", lambda: H100)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    assert gpu.choose(settings(require_gpu=True)) == (torch.device("cuda"), None)
    assert gpu.choose(settings(device="cuda:0")) == (torch.device("cuda:0"), None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_that_requires_a_gpu_ends_before_any_work(few_frames: Path, tmp_path: Path, job: Job) -> None:
    done = job(**demo_variables(few_frames, tmp_path / "out"), CORAL_REQUIRE_GPU=1)
    assert done.returncode == 69
    (line,) = done.stderr.splitlines()
    assert "There is no NVIDIA GPU" in line
    assert not (tmp_path / "out").exists()


def test_the_reason_for_the_cpu_is_logged_before_all_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        gpu, "inspect", lambda: dataclasses.replace(H100, names=(), driver="535.1", driver_cuda=(12, 2))
    )
    ours = settings(output=str(tmp_path / "out"))
    with pipeline.start(ours, Stop(), Shard()):
        pass
    assert "The NVIDIA driver 535.1 supports CUDA up to 12.2" in caplog.text
    assert "Falling back to the CPU." in caplog.text
    required = dataclasses.replace(ours, require_gpu=True)
    # The reduce step checks the device only if it trains on it: here it fails later, on the missing shards.
    with pytest.raises(TryAgain, match="No shard has finished yet"):
        pipeline.select(required, Stop())
    with pytest.raises(ServiceUnavailable, match=r"535\.1"):
        pipeline.select(dataclasses.replace(required, embedding="simclr"), Stop())
