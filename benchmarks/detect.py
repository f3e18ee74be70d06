"""Compares the speed of the map step with the bare model and with a loop over detectron2's DefaultPredictor.

`python -m benchmarks.detect [--json FILE]` runs everything on the same images in turns, and reports the median over the
turns.

- The bare model is only its forward passes, on prepared tensors: no reading, decoding, resizing or writing.
- The loop is cv2.imread and DefaultPredictor, image by image, as in detectron2's tutorial. It runs once on local files,
  and once with 30 ms per read, as from a bucket.
- Memory is measured in a separate process, over 2,000 images of mixed sizes.
- One detector is the demo's, with its real weights. The other is Faster R-CNN R50-FPN at 480 pixels, with random
  weights. Its proposals are not suppressed, since random ones overlap too much to leave 1,000 of them.
- On a GPU, the job computes in fp16, unlike DefaultPredictor. Images per second of R50-FPN at 800 x 1333 are then
  measured by batch size and precision.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.engine import DefaultPredictor
from tabulate import tabulate
from torchvision.ops import box_iou

from demo import fetch
from job import images, parts
from job.detect import config, model, runner
from job.detect.inference import Inference
from job.detect.model import Detector
from job.detect.prepare import PreparedImage, to_tensor
from job.settings import Settings
from job.settings.schema import Precision
from job.storage import Entry, Listing
from job.storage.base import Content
from job.storage.local import LocalFolder

ROOT = Path(__file__).resolve().parent.parent
RCNN = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"
TURNS = 3
LATENCY_SECONDS = 0.03
NO_GPU = "there is no GPU"


class SlowFolder(LocalFolder):
    """A folder that delays each read, as a bucket does."""

    def read(self, key: str, etag: str | None = None) -> bytes:
        """Reads a file after a delay."""
        time.sleep(LATENCY_SECONDS)
        return super().read(key, etag)


@dataclass
class Case:
    """A detector with images to run it on.

    Attributes:
        detector: The detector as the job builds it.
        predictor: detectron2's predictor with the same config and weights.
        folder: Folder of the images.
    """

    detector: Detector
    predictor: Any
    folder: Path

    def make_forward(self) -> Callable[[], None]:
        """Returns a function that runs only the model, with the batch size of the job."""
        inference = Inference(self.detector)
        inference.close()
        prepared = []
        for path in sorted(self.folder.iterdir()):
            image = images.decode(path.read_bytes())
            tensor = to_tensor(image, self.detector).to(self.detector.device)
            prepared.append({"image": tensor, "height": image.shape[0], "width": image.shape[1]})
        half = self.detector.precision != "fp32"

        def run() -> None:
            with torch.inference_mode(), torch.autocast(self.detector.device.type, self.detector.dtype, enabled=half):
                for start in range(0, len(prepared), inference.batch_size):
                    self.detector.model(prepared[start : start + inference.batch_size])
            synchronize()

        return run

    def make_map_step(self, source: LocalFolder) -> Callable[[], None]:
        """Returns a function that runs the map step, from files to a part."""
        listing = Listing.from_entries(source.list())

        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                output = LocalFolder(folder)
                never = threading.Event()
                options: dict[str, Any] = {"batch_size": None, "part_size": 512, "stop": never}
                runner.predict(listing, source, output, self.detector, set(), **options)
                assert list(output.list())

        return run

    def make_loop(self, latency: float = 0.0) -> Callable[[], None]:
        """Returns a function that runs the loop over DefaultPredictor, with some seconds of latency per read."""

        def run() -> None:
            for path in sorted(self.folder.iterdir()):
                time.sleep(latency)
                self.predictor(cv2.imread(str(path)))
            synchronize()

        return run


def synchronize() -> None:
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def build_case(settings: Settings, folder: Path, temporary: Path) -> Case:
    """Builds both detectors from the same config; if no weights are set, from the same random weights."""
    if settings.weights is None:
        torch.manual_seed(0)
        random = config.read(replace(settings, weights="none")).build(torch.device("cpu"))
        settings = replace(settings, weights=str(temporary / "random.pth"))
        torch.save({"model": random.state_dict()}, temporary / "random.pth")
    detector = model.build(settings)
    cfg = config.read_cfg(settings)
    cfg.MODEL.DEVICE = str(detector.device)
    # DefaultPredictor cannot read the format of the demo's weights.
    cfg.MODEL.WEIGHTS = str(temporary / "state.pth")
    torch.save({"model": detector.model.state_dict()}, cfg.MODEL.WEIGHTS)
    return Case(detector, DefaultPredictor(cfg), folder)


def measure_seconds(functions: dict[str, Callable[[], None]], turns: int) -> dict[str, float]:
    """Measures the median seconds of each function, in turns after one turn of warm-up."""
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(turns + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn:
                samples[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in samples.items()}


def write_mixed_sizes(folder: Path, count: int) -> None:
    """Writes frames of the demo in sizes from 320 x 136 to 1920 x 816."""
    random = np.random.default_rng(0)
    frames = [images.decode(path.read_bytes()) for path in sorted(fetch.FRAMES.iterdir())[::10]]
    for number in range(count):
        scale = random.uniform(0.5, 3)
        image = cv2.resize(frames[number % len(frames)], None, fx=scale, fy=scale * random.choice([0.75, 1, 1.33]))
        cv2.imwrite(str(folder / f"{number:05d}.jpg"), image)


class MemoryRecorder(LocalFolder):
    """A folder that records the memory of this process after each part.

    Attributes:
        rss: Resident memory in megabytes, after each part.
    """

    rss: list[float]

    def write(self, key: str, data: Content) -> None:
        """Writes a file, and records the memory."""
        super().write(key, data)
        status = Path("/proc/self/status").read_text()
        self.rss.append(int(status.partition("VmRSS:")[2].split()[0]) / 1024)


def print_rss(folder: str) -> None:
    """Runs the map step in parts of 500 images, and prints the megabytes of this process after each part."""
    source = LocalFolder(folder)
    with tempfile.TemporaryDirectory() as temporary:
        output = MemoryRecorder(temporary)
        output.rss = []
        detector = model.build(make_demo_settings())
        never = threading.Event()
        listing = Listing.from_entries(source.list())
        runner.predict(listing, source, output, detector, set(), batch_size=None, part_size=500, stop=never)
    print(json.dumps(output.rss))


def make_demo_settings() -> Settings:
    """Returns the settings of the demo's detector."""
    return Settings(input="", output="", model=str(ROOT / "demo" / "yolov3-tiny.yaml"), weights=str(fetch.WEIGHTS))


