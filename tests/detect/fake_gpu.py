"""A CPU that poses as a GPU: copies that do not block happen only once something waits for them.

Results that are read too early are zeros. No GPU was at hand; `make gpu-test` runs the same code on one.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import partialmethod
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from job.detect.model import Detector

GPU = torch.device("cuda")
EMPTY, TO, COPY = torch.empty, torch.Tensor.to, torch.Tensor.copy_


class FakeGpu:
    """The state of the stand-in.

    Attributes:
        sent: Shape and strides of each batch that was copied to it.
        threads: Names of the threads that copied batches.
        flushes: Number of calls of `empty_cache`.
    """

    def __init__(self) -> None:
        self.sent: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        self.threads: set[str] = set()
        self.flushes = 0
        self._local = threading.local()

    def requested(self) -> list[Callable[[], Any]]:
        """The copies of this thread that no event has recorded yet."""
        if not hasattr(self._local, "copies"):
            self._local.copies = []
        copies: list[Callable[[], Any]] = self._local.copies
        return copies

    def to(self, tensor: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if not (arguments and arguments[0] == GPU):
            return TO(tensor, *arguments, **options)
        self.sent.append((tuple(tensor.shape), tensor.stride()))
        self.threads.add(threading.current_thread().name)
        if not options.get("non_blocking"):
            return tensor.clone()
        copied = torch.zeros_like(tensor)
        self.requested().append(lambda: COPY(copied, tensor))
        return copied

    def copy(self, target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        if not non_blocking:
            return COPY(target, source)
        COPY(target, torch.zeros_like(source))
        self.requested().append(lambda: COPY(target, source))
        return target

    def make_event(self, **_: Any) -> Any:
        copies: list[Callable[[], Any]] = []

        def record() -> None:
            copies.extend(self.requested())
            self.requested().clear()

        def synchronize() -> None:
            while copies:
                copies.pop(0)()

        return SimpleNamespace(record=record, synchronize=synchronize)

    def flush(self) -> None:
        self.flushes += 1


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    gpu = FakeGpu()
    stream = SimpleNamespace(wait_event=lambda event: event.synchronize())

    @contextlib.contextmanager
    def nothing(_: Any) -> Iterator[None]:
        yield

    def empty(*size: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        return EMPTY(*size, **options)

    def call(tensor: torch.Tensor, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return function(tensor, *arguments, **options)

    monkeypatch.setattr(torch, "empty", empty)
    for name, replacement in (("to", gpu.to), ("copy_", gpu.copy)):
        monkeypatch.setattr(torch.Tensor, name, partialmethod(call, replacement))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    monkeypatch.setattr(Detector, "device", property(lambda _: GPU))
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "Event", gpu.make_event)
    monkeypatch.setattr(torch.cuda, "stream", nothing)
    monkeypatch.setattr(torch.cuda, "device", nothing)
    monkeypatch.setattr(torch.cuda, "empty_cache", gpu.flush)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=5 << 30))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 1 << 30)
    for name in ("reset_peak_memory_stats", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 0)
    return gpu
