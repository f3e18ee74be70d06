"""How fast the map step is, beside the bare model and beside a loop over detectron2's DefaultPredictor.

`python -m benchmarks.detect [--json FILE]`: everything runs on the same images in turns, and the median of the turns
counts. The bare model is its forward passes alone, on tensors that are ready: no reading, decoding, resizing, or
writing. The loop is cv2.imread and DefaultPredictor, one image after the other, as in detectron2's tutorial; once with
files at hand, and once where every read takes 30 ms, as from a bucket. Memory is that of a process of its own, over
2,000 images of mixed sizes. Detectors are the demo's, with its real weights, and Faster R-CNN R50-FPN at 480 pixels
with random ones, whose proposals are not thinned out, since random ones overlap too much for 1,000 to be left. On a GPU
the job computes in bf16, unlike DefaultPredictor; and images per second of R50-FPN at 800 x 1333 are measured for batch
sizes and precisions.
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
from job.storage.local import LocalFolder

ROOT = Path(__file__).resolve().parent.parent
RCNN = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"
TURNS = 3
LATENCY = 0.03
NO_GPU = "there is no GPU"


class Slow(LocalFolder):
    """A folder whose files take a while to come, as from a bucket."""

    def read(self, key: str, etag: str | None = None) -> bytes:
        """Reads a file, after a while."""
        time.sleep(LATENCY)
        return super().read(key, etag)


@dataclass
class Case:
    """A detector with images to run it on.

    Attributes:
        detector: As the job builds it.
        predictor: As detectron2 builds it from the same configuration and weights.
        folder: Of the images.
    """

    detector: Detector
    predictor: Any
    folder: Path

    def forward(self) -> Callable[[], None]:
        """The model alone, in the batches of the job."""
        inference = Inference(self.detector)
        inference.close()
        ready = []
        for path in sorted(self.folder.iterdir()):
            image = images.decode(path.read_bytes())
            tensor = to_tensor(image, self.detector).to(self.detector.device)
            ready.append({"image": tensor, "height": image.shape[0], "width": image.shape[1]})
        half = self.detector.precision != "fp32"

        def run() -> None:
            with torch.inference_mode(), torch.autocast(self.detector.device.type, self.detector.dtype, enabled=half):
                for start in range(0, len(ready), inference.batch_size):
                    self.detector.model(ready[start : start + inference.batch_size])
            synchronize()

        return run

    def map_step(self, source: LocalFolder) -> Callable[[], None]:
        """The job's, from files to a part."""
        listing = Listing.of(source.list())

        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                output = LocalFolder(folder)
                never = threading.Event()
                options: dict[str, Any] = {"batch_size": None, "part_size": 512, "stop": never}
                runner.predict(listing, source, output, self.detector, set(), **options)
                assert list(output.list())

        return run

    def loop(self, latency: float = 0.0) -> Callable[[], None]:
        """The tutorial's way."""

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


def case(settings: Settings, folder: Path, temporary: Path) -> Case:
    """Builds both detectors from the same configuration; without weights, from the same random ones."""
    if settings.weights is None:
        torch.manual_seed(0)
        random = config.read(replace(settings, weights="none")).build(torch.device("cpu"))
        settings = replace(settings, weights=str(temporary / "random.pth"))
        torch.save({"model": random.state_dict()}, temporary / "random.pth")
    detector = model.build(settings)
    cfg = config.read_cfg(settings)
    cfg.MODEL.DEVICE = str(detector.device)
    cfg.MODEL.WEIGHTS = str(temporary / "state.pth")  # for the demo's come in a format that it cannot read
    torch.save({"model": detector.model.state_dict()}, cfg.MODEL.WEIGHTS)
    return Case(detector, DefaultPredictor(cfg), folder)