def measure_memory() -> dict[str, float]:
    """Measures the resident memory after 500 and after 2,000 images of mixed sizes, in megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        write_mixed_sizes(Path(folder), 2000)
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.detect", "--rss", folder]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    rss = json.loads(done.stdout)
    return {"500": rss[0], "2000": rss[3]}


def measure_images_per_second(temporary: Path) -> dict[str, dict[str, float]]:
    """Measures R50-FPN at 800 x 1333 on a GPU, by precision and batch size, including the copies of the results."""
    speeds: dict[str, dict[str, float]] = {}
    for precision in ("fp32", "fp16"):
        settings = Settings(
            input="",
            output="",
            model=str(temporary / "rcnn.yaml"),
            precision=precision,
            weights=str(temporary / "random.pth"),
        )
        detector = model.build(settings)
        generator = torch.Generator().manual_seed(0)
        image = torch.randint(0, 256, (3, 800, 1333), dtype=torch.uint8, generator=generator)
        batch = [PreparedImage(Entry("", "", 0), image, 800, 1333, b"")] * 64
        for size in (1, 2, 4, 8, 16, 32):
            inference = Inference(detector, size)
            inference.detect(batch[:size])
            start = time.perf_counter()
            for first in range(0, len(batch), size):
                inference.detect(batch[first : first + size])
            synchronize()
            inference.close()
            speeds.setdefault(precision, {})[str(size)] = len(batch) / (time.perf_counter() - start)
    return speeds


def compare_precisions(folder: Path, temporary: Path) -> dict[str, dict[str, float]]:
    """Measures how far the demo's boxes of score 0.1 and more differ from fp32, in score and in pixels."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
    detections = {name: detect(folder, temporary / name, name) for name in precisions}
    result: dict[str, dict[str, float]] = {}
    for name in precisions[1:]:
        scores, pixels, lost = [], [], 0
        for file_name, (boxes, confidence, classes) in detections["fp32"].items():
            other_boxes, other_confidence, other_classes = detections[name][file_name]
            for row in np.flatnonzero(confidence >= 0.1):
                overlap = box_iou(torch.from_numpy(boxes[row : row + 1]), torch.from_numpy(other_boxes))[0].numpy()
                overlap[other_classes != classes[row]] = 0
                if overlap.max(initial=0) < 0.5:
                    lost += 1
                    continue
                scores.append(abs(float(confidence[row] - other_confidence[overlap.argmax()])))
                pixels.append(float(np.abs(boxes[row] - other_boxes[overlap.argmax()]).max()))
        result[name] = {
            "boxes": len(scores) + lost,
            "lost": lost,
            "score_median": statistics.median(scores),
            "score_max": max(scores),
            "pixels_median": statistics.median(pixels),
            "pixels_max": max(pixels),
        }
    return result


