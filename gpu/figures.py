"""The tables of docs/performance.md, from the files that `make gpu-test` and `make bench-gpu` write."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CHECKS = ROOT / "benchmarks" / "results" / "gpu-test.json"
BENCHMARK = ROOT / "benchmarks" / "results" / "gpu.json"
NOT_MEASURED = "Not measured: no GPU has run `{}` yet."

_STAGES = ("wait for images", "copy", "launch", "wait for the GPU", "rows")
_BATCHES = {"rcnn": "Faster R-CNN R50-FPN", "retinanet": "RetinaNet R50-FPN", "cascade": "Cascade Mask R-CNN R50-FPN"}
_RUNS = {"rcnn": "R50-FPN, 800 x 1333", "yolo": "YOLOv3-tiny", "feed": "without a model"}


def benchmark_table(path: Path = BENCHMARK) -> str:
    """Returns the table of the benchmark: images per second, share of the main thread's time by stage, and memory."""
    if not path.is_file():
        return NOT_MEASURED.format("make bench-gpu")
    results = json.loads(path.read_text())
    lines = [
        f"On {results['machine']['summary']}, with 2,000 JPEG files:\n",
        f"| | images/s | GPU busy | {' | '.join(_STAGES)} | GPU memory, GiB |",
        "|---" * (len(_STAGES) + 4) + "|",
    ]
    for name, result in results.items():
        kind, _, size = name.partition(", ")
        if kind in _RUNS and result["status"] == "passed":
            lines.append(_make_row(f"{_RUNS[kind]}: {size} files, {result['figures']['precision']}", result["figures"]))
    for precision, figures in _find(results, "precisions").items():
        lines.append(_make_row(f"{_RUNS['rcnn']}: 500 720p files, {precision}", figures))
    for size, speed in _find(results, "DefaultPredictor").items():
        lines.append(f"| detectron2's DefaultPredictor in a loop: {size} files | {speed:.1f} |" + " |" * 7)
    return "\n".join(lines)


def checks_table(path: Path = CHECKS) -> str:
    """Returns the table of the checks: what each found."""
    if not path.is_file():
        return NOT_MEASURED.format("make gpu-test")
    results = json.loads(path.read_text())
    lines = ["| check | | what it found |", "|---|---|---|"]
    for name, result in results.items():
        found = "there was no time for it" if result["status"] == "skipped" else result["summary"].replace("\n", "<br>")
        lines.append(f"| {name} | {result['status']} | {found} |")
    return "\n".join(lines)


def pieces_table(path: Path = BENCHMARK) -> str:
    """Returns the tables of the parts of the benchmark: post-processing, kernels, and speed by batch size."""
    if not path.is_file():
        return NOT_MEASURED.format("make bench-gpu")
    results = json.loads(path.read_text())
    lines = [
        "| Whole batches in memory | the job, ms per image | detectron2's post-processing | waits per batch |",
        "|---|---|---|---|",
    ]
    for name, figures in _find(results, "batches").items():
        cells = (_BATCHES[name], f"{figures['job']:.2g}", f"{figures['detectron2']:.2g}", str(figures["waits"]))
        lines.append(f"| {' | '.join(cells)} |")
    milliseconds = {name: _find(results, f"profile, {name}").get("gpu_ms_per_image") for name in ("rcnn", "yolo")}
    lines.extend(
        f"\n{_RUNS[name]}: {time:.2g} ms of kernels per image, so {1000 / time:.0f} images/s at most."
        for name, time in milliseconds.items()
        if time
    )
    if speeds := _find(results, "batch sizes"):
        text = ", ".join(f"{speed:.0f} ({size})" for size, speed in speeds.items())
        lines.append(f"\n{_RUNS['rcnn']}: images per second with only 250 files of 720p, and the batch size: {text}.")
    return "\n".join(lines)


def _find(results: dict[str, Any], name: str) -> dict[str, Any]:
    figures: dict[str, Any] = results.get(name, {}).get("figures", {})
    return figures


def _make_row(title: str, figures: dict[str, Any]) -> str:
    busy, memory = figures.get("busy_by_events"), figures.get("allocated_gib")
    cells = [
        title,
        f"{figures['images_per_s']:.0f}",
        "" if busy is None else f"{busy:.0%}",
        *(f"{figures['stages'].get(stage, 0):.0%}" for stage in _STAGES),
        "" if memory is None else f"{memory:.1f}",
    ]
    return f"| {' | '.join(cells)} |"