def seconds(ways: dict[str, Callable[[], None]], turns: int) -> dict[str, float]:
    """Median seconds of each, in turns after one that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in taken.items()}


def mixed_sizes(folder: Path, count: int) -> None:
    """Frames of the demo in sizes from 320 x 136 to 1920 x 816."""
    random = np.random.default_rng(0)
    frames = [images.decode(path.read_bytes()) for path in sorted(fetch.FRAMES.iterdir())[::10]]
    for number in range(count):
        scale = random.uniform(0.5, 3)
        image = cv2.resize(frames[number % len(frames)], None, fx=scale, fy=scale * random.choice([0.75, 1, 1.33]))
        cv2.imwrite(str(folder / f"{number:05d}.jpg"), image)


class Weighed(LocalFolder):
    """Notes how much memory this process takes as each part is written."""

    rss: list[float]

    def write(self, key: str, data: bytes) -> None:
        """Writes a file."""
        super().write(key, data)
        status = Path("/proc/self/status").read_text()
        self.rss.append(int(status.partition("VmRSS:")[2].split()[0]) / 1024)


def rss(folder: str) -> None:
    """What the process of its own does: detects, in parts of 500 images, and prints its megabytes after each."""
    source = LocalFolder(folder)
    with tempfile.TemporaryDirectory() as temporary:
        output = Weighed(temporary)
        output.rss = []
        detector = model.build(demo_settings())
        never = threading.Event()
        listing = Listing.of(source.list())
        runner.predict(listing, source, output, detector, set(), batch_size=None, part_size=500, stop=never)
    print(json.dumps(output.rss))


def demo_settings() -> Settings:
    """Of the demo's detector."""
    return Settings(input="", output="", model=str(ROOT / "demo" / "yolov3-tiny.yaml"), weights=str(fetch.WEIGHTS))


def memory() -> dict[str, float]:
    """Resident memory after 500 and after 2,000 images of mixed sizes, in megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        mixed_sizes(Path(folder), 2000)
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.detect", "--rss", folder]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    after = json.loads(done.stdout)
    return {"500": after[0], "2000": after[3]}


def images_per_second(temporary: Path) -> dict[str, dict[str, float]]:
    """On a GPU: R50-FPN at 800 x 1333 by precision and batch size, results copied back included."""
    found: dict[str, dict[str, float]] = {}
    for precision in ("fp32", "bf16"):
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
            found.setdefault(precision, {})[str(size)] = len(batch) / (time.perf_counter() - start)
    return found


def half_precision(folder: Path, temporary: Path) -> dict[str, dict[str, float]]:
    """How far the demo's boxes of score 0.1 and more move from fp32: by how much in score and in pixels."""
    full_and_half: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
    found = {name: detections(folder, temporary / name, name) for name in full_and_half}
    result: dict[str, dict[str, float]] = {}
    for name in full_and_half[1:]:
        scores, pixels, lost = [], [], 0
        for key, (boxes, confidence, classes) in found["fp32"].items():
            other_boxes, other_confidence, other_classes = found[name][key]
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


def detections(folder: Path, output: Path, precision: Precision) -> dict[str, tuple[Any, Any, Any]]:
    """Boxes, scores and classes of each image, by its name."""
    detector, source = model.build(replace(demo_settings(), precision=precision)), LocalFolder(str(folder))
    listing, store = Listing.of(source.list()), LocalFolder(str(output))
    options: dict[str, Any] = {"batch_size": None, "part_size": 512, "stop": threading.Event()}
    runner.predict(listing, source, store, detector, set(), **options)
    found = {}
    for part in parts.read(store, ["key", "boxes", "scores", "classes"]):
        for row in part.table.to_pylist():
            boxes = np.array(row["boxes"], np.float32).reshape(-1, 4)
            found[row["key"]] = (boxes, np.array(row["scores"]), np.array(row["classes"]))
    return found


def rcnn_yaml(folder: Path) -> str:
    """The zoo's R50-FPN with as many proposals as trained weights have."""
    path = folder / "rcnn.yaml"
    path.write_text(f"_BASE_: {model_zoo.get_config_file(RCNN)}\nMODEL: {{WEIGHTS: '', RPN: {{NMS_THRESH: 1.0}}}}\n")
    return str(path)


def busy(way: Callable[[], None]) -> float:
    """The share of time in which the GPU works, 0 to 1, as its driver tells every 50 ms."""
    samples: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            samples.append(torch.cuda.utilization())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    for _ in range(10):
        way()
    done.set()
    watcher.join()
    return statistics.mean(samples) / 100 if samples else 0.0


