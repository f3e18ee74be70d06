"""The checks of `make gpu-test`: the map step on a GPU against the CPU, and what only a GPU can do wrong."""

import logging
import os
import platform
import signal
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from gpu import compare, drive, models, pictures
from gpu.harness import Bench, Check, Finding, Skipped
from job.detect.gpu import inspect
from job.detect.model import Detector
from job.select import select
from job.settings.schema import Precision

# The share of boxes that may be lost or gained between devices in fp32: boxes at the score threshold, and ties.
_MAX_MOVED_SHARE = 0.02
_MAX_FP32_SCORE = 1e-3
_OVERSIZED_BATCH = 16


def list_checks() -> list[Check]:
    """Returns the checks, the most valuable first."""
    return [
        Check("machine", 5, describe_machine),
        *(Check(f"precision: {name}", 14, _PrecisionCheck(name)) for name in ("rcnn", "yolo", "retinanet")),
        Check("out of memory", 15, exhaust_memory),
        Check("odd images", 8, read_odd_images),
        Check("same bytes", 12, repeat),
        Check("whole job", 35, run_whole_job),
        Check("stop and resume", 40, stop_and_resume),
        Check("selection on tensors", 10, select_on_tensors),
        *(Check(f"precision: {name}", 14, _PrecisionCheck(name)) for name in ("cascade", "fcos")),
        Check("simclr", 30, train_simclr),
        Check("several GPUs", 10, use_last_gpu),
    ]


def describe_machine(bench: Bench) -> Finding:
    """Describes the machine, and computes a little on each GPU."""
    packages = ("torch", "torchvision", "numpy", "pillow", "opencv-python-headless", "pyarrow")
    figures: dict[str, Any] = {
        "python": platform.python_version(),
        "packages": {name: _find_version(name) for name in packages},
        "driver": inspect().driver,
        "cores": len(os.sched_getaffinity(0)),
        "cuda": torch.version.cuda,
        "gpus": [],
        "tf32": {
            "conv": torch.backends.cudnn.allow_tf32,
            "matmul": torch.backends.cuda.matmul.allow_tf32,
        },
    }
    for index in range(torch.cuda.device_count() if bench.device == "cuda" else 0):
        properties = torch.cuda.get_device_properties(index)
        gib = properties.total_memory / 2**30
        figures["gpus"].append({"name": properties.name, "gib": gib, "sm": f"{properties.major}{properties.minor}"})
        assert float(torch.ones(1000, device=f"cuda:{index}").sum()) == 1000
    names = ", ".join(device["name"] for device in figures["gpus"]) or "no GPU"
    return Finding(f"{names}; {figures['cores']} cores; torch {torch.__version__}, Python {figures['python']}", figures)


def _find_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


