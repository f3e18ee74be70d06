"""Times the pieces of one batch on random pictures: the convolutions, and what is done with their outputs."""

import shutil
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from gpu import models
from gpu.harness import Bench, Finding
from job.detect import batched
from job.detect.accelerate import Acceleration, FoldedNorms
from job.detect.fused import FusedReLU
from job.detect.model import Detector

_TURNS = 5
_CELL = 32  # pixels; pictures are random at this distance and smooth in between
_MODELS = ("rcnn", "retinanet", "cascade")


def time_dense_part(bench: Bench) -> Finding:
    """Times backbone, feature pyramid and RPN of R50-FPN as they are, with folded norms, fused and compiled."""
    detector = _build(bench, "rcnn")
    network: Any = detector.model
    images = _make_images(bench, detector, 32).float().contiguous(memory_format=torch.channels_last)
    names = network.proposal_generator.in_features

    def run() -> list[torch.Tensor]:
        features = network.backbone(images)
        outputs = network.proposal_generator.rpn_head([features[name] for name in names])
        return [*features.values(), *(output for level in outputs for output in level)]

    figures: dict[str, float] = {}
    with torch.inference_mode(), _autocast(detector):
        expected = run()
        figures["as it is"] = _time(bench, run) / len(images)
        norms = FoldedNorms(network)
        figures["folded"] = _time(bench, run) / len(images)
        if bench.device == "cuda":
            fused = FusedReLU(network, detector.dtype)
            figures["fused"] = _time(bench, run) / len(images)
            pairs = zip(run(), expected, strict=True)
            figures["difference"] = max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)
            fused.close()
            if shutil.which("cc"):
                begin, compiled = time.perf_counter(), torch.compile(run, dynamic=False)
                compiled()
                figures["seconds to compile"] = time.perf_counter() - begin
                figures["compiled"] = _time(bench, compiled) / len(images)
        norms.close()
    return Finding(f"milliseconds an image, in {detector.precision}: {_list(figures)}", figures)


def time_batches(bench: Bench) -> Finding:
    """Times whole batches, with the post-processing of the job and with that of detectron2, both accelerated."""
    figures: dict[str, Any] = {}
    for name in _MODELS[: None if bench.device == "cuda" else 1]:
        detector = _build(bench, name)
        images = _make_images(bench, detector, 32 if name == "rcnn" else 16)
        figures[name] = _time_batch(bench, detector, images) | {"waits": _count_waits(detector, images)}
    lines = (f"{name}: {_list(found)}" for name, found in figures.items())
    return Finding("milliseconds an image, and waits for the GPU per batch: " + "; ".join(lines), figures)


def _time_batch(bench: Bench, detector: Detector, images: torch.Tensor) -> dict[str, float]:
    network: Any = detector.model
    acceleration = Acceleration(network, detector.dtype)
    sizes = [(int(images.shape[2]), int(images.shape[3]))] * len(images)
    inputs = [{"image": image, "height": sizes[0][0], "width": sizes[0][1]} for image in images]
    with torch.inference_mode(), _autocast(detector):
        acceleration.expect(images)
        job = _time(bench, lambda: batched.run(batched.detect(network, images, sizes)).pack().cpu())
        detectron2 = _time(bench, lambda: [output["instances"].to("cpu") for output in network(inputs)])
    acceleration.close()
    return {"job": job / len(images), "detectron2": detectron2 / len(images)}


def _count_waits(detector: Detector, images: torch.Tensor) -> int:
    """Counts how often the CPU waits for the GPU in one batch, the copy of the results included."""
    if detector.device.type != "cuda":
        return 0
    sizes = [(int(images.shape[2]), int(images.shape[3]))] * len(images)
    with torch.inference_mode(), _autocast(detector):
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            batched.run(batched.detect(detector.model, images, sizes)).pack().cpu()
    return sum("StreamSynchronize" in event.name for event in profiler.events() or [])


def _build(bench: Bench, name: str) -> Detector:
    return models.build(bench, name, bench.device, "auto")


def _make_images(bench: Bench, detector: Detector, count: int) -> torch.Tensor:
    """Makes (n, 3, height, width) bytes at the size of a resized 720p image."""
    height = detector.min_size
    width = min(detector.max_size, height * 16 // 9)
    height = min(height, width * 9 // 16)
    generator = torch.Generator().manual_seed(0)
    shape = (bench.size(count, 2), 3, -(-height // _CELL), -(-width // _CELL))
    cells = torch.randint(0, 256, shape, generator=generator).float().to(detector.device)
    smooth = functional.interpolate(cells, (height, width), mode="bicubic").clamp(0, 255)
    return smooth.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def _autocast(detector: Detector) -> torch.autocast:
    return torch.autocast(detector.device.type, detector.dtype, enabled=detector.precision != "fp32")


def _time(bench: Bench, function: Callable[[], Any]) -> float:
    """Returns the mean milliseconds of several calls, after one that does not count."""
    function()
    if bench.device == "cuda":
        torch.cuda.synchronize()
    turns = bench.size(_TURNS, 1)
    start = time.perf_counter()
    for _ in range(turns):
        function()
    if bench.device == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start) / turns


def _list(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
