"""Measures a run from outside: where its threads are, how long the GPU works, and how much memory it takes."""

import linecache
import re
import sys
import threading
import time
from collections import Counter
from types import FrameType, TracebackType
from typing import Any, Self
from unittest.mock import Mock, patch

import torch
from torch._C._autograd import DeviceType

from gpu.models import ROOT
from job.detect.forward import Forward

_SAMPLING_SECONDS = 0.01
_JOB = str(ROOT / "job") + "/"
# The stage of the main thread, by the line of the job that it is in; the first pattern that fits.
_STAGES = {
    "rows": r"_make_row|Row\(|astype\(|\.copy\(\)",
    "wait for the GPU": r"\.cpu\(\)|synchronize|\.item\(\)|\.tolist\(\)|\.query\(\)|wait_event",
    "copy": r"pin_memory|torch\.stack|\.to\(|copy_\(",
}
_MODULES = {
    "wait for images": r"/(prefetch|prepare|batches|budget|ring|feed)\.py$",
    "launch": r"/(inference|forward|accelerate|features|probabilities|yolo|last_layers|batched/\w+)\.py$",
    "copy": r"/copies\.py$",
    "write parts": r"/(parts/|progress\.py)",
}


class Meter:
    """Measures everything inside a `with` block.

    Args:
        device: Where the model runs. A GPU counts as busy between the start and the end of each step of a batch.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu, self._device = device.type == "cuda", device
        self._calls: list[tuple[Any, Any]] = []
        self._main: Counter[tuple[str, str, int]] = Counter()
        self._others: Counter[tuple[str, str]] = Counter()
        self._watched = threading.get_ident()
        self._done = threading.Event()

    def __enter__(self) -> Self:
        """Starts to measure."""
        advance = Forward.advance

        def advance_timed(*arguments: Any) -> None:
            begin, end = (_make_event(), _make_event()) if self._on_gpu else (Mock(), Mock())
            self._calls.append((begin, end))
            begin.record()
            try:
                advance(*arguments)
            finally:
                end.record()

        self._patch = patch.object(Forward, "advance", advance_timed)
        self._patch.start()
        if self._on_gpu:
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        self._thread = threading.Thread(target=self._sample, name="sampler", daemon=True)
        self._thread.start()
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the measurement."""
        if self._on_gpu and error is None:
            torch.cuda.synchronize(self._device)
        self._seconds = time.perf_counter() - self._start
        self._done.set()
        self._thread.join()
        self._patch.stop()

    def to_figures(self, images: int) -> dict[str, Any]:
        """Returns images per second, shares of the time, the places of the threads, and memory in GiB."""
        total = max(1, self._main.total())
        stages: Counter[str] = Counter()
        lines: Counter[str] = Counter()
        for (file, function, line), count in self._main.items():
            stages[_find_stage(file, line)] += count
            text = linecache.getline(file, line).strip()[:80]
            lines[f"{file.removeprefix(_JOB)}:{line} {function}: {text}"] += count
        figures: dict[str, Any] = {
            "images_per_s": images / self._seconds,
            "seconds": self._seconds,
            "stages": {stage: count / total for stage, count in stages.most_common()},
            "lines": {line: round(count / total, 4) for line, count in lines.most_common(25)},
            "threads": {
                f"{thread}: {place}": round(count / total, 4) for (thread, place), count in self._others.most_common(25)
            },
            "steps": len(self._calls),
        }
        if self._on_gpu:
            busy = sum(begin.elapsed_time(end) for begin, end in self._calls) / 1000
            figures["busy_by_events"] = busy / self._seconds if self._calls else None
            figures["allocated_gib"] = torch.cuda.max_memory_allocated(self._device) / 2**30
            figures["reserved_gib"] = torch.cuda.max_memory_reserved(self._device) / 2**30
        return figures

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLING_SECONDS):
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            for ident, frame in sys._current_frames().items():
                place = _find_place(frame)
                if ident == self._watched:
                    self._main[place] += 1
                elif (name := names.get(ident, "?")) != "sampler":
                    file, function, _ = place
                    self._others[re.sub(r"[-_]?\d+$", "", name), f"{file.removeprefix(_JOB)} {function}"] += 1


def _make_event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _find_place(frame: FrameType) -> tuple[str, str, int]:
    """Returns file, function and line of the innermost frame in the job."""
    current: FrameType | None = frame
    while current is not None:
        if current.f_code.co_filename.startswith(_JOB):
            return current.f_code.co_filename, current.f_code.co_name, current.f_lineno
        current = current.f_back
    return frame.f_code.co_filename, frame.f_code.co_name, frame.f_lineno


def _find_stage(file: str, line: int) -> str:
    text = linecache.getline(file, line)
    for stage, pattern in _STAGES.items():
        if re.search(pattern, text):
            return stage
    return next((stage for stage, pattern in _MODULES.items() if re.search(pattern, file)), "other")


def profile(function: Any) -> dict[str, Any]:
    """Profiles a function on a GPU.

    Returns:
        Seconds in which at least one kernel or copy ran, in all and by name, and how often the CPU waited for the GPU.
    """
    activities = [torch.profiler.ProfilerActivity.CUDA]
    start = time.perf_counter()
    with torch.profiler.profile(activities=activities) as profiler:
        function()
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    spans: list[tuple[float, float]] = []
    kernels: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in profiler.events() or []:
        begin, end = event.time_range.start, event.time_range.end
        if event.device_type == DeviceType.CUDA:
            spans.append((begin, end))
            kernels[event.name[:120]] += end - begin
        else:
            calls[event.name] += 1
    busy, last = 0.0, 0.0
    for begin, end in sorted(spans):
        busy += max(0.0, end - max(begin, last))
        last = max(last, end)
    waits = {name: count for name, count in calls.items() if "ynchronize" in name}
    return {
        "seconds": seconds,
        "busy_seconds": busy / 1e6,
        "kernels": len(spans),
        "kernel_seconds": {name: value / 1e6 for name, value in kernels.most_common(20)},
        "waits": waits,
        "calls": dict(calls.most_common(12)),
    }
