"""Which engine a machine gets, and what its user is told."""

import importlib.util
from typing import Any

import pytest

from job.detect import gpu
from job.engine import Choice, choose
from job.errors import SettingsError
from job.settings.resolve import resolve
from tests.conftest import settings

ALL = {"CORAL_INPUT": "in", "CORAL_OUTPUT": "out"}


def on(monkeypatch: pytest.MonkeyPatch, count: int, environment: dict[str, str] | None = None, **ours: Any) -> Choice:
    """The choice on a machine with so many GPUs, the second of which is too old. Nothing is started."""
    capabilities = tuple((3, 0) if index == 1 else (9, 0) for index in range(count))
    machine = gpu.Machine(
        torch_cuda="13.0", architectures=("sm_90",), names=("GPU",) * count, capabilities=capabilities
    )
    monkeypatch.setattr(gpu, "inspect", lambda: machine)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    return choose(settings(**ours), environment or {})


def test_one_usable_gpu_or_the_cpu_needs_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (0, 1, 2):
        assert on(monkeypatch, count) == Choice("none")
    assert on(monkeypatch, 9, device="cpu") == Choice("none")
    assert on(monkeypatch, 9, device="cuda:3") == Choice("none")
    assert on(monkeypatch, 9, {"RAY_ADDRESS": "head:6379"}, device="cuda:3") == Choice("none")


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_every_usable_gpu_gets_a_worker(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    expected = Choice("ray", 3, (0, 2, 3), words="3 GPUs: 3 workers in a local Ray.")
    assert on(monkeypatch, 4, device=device) == expected
    assert on(monkeypatch, 4, {"RAY_ADDRESS": "local"}, device=device) == expected


def test_fewer_workers_than_gpus_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    two = "3 GPUs: 2 workers in a local Ray."
    assert on(monkeypatch, 4, workers=2) == Choice("ray", 2, (0, 2), words=two)
    more = "3 GPUs: 3 workers in a local Ray (CORAL_WORKERS=9)."
    assert on(monkeypatch, 4, workers=9) == Choice("ray", 3, (0, 2, 3), words=more)
    assert on(monkeypatch, 4, workers=1).words == "3 GPUs, of which one is used (CORAL_WORKERS=1)."
    assert on(monkeypatch, 4, engine="none").words == "3 GPUs, of which one is used (CORAL_ENGINE=none)."
    assert "CORAL_WORKERS=2 is not used: there are no two GPUs" in on(monkeypatch, 1, workers=2).words


def test_ray_on_request_works_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on(monkeypatch, 0, engine="ray", workers=2) == Choice("ray", 2, words="CPU: 2 workers in a local Ray.")
    assert on(monkeypatch, 0, engine="ray") == Choice("ray", 1, words="CPU: 1 worker in a local Ray.")


@pytest.mark.parametrize("address", ["head:6379", "10.0.0.1:6379", "[fd00::1]:6379", "auto"])
def test_a_cluster_is_joined(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    choice = on(monkeypatch, 0, {"RAY_ADDRESS": address})
    assert (choice.kind, choice.workers, choice.address) == ("ray", 0, address)
    assert choice.words == f"Ray cluster at {address}: one worker for each GPU."
    assert on(monkeypatch, 0, {"RAY_ADDRESS": address}, workers=40).workers == 40


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265", "head"])
def test_other_addresses_are_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    with pytest.raises(SettingsError, match=r"is not the address of a cluster: set it to host:6379 or auto"):
        on(monkeypatch, 0, {"RAY_ADDRESS": address})


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, 4)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose(settings(), {}) == Choice("none", words="3 GPUs, but the package ray is not installed: using one.")
    with pytest.raises(SettingsError, match="The package ray is not installed"):
        choose(settings(engine="ray"), {})


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"CORAL_ENGINE": "ray", "CORAL_DEVICE": "cuda:1"}, "CORAL_ENGINE='ray' and CORAL_DEVICE='cuda:1', one GPU"),
        ({"CORAL_WORKERS": "2", "CORAL_DEVICE": "cuda:1"}, "CORAL_WORKERS=2 and CORAL_DEVICE='cuda:1', one worker"),
        ({"CORAL_WORKERS": "2", "CORAL_ENGINE": "none"}, "CORAL_WORKERS=2 and CORAL_ENGINE='none', one worker"),
    ],
)
def test_contradictions(given: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        resolve({}, ALL | given)
