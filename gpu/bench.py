"""The benchmark of `make bench-gpu`: images per second from JPEG files to parts, and what limits them.

Files are the demo's frames, enlarged and with noise: 2,000 names for 400 different images. R50-FPN has fitted random
weights and resizes to 800 x 1333; the demo's YOLOv3-tiny keeps its own sizes. All runs are whole map steps.
"""

import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import cv2
import torch
from detectron2.engine import DefaultPredictor
from detectron2.structures import Boxes, Instances
from torch import nn

from gpu import checks, drive, meter, models, pictures, pieces
from gpu.harness import Bench, Check, Finding
from job import limits
from job.detect import config
from job.detect.model import Detector
from job.settings.schema import Precision

SIZES = {"1080p": (1920, 1080), "720p": (1280, 720)}
_FILES, _DIFFERENT, _WARM_UP = 2000, 400, 128


def list_checks() -> list[Check]:
    """Returns the measurements, the most valuable first."""
    return [
        Check("machine", 5, checks.describe_machine),
        Check("files", 10, write_files),
        Check("rcnn, 720p", 25, partial(measure_map, name="rcnn", size="720p")),
        Check("feed, 720p", 10, partial(measure_feed, size="720p")),
        Check("rcnn, 1080p", 30, partial(measure_map, name="rcnn", size="1080p")),
        Check("feed, 1080p", 15, partial(measure_feed, size="1080p")),
        Check("profile, rcnn", 10, partial(profile_map, name="rcnn")),
        Check("feed, threads", 25, measure_threads),
        Check("DefaultPredictor", 10, measure_default_predictor),
        Check("batches", 15, pieces.time_batches),
        Check("yolo, 720p", 10, partial(measure_map, name="yolo", size="720p")),
        Check("precisions", 20, measure_precisions),
        Check("yolo, 1080p", 15, partial(measure_map, name="yolo", size="1080p")),
        Check("batch sizes", 20, measure_batch_sizes),
        Check("profile, yolo", 8, partial(profile_map, name="yolo")),
        Check("dense part", 40, pieces.time_dense_part),
    ]


def write_files(bench: Bench) -> Finding:
    """Writes the JPEG files, and the weights of R50-FPN."""
    start, kilobytes = time.perf_counter(), {}
    for size in SIZES:
        kilobytes[size] = next(_get_files(bench, size).iterdir()).stat().st_size / 1000
    models.make_settings(bench, "rcnn")
    sizes = ", ".join(f"{size}: {number:.0f} kB a file" for size, number in kilobytes.items())
    return Finding(f"{sizes}; written in {time.perf_counter() - start:.1f} s", {"kilobytes": kilobytes})