def detect(folder: Path, output: Path, precision: Precision) -> dict[str, tuple[Any, Any, Any]]:
    """Detects objects, and returns boxes, scores and classes by file name."""
    detector, source = model.build(replace(make_demo_settings(), precision=precision)), LocalFolder(str(folder))
    listing, store = Listing.from_entries(source.list()), LocalFolder(str(output))
    options: dict[str, Any] = {"batch_size": None, "part_size": 512, "stop": threading.Event()}
    runner.predict(listing, source, store, detector, set(), **options)
    detections = {}
    for part in parts.read(store, ["key", "boxes", "scores", "classes"]):
        for row in part.table.to_pylist():
            boxes = np.array(row["boxes"], np.float32).reshape(-1, 4)
            detections[row["key"]] = (boxes, np.array(row["scores"]), np.array(row["classes"]))
    return detections


def write_rcnn_yaml(folder: Path) -> str:
    """Writes a config of the zoo's R50-FPN with as many proposals as trained weights give; returns its path."""
    path = folder / "rcnn.yaml"
    path.write_text(f"_BASE_: {model_zoo.get_config_file(RCNN)}\nMODEL: {{WEIGHTS: '', RPN: {{NMS_THRESH: 1.0}}}}\n")
    return str(path)


def measure_gpu_use(function: Callable[[], None]) -> float:
    """Measures the share of time in which the GPU is busy, 0 to 1, by asking the driver every 50 ms."""
    samples: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            samples.append(torch.cuda.utilization())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    for _ in range(10):
        function()
    done.set()
    watcher.join()
    return statistics.mean(samples) / 100 if samples else 0.0