class _PrecisionCheck:
    """Compares a detector in fp32 on the CPU with itself on the GPU: fp32 without and with TF32, fp16 and bf16."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, bench: Bench) -> Finding:
        count = bench.size(24 if self._name == "yolo" else 8, 2)
        frames = pictures.copy_frames(count, bench.folder / f"frames-{count}")
        runs = {  # device, precision, and whether convolutions round to TF32, which the job forbids
            "cpu": ("cpu", "fp32", False),
            "fp32": (bench.device, "fp32", False),
            "fp32, TF32": (bench.device, "fp32", True),
            "fp16": (bench.device, "fp16", False),
            "bf16": (bench.device, "bf16", False),
        }
        detections, seconds = {}, {}
        for run, (device, precision, tf32) in runs.items():
            if bench.toy and run in ("fp32, TF32", "fp16"):
                continue
            detector = models.build(bench, self._name, device, cast(Precision, precision))
            if tf32:
                _get_backbone(detector).register_forward_pre_hook(_allow_tf32)
            output = bench.output(f"{self._name}-{run.replace(', ', '-')}")
            seconds[run] = drive.predict(detector, frames, output, batch_size=4)
            detections[run] = drive.read(output)
        references = {"fp32": "cpu"} | {run: "fp32" for run in runs if run not in ("cpu", "fp32")}
        differences = {
            run: compare.compare(detections[reference], detections[run])
            for run, reference in references.items()
            if run in detections
        }
        exact = differences["fp32"]
        problems = []
        if exact.lost + exact.gained > _MAX_MOVED_SHARE * max(1, exact.boxes):
            problems.append(f"fp32 on the GPU against the CPU: {exact}")
        if np.median(exact.scores or [0]) > _MAX_FP32_SCORE:
            problems.append(f"the median score moves by {np.median(exact.scores):.2g} from the CPU to the GPU in fp32")
        if not exact.boxes:
            problems.append("no box was found, so nothing is compared")
        problems += [
            f"{run}: other statuses of {found.statuses}" for run, found in differences.items() if found.statuses
        ]
        figures = {run: found.to_figures() for run, found in differences.items()} | {"seconds": seconds}
        return Finding("\n".join(f"{run}: {found}" for run, found in differences.items()), figures, problems)


def _get_backbone(detector: Detector) -> torch.nn.Module:
    """Returns the part of the model that is called once for each batch, whoever calls it."""
    backbone: torch.nn.Module = getattr(detector.model, "backbone", detector.model)
    return backbone


def _allow_tf32(*_: Any) -> None:
    torch.backends.cudnn.allow_tf32 = True  # the job itself forbids it, and sets it back at its end


class _Messages(logging.Handler):
    """Collects the messages of the job."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def exhaust_memory(bench: Bench) -> Finding:
    """Gives the job less memory than its batches need, and compares the results with those of an undisturbed run."""
    count = bench.size(48, 6)
    frames = pictures.copy_frames(count, bench.folder / f"frames-{count}")
    detector = models.build(bench, "rcnn", bench.device)
    calm, capped = bench.output("memory-calm"), bench.output("memory-capped")
    small = bench.size(2, 1)
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats(detector.device)
    drive.predict(detector, frames, calm, batch_size=small)
    messages, logger = _Messages(), logging.getLogger("job")
    logger.addHandler(messages)
    lift = _cap_memory(detector, small) if bench.device == "cuda" else _pretend_cap(detector, small)
    try:
        drive.predict(detector, frames, capped, batch_size=_OVERSIZED_BATCH)
    finally:
        lift()
        logger.removeHandler(messages)
    difference = compare.compare(drive.read(calm), drive.read(capped))
    halved = [text for text in messages.texts if "ran out of memory" in text]
    problems = []
    if not halved:
        problems.append("the memory sufficed for the oversized batch, so nothing was tried")
    if difference.statuses:
        problems.append(f"the images {difference.statuses[:5]} have another status than without the cap")
    if difference.lost + difference.gained > _MAX_MOVED_SHARE * max(1, difference.boxes):
        problems.append(f"other boxes than without the cap: {difference}")
    figures = {"messages": halved, "difference": difference.to_figures()}
    return Finding(f"{len(halved)} times halved, then {len(drive.read(capped))} rows; {difference}", figures, problems)


def _cap_memory(detector: Detector, fitting: int) -> Any:
    """Caps the memory of this process to what a few images need, and returns a function that lifts the cap."""
    device = detector.device
    needed = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(
        (torch.cuda.memory_reserved(device) + 1.5 * needed + (256 << 20)) / total, device
    )
    print(f"{needed / 2**20:.0f} MiB for {fitting} images", flush=True)

    def lift() -> None:
        torch.cuda.set_per_process_memory_fraction(1.0, device)

    return lift