def some_frames(count: int, folder: Path) -> Path:
    """A folder with so many of the demo's frames, from all over the clip."""
    folder.mkdir()
    frames = sorted(fetch.FRAMES.iterdir())
    for number in range(count):
        path = frames[number * len(frames) // count]
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def measure(turns: int, demo_images: int, rcnn_images: int, temporary: Path) -> dict[str, Any]:
    """All figures; of those that need a GPU where there is none, why they are missing."""
    street = some_frames(demo_images, temporary / "street")
    some = some_frames(rcnn_images, temporary / "some")
    demo = case(demo_settings(), street, temporary)
    files, slow = LocalFolder(str(street)), Slow(str(street))
    yolo = seconds(
        {
            "forward": demo.forward(),
            "map": demo.map_step(files),
            "loop": demo.loop(),
            "map, 30 ms a read": demo.map_step(slow),
            "loop, 30 ms a read": demo.loop(LATENCY),
        },
        turns,
    )
    rcnn_case = case(
        Settings(input="", output="", model=rcnn_yaml(temporary), min_size=480, max_size=800), some, temporary
    )
    rcnn = seconds(
        {"forward": rcnn_case.forward(), "map": rcnn_case.map_step(LocalFolder(str(some))), "loop": rcnn_case.loop()},
        turns,
    )
    figures: dict[str, Any] = {
        "map_over_forward": yolo["map"] / yolo["forward"],
        "map_over_forward_rcnn": rcnn["map"] / rcnn["forward"],
        "speedup_over_default_predictor": yolo["loop"] / yolo["map"],
        "speedup_over_default_predictor_rcnn": rcnn["loop"] / rcnn["map"],
        "speedup_over_default_predictor_30ms": yolo["loop, 30 ms a read"] / yolo["map, 30 ms a read"],
        "seconds_per_image": {
            "demo": {name: each / demo_images for name, each in yolo.items()},
            "rcnn": {name: each / rcnn_images for name, each in rcnn.items()},
        },
    }
    figures["half_precision"] = half_precision(street, temporary)
    if torch.cuda.is_available():
        figures["images_per_s"] = images_per_second(temporary)
        figures["gpu_busy"] = busy(rcnn_case.map_step(LocalFolder(str(some))))
        figures["device"] = torch.cuda.get_device_name()
    else:
        for name in ("images_per_s", "gpu_busy"):
            figures |= {name: None, f"{name}_reason": NO_GPU}
        figures["device"] = f"CPU, {torch.get_num_threads()} threads"
    weighed = memory()
    figures |= {"rss_2000_over_500": weighed["2000"] / weighed["500"], "rss_mb": weighed}
    return figures


def show(figures: dict[str, Any]) -> None:
    """Prints the tables."""
    print(f"\nOn {figures['device']}, milliseconds an image:\n")
    each = figures["seconds_per_image"]
    names = list(each["demo"])
    rows = [
        [name, *(f"{1000 * each[kind][name]:.1f}" if name in each[kind] else "" for kind in each)] for name in names
    ]
    print(tabulate(rows, ["", "YOLOv3-tiny, 640 x 272", "R50-FPN, 480 pixels"], disable_numparse=True))
    wanted = {
        "map_over_forward": "the map step takes so many times as long as the bare model (YOLOv3-tiny)",
        "map_over_forward_rcnn": "likewise, R50-FPN",
        "speedup_over_default_predictor": "times as fast as the loop (YOLOv3-tiny)",
        "speedup_over_default_predictor_rcnn": "likewise, R50-FPN",
        "speedup_over_default_predictor_30ms": "times as fast as the loop where a read takes 30 ms (YOLOv3-tiny)",
        "rss_2000_over_500": "memory after 2,000 images of mixed sizes, over that after 500",
        "gpu_busy": "share of time in which the GPU works",
    }
    moved = figures["half_precision"]
    headers = ["beside fp32", *(name.replace("_", ", ") for name in next(iter(moved.values())))]
    rows = [[name, *(f"{value:.4g}" for value in each.values())] for name, each in moved.items()]
    print("\n" + tabulate(rows, headers, disable_numparse=True) + "\n")
    for name, meaning in wanted.items():
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
    """Measures, prints tables, and writes the figures when asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--demo-images", type=int, default=100)
    parser.add_argument("--rcnn-images", type=int, default=16)
    parser.add_argument("--rss", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rss:
        rss(arguments.rss)
        return
    fetch.fetch()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(arguments.turns, arguments.demo_images, arguments.rcnn_images, Path(temporary))
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