def copy_frames(count: int, folder: Path) -> Path:
    """Copies evenly spaced frames of the demo's clip into a new folder, and returns the folder."""
    folder.mkdir()
    frames = sorted(fetch.FRAMES.iterdir())
    for number in range(count):
        path = frames[number * len(frames) // count]
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def measure(turns: int, demo_images: int, rcnn_images: int, temporary: Path) -> dict[str, Any]:
    """Measures all figures; without a GPU, gives the reason for those that need one."""
    street = copy_frames(demo_images, temporary / "street")
    rcnn_folder = copy_frames(rcnn_images, temporary / "rcnn")
    demo = build_case(make_demo_settings(), street, temporary)
    files, slow = LocalFolder(str(street)), SlowFolder(str(street))
    yolo = measure_seconds(
        {
            "forward": demo.make_forward(),
            "map": demo.make_map_step(files),
            "loop": demo.make_loop(),
            "map, 30 ms a read": demo.make_map_step(slow),
            "loop, 30 ms a read": demo.make_loop(LATENCY_SECONDS),
        },
        turns,
    )
    rcnn_case = build_case(
        Settings(input="", output="", model=write_rcnn_yaml(temporary), min_size=480, max_size=800),
        rcnn_folder,
        temporary,
    )
    rcnn = measure_seconds(
        {
            "forward": rcnn_case.make_forward(),
            "map": rcnn_case.make_map_step(LocalFolder(str(rcnn_folder))),
            "loop": rcnn_case.make_loop(),
        },
        turns,
    )
    figures: dict[str, Any] = {
        "map_over_forward": yolo["map"] / yolo["forward"],
        "map_over_forward_rcnn": rcnn["map"] / rcnn["forward"],
        "speedup_over_default_predictor": yolo["loop"] / yolo["map"],
        "speedup_over_default_predictor_rcnn": rcnn["loop"] / rcnn["map"],
        "speedup_over_default_predictor_30ms": yolo["loop, 30 ms a read"] / yolo["map, 30 ms a read"],
        "seconds_per_image": {
            "demo": {name: seconds / demo_images for name, seconds in yolo.items()},
            "rcnn": {name: seconds / rcnn_images for name, seconds in rcnn.items()},
        },
    }
    figures["half_precision"] = compare_precisions(street, temporary)
    if torch.cuda.is_available():
        figures["images_per_s"] = measure_images_per_second(temporary)
        figures["gpu_busy"] = measure_gpu_use(rcnn_case.make_map_step(LocalFolder(str(rcnn_folder))))
        figures["device"] = torch.cuda.get_device_name()
    else:
        for name in ("images_per_s", "gpu_busy"):
            figures |= {name: None, f"{name}_reason": NO_GPU}
        figures["device"] = f"CPU, {torch.get_num_threads()} threads"
    memory = measure_memory()
    figures |= {"rss_2000_over_500": memory["2000"] / memory["500"], "rss_mb": memory}
    return figures


def show(figures: dict[str, Any]) -> None:
    """Prints the tables."""
    print(f"\nOn {figures['device']}, milliseconds per image:\n")
    seconds = figures["seconds_per_image"]
    rows = [
        [name, *(f"{1000 * by_name[name]:.1f}" if name in by_name else "" for by_name in seconds.values())]
        for name in seconds["demo"]
    ]
    print(tabulate(rows, ["", "YOLOv3-tiny, 640 x 272", "R50-FPN, 480 pixels"], disable_numparse=True))
    meanings = {
        "map_over_forward": "time of the map step / time of the bare model (YOLOv3-tiny)",
        "map_over_forward_rcnn": "time of the map step / time of the bare model (R50-FPN)",
        "speedup_over_default_predictor": "time of the loop / time of the map step (YOLOv3-tiny)",
        "speedup_over_default_predictor_rcnn": "time of the loop / time of the map step (R50-FPN)",
        "speedup_over_default_predictor_30ms": "time of the loop / time of the map step, 30 ms per read (YOLOv3-tiny)",
        "rss_2000_over_500": "memory after 2,000 images of mixed sizes / memory after 500",
        "gpu_busy": "share of time in which the GPU is busy",
    }
    moved = figures["half_precision"]
    headers = ["compared with fp32", *(name.replace("_", ", ") for name in next(iter(moved.values())))]
    rows = [[name, *(f"{value:.4g}" for value in changes.values())] for name, changes in moved.items()]
    print("\n" + tabulate(rows, headers, disable_numparse=True) + "\n")
    for name, meaning in meanings.items():
        value = "not measured: " + figures[f"{name}_reason"] if figures[name] is None else f"{figures[name]:.3f}"
        print(f"{name}: {value}  ({meaning})")
    if figures["images_per_s"] is None:
        print(f"images_per_s: not measured: {figures['images_per_s_reason']}  (R50-FPN at 800 x 1333)")
        return
    speeds = figures["images_per_s"]
    sizes = list(next(iter(speeds.values())))
    rows = [[precision, *(f"{speeds[precision][size]:.1f}" for size in sizes)] for precision in speeds]
    print("\nR50-FPN at 800 x 1333, images/s by batch size:\n")
    print(tabulate(rows, ["", *sizes], disable_numparse=True))


def main() -> None:
    """Measures, prints tables, and writes the figures to a file with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--demo-images", type=int, default=100)
    parser.add_argument("--rcnn-images", type=int, default=16)
    parser.add_argument("--rss", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rss:
        print_rss(arguments.rss)
        return
    fetch.fetch()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(arguments.turns, arguments.demo_images, arguments.rcnn_images, Path(temporary))
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