def _pretend_cap(detector: Detector, fitting: int) -> Any:
    """In a rehearsal on a CPU: the model raises what torch raises, at every batch that is too large."""

    def refuse(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if len(inputs[0]) > fitting:
            raise torch.OutOfMemoryError("a pretended cap")

    return _get_backbone(detector).register_forward_pre_hook(refuse).remove


def read_odd_images(bench: Bench) -> Finding:
    """Runs unusual and damaged images on both devices: the same rows, and no end of the job."""
    folder = pictures.write_odd_images(bench.folder / "odd")
    outputs = {}
    for device in ("cpu", bench.device):
        output = bench.output(f"odd-on-{device}")
        drive.predict(models.build(bench, "yolo", device), folder, output)
        outputs[device] = drive.read(output)
    difference = compare.compare(outputs["cpu"], outputs[bench.device])
    usable = sum(found.status == "ok" for found in outputs[bench.device].values())
    problems = [f"other statuses than on the CPU: {difference.statuses}"] if difference.statuses else []
    missing = {path.name for path in folder.iterdir()} - set(outputs[bench.device])
    problems += [f"no row for {sorted(missing)}"] if missing else []
    return Finding(f"{usable} of {len(outputs['cpu'])} are usable on both devices; {difference}",
                   difference.to_figures(), problems)  # fmt: skip


def repeat(bench: Bench) -> Finding:
    """Runs the map step twice, in each precision, and compares the rows to the last bit."""
    count = bench.size(48, 4)
    frames = pictures.copy_frames(count, bench.folder / f"frames-{count}")
    same: dict[str, bool] = {}
    moved = {}
    for name in ("yolo",) if bench.toy else ("yolo", "rcnn"):
        for precision in ("fp32",) if bench.toy else ("fp32", "fp16"):
            detector = models.build(bench, name, bench.device, cast(Precision, precision))
            outputs = [bench.output(f"repeat-{name}-{precision}-{turn}") for turn in (1, 2)]
            for output in outputs:
                drive.predict(detector, frames, output, batch_size=8, part_size=16)
            run = f"{name}, {precision}"
            same[run] = drive.hash_rows(outputs[0]) == drive.hash_rows(outputs[1])
            moved[run] = compare.compare(*(drive.read(output) for output in outputs)).to_figures()
    summary = ", ".join(f"{run}: {'same' if equal else 'OTHER'}" for run, equal in same.items())
    problems = ["two runs on a CPU gave other bytes"] if bench.device == "cpu" and not all(same.values()) else []
    return Finding(summary, {"same": same, "moved": moved}, problems)


def run_whole_job(bench: Bench) -> Finding:
    """Runs `run` on frames of the demo, on both devices in fp32 and as it is by default, and compares the picks."""
    count = bench.size(100, 12)
    frames = pictures.copy_frames(count, bench.folder / f"frames-{count}")
    runs = {
        "cpu": ("cpu", {"CORAL_PRECISION": "fp32"}),
        "fp32": (bench.device, {"CORAL_PRECISION": "fp32"}),
        "auto": (bench.device, {}),
    }
    picks, seconds, problems = {}, {}, []
    for run, (device, variables) in runs.items():
        if bench.toy and run == "auto":
            continue
        output = bench.output(f"job-{run}")
        more = variables | {"CORAL_N_SAMPLES": bench.size(20, 4)}
        code, text, seconds[run] = drive.run_job("run", drive.make_variables(frames, output, device, **more))
        if code != 0:
            return Finding(f"{run} ended with {code}", problems=[text[-1500:]])
        picks[run] = (output / "selected.txt").read_text().split()
    same = {run: len(set(found) & set(picks["cpu"])) for run, found in picks.items() if run != "cpu"}
    if same["fp32"] < 0.9 * len(picks["cpu"]):
        problems.append(f"only {same['fp32']} of {len(picks['cpu'])} picks are those of the CPU")
    summary = ", ".join(f"{run}: {number} of {len(picks['cpu'])} picks as on the CPU" for run, number in same.items())
    return Finding(summary, {"same": same, "seconds": seconds, "picks": picks}, problems)


def stop_and_resume(bench: Bench) -> Finding:
    """Stops the job with SIGTERM amid the map step, resumes it, and compares the parts with those of a calm run."""
    count = bench.size(2000, 48)
    frames = pictures.copy_frames(count, bench.folder / f"frames-{count}")
    calm, disturbed = bench.output("calm"), bench.output("disturbed")
    more = {"CORAL_PART_SIZE": bench.size(128, 8), "CORAL_BATCH_SIZE": bench.size(16, 2)}
    code, text, seconds = drive.run_job("predict", drive.make_variables(frames, calm, bench.device, **more))
    if code != 0:
        return Finding(f"the calm run ended with {code}", problems=[text[-1500:]])
    variables = drive.make_variables(frames, disturbed, bench.device, **more)
    disturbed.mkdir(parents=True)
    process = drive.start_job("predict", variables)
    waited = time.monotonic()
    while process.poll() is None and not drive.hash_parts(disturbed) and time.monotonic() - waited < 60:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    stopped = time.monotonic()
    text, _ = process.communicate()
    stopping, done = time.monotonic() - stopped, len(drive.hash_parts(disturbed))
    problems = [f"after SIGTERM, the job ended with {process.returncode} and not 143"] * (process.returncode != 143)
    code, resumed, _ = drive.run_job("predict", variables)
    problems += [f"the resumed run ended with {code}: {resumed[-500:]}"] * (code != 0)
    expected, found = drive.read(calm), drive.read(disturbed)
    if len(found) != len(expected):
        problems.append(f"{len(found)} rows instead of {len(expected)}")
    rows = drive.hash_rows(calm), drive.hash_rows(disturbed)
    moved = sum(rows[0][name] != rows[1].get(name) for name in rows[0])
    difference = compare.compare(expected, found)
    if bench.device == "cpu" and moved:
        problems.append(f"{moved} rows differ after a stop")
    figures = {"seconds": seconds, "stopping": stopping, "moved_rows": moved, "difference": difference.to_figures()}
    summary = f"ended {stopping:.1f} s after SIGTERM, with {done} parts; {moved} of {count} rows differ; {difference}"
    return Finding(summary, figures, problems)


def select_on_tensors(bench: Bench) -> Finding:
    """Selects from tensors on the device and from arrays: the same picks."""
    count, dimension, picks = bench.size(200_000, 2_000), 128, bench.size(300, 20)
    random = np.random.default_rng(0)
    centers = random.normal(size=(200, dimension))
    points = centers[random.integers(0, 200, count)] + 0.3 * random.normal(size=(count, dimension))
    scores = random.random(count)
    problems, figures = [], {}
    for kind in (torch.float32, torch.float16, torch.bfloat16):
        tensor = torch.from_numpy(points).to(bench.device, kind)
        array: npt.NDArray[np.float32] = tensor.float().cpu().numpy()
        seconds, found = {}, {}
        kinds: dict[str, npt.NDArray[np.float32] | torch.Tensor] = {"array": array, "tensor": tensor}
        for name, embeddings in kinds.items():
            start = time.perf_counter()
            found[name] = [pick.index for pick in select(embeddings, scores, picks).picks]
            seconds[name] = time.perf_counter() - start
        if found["array"] != found["tensor"]:
            first = next(row for row, pair in enumerate(zip(*found.values(), strict=True)) if pair[0] != pair[1])
            problems.append(f"{kind}: other picks from number {first + 1} on")
        figures[str(kind)] = seconds
    single = figures["torch.float32"]
    summary = f"{count} x {dimension}: tensor {single['tensor']:.2f} s, array {single['array']:.2f} s"
    return Finding(summary, figures, problems)


def train_simclr(bench: Bench) -> Finding:
    """Runs the whole job with an embedding that it trains itself."""
    count = bench.size(250, 8)
    frames = pictures.copy_frames(count, bench.folder / f"frames-{count}")
    output = bench.output("simclr")
    more = {"CORAL_EMBEDDING": "simclr", "CORAL_SSL_EPOCHS": bench.size(5, 1), "CORAL_N_SAMPLES": 4}
    code, text, seconds = drive.run_job("run", drive.make_variables(frames, output, bench.device, **more))
    if code != 0:
        return Finding(f"it ended with {code}", problems=[text[-1500:]])
    losses = [line for line in text.splitlines() if "loss" in line]
    return Finding(f"{count} images in {seconds:.1f} s with all; {' '.join(losses)[-120:]}", {"seconds": seconds})


def use_last_gpu(bench: Bench) -> Finding:
    """Runs the map step and the selection on the last GPU, where there are several."""
    count = torch.cuda.device_count() if bench.device == "cuda" else 0
    if count < 2:
        raise Skipped(f"there is {count or 'no'} GPU" + "s" * (count == 0))
    device = f"cuda:{count - 1}"
    frames = pictures.copy_frames(48, bench.folder / "frames-48")
    found = {}
    for name in (bench.device, device):
        output = bench.output(f"gpu-{name.replace(':', '-')}")
        drive.predict(models.build(bench, "rcnn", name), frames, output)
        found[name] = drive.read(output)
    difference = compare.compare(found[bench.device], found[device])
    return Finding(f"{device} against the first: {difference}", difference.to_figures())