def _get_files(bench: Bench, size: str, count: int | None = None) -> Path:
    width, height = (dimension // (1 if not bench.toy else 4) for dimension in SIZES[size])
    files, different = bench.size(_FILES, 12), bench.size(_DIFFERENT, 6)
    folder = pictures.enlarge_frames(width, height, files, different, bench.folder / f"files-{size}")
    if count is None:
        return folder
    return pictures.link_some(folder, min(count, files), bench.folder / f"files-{size}-{count}")


def _build(bench: Bench, name: str, precision: str = "auto") -> Detector:
    return models.build(bench, name, bench.device, cast(Precision, precision))


def _run(bench: Bench, detector: Detector, folder: Path, batch_size: int | None = None) -> dict[str, Any]:
    """Runs the map step on a folder after a warm-up, and returns the figures of the meter."""
    warm_up = pictures.link_some(folder, bench.size(_WARM_UP, 4), bench.folder / f"warm-up-{folder.name}")
    output = bench.output(f"bench-{time.monotonic_ns()}")
    first = drive.predict(detector, warm_up, output / "warm-up", batch_size=batch_size)
    with meter.Meter(detector.device) as measured:
        drive.predict(detector, folder, output / "parts", batch_size=batch_size)
    figures = measured.to_figures(len(list(folder.iterdir())))
    boxes = [len(found.boxes) for found in drive.read(output / "warm-up").values()]
    return figures | {"warm_up_seconds": first, "boxes": sum(boxes) / len(boxes), "precision": detector.precision}


def _describe(figures: dict[str, Any]) -> str:
    stages = ", ".join(f"{name} {share:.0%}" for name, share in figures["stages"].items())
    busy, memory = figures.get("busy_by_events"), figures.get("allocated_gib")
    text = f"{figures['images_per_s']:.1f} images/s in {figures['precision']}; main thread: {stages}"
    text += f"; GPU busy {busy:.0%} by events" if busy is not None else ""
    return text + (f"; {memory:.1f} GiB at most" if memory is not None else "")


def measure_map(bench: Bench, *, name: str, size: str) -> Finding:
    """Measures the map step as it is by default."""
    figures = _run(bench, _build(bench, name), _get_files(bench, size))
    return Finding(_describe(figures), figures)


class _FindsNothing(nn.Module):
    """A model that costs nothing, to measure what feeds it."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1, device=device))

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        results = []
        for image in inputs:
            instances = Instances((image["height"], image["width"]))
            instances.pred_boxes = Boxes(self.nothing.new_zeros(0, 4))
            instances.scores = self.nothing.new_zeros(0)
            instances.pred_classes = self.nothing.new_zeros(0, dtype=torch.int64)
            results.append({"instances": instances})
        return results


def measure_feed(bench: Bench, *, size: str) -> Finding:
    """Measures the map step with a model that costs nothing: reading, decoding, resizing, copying, rows and parts."""
    figures = _run(bench, _build_idle(bench), _get_files(bench, size), batch_size=32)
    return Finding(_describe(figures), figures)


def _build_idle(bench: Bench) -> Detector:
    detector = _build(bench, "rcnn")
    return replace(detector, model=_FindsNothing(detector.device), probabilities="synthetic")


def measure_threads(bench: Bench) -> Finding:
    """Measures the feed with fewer preparing threads, with torch on one core, and with faster switches of threads."""
    folder, idle, cores = _get_files(bench, "720p", _FILES // 2), _build_idle(bench), limits.count_cores()
    torch_threads, seconds, speeds = torch.get_num_threads(), sys.getswitchinterval(), {}

    def run(cores: int) -> float:
        with patch.object(limits, "count_cores", return_value=cores):
            speed: float = _run(bench, idle, folder, batch_size=32)["images_per_s"]
            return speed

    for share in (1, 2, 4)[: 1 if bench.toy else None]:
        speeds[f"cores / {share}"] = run(cores // share or 1)
    torch.set_num_threads(1)
    speeds["torch on one core"] = run(cores)
    torch.set_num_threads(torch_threads)
    sys.setswitchinterval(seconds / 10)
    speeds["switches after 0.5 ms"] = run(cores)
    sys.setswitchinterval(seconds)
    return Finding(", ".join(f"{name}: {speed:.1f} images/s" for name, speed in speeds.items()), speeds)


def measure_precisions(bench: Bench) -> Finding:
    """Measures R50-FPN in each precision, on a quarter of the 720p files."""
    folder = _get_files(bench, "720p", _FILES // 4)
    names = ("fp32",) if bench.toy else ("fp32", "fp16", "bf16")
    figures = {name: _run(bench, _build(bench, "rcnn", name), folder) for name in names}
    summary = ", ".join(f"{name} {found['images_per_s']:.1f} images/s" for name, found in figures.items())
    return Finding(summary, figures)


def measure_batch_sizes(bench: Bench) -> Finding:
    """Measures R50-FPN with several batch sizes, on an eighth of the 720p files."""
    folder = _get_files(bench, "720p", _FILES // 8)
    detector = _build(bench, "rcnn")
    sizes = (1,) if bench.toy else (4, 8, 16, 32, 64)
    speeds = {size: _run(bench, detector, folder, size)["images_per_s"] for size in sizes}
    summary = ", ".join(f"{size}: {speed:.1f} images/s" for size, speed in speeds.items())
    return Finding(summary, {str(size): speed for size, speed in speeds.items()})


def profile_map(bench: Bench, *, name: str) -> Finding:
    """Profiles the map step on some files: the time of the kernels, and the calls that wait for the GPU."""
    count = bench.size(128, 4)
    folder, detector = _get_files(bench, "720p", count), _build(bench, name)
    output = bench.output(f"profile-{name}")
    drive.predict(detector, folder, output / "warm-up")
    if bench.device != "cuda":
        return Finding("a CPU has no kernels to profile")
    figures = meter.profile(lambda: drive.predict(detector, folder, output / "parts"))
    per_image = 1000 * figures["busy_seconds"] / count
    waits = sum(figures["waits"].values()) / count
    summary = (
        f"the GPU works {per_image:.2f} ms an image, so {1000 / per_image:.0f} images/s at most; "
        f"{figures['kernels'] / count:.0f} kernels and {waits:.1f} waits an image"
    )
    return Finding(summary, figures | {"gpu_ms_per_image": per_image, "waits_per_image": waits})


def measure_default_predictor(bench: Bench) -> Finding:
    """Measures the loop of detectron2's tutorial, cv2.imread and DefaultPredictor, under the job's autocast."""
    figures, settings = {}, models.make_settings(bench, "rcnn")
    cfg = config.read_cfg(settings)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = bench.device, settings.weights
    detector, predictor = _build(bench, "rcnn"), DefaultPredictor(cfg)
    for size in SIZES:
        folder = _get_files(bench, size)
        paths = sorted(folder.iterdir())[: bench.size(60, 3)]
        half = detector.precision != "fp32"
        with torch.autocast(bench.device, detector.dtype, enabled=half):
            predictor(cv2.imread(str(paths[0])))
            start = time.perf_counter()
            for path in paths:
                predictor(cv2.imread(str(path)))
            if bench.device == "cuda":
                torch.cuda.synchronize()
        figures[size] = len(paths) / (time.perf_counter() - start)
    return Finding(", ".join(f"{size}: {speed:.1f} images/s" for size, speed in figures.items()), figures)
