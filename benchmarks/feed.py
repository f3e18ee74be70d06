"""Measures the CPU time of an image before the detector sees it, beside other libraries, and where the pixels differ.

`python -m benchmarks.feed [--json FILE]`: frames of the demo are enlarged to 1280 x 720 and 1920 x 1080, get noise, so
that the files are as large as a camera's, and are decoded, resized to 750 x 1333 (detectron2's R50-FPN) and shrunk to a
thumbnail. All functions take turns on one thread; a figure is the median of its CPU time. torchcodec is measured where
it is installed; the job does not need it.

Then the demo's detector runs on resized frames: how far do scores move by the faster resizing, and how far by half
precision?
"""

import argparse
import importlib
import io
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import simplejpeg
import torch
import torchvision.io
from detectron2.data import transforms
from tabulate import tabulate
from torchvision.ops import box_iou
from torchvision.transforms.v2 import functional

from benchmarks.detect import make_demo_settings
from demo import fetch
from job import images
from job.detect import model
from job.detect.prepare import to_tensor

SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}
RESIZED = 750, 1333
NUM_FILES, TURNS, NUM_SCORED_FRAMES = 3, 15, 50
MIN_SCORE = 0.1
NOISE_LEVELS, QUALITY = 5, 90

Ways = dict[str, Callable[[], Any]]


def make_files(size: tuple[int, int], rng: np.random.Generator) -> list[bytes]:
    """Makes JPEG files of a size from frames of the demo."""
    files = []
    for path in sorted(fetch.FRAMES.iterdir())[:: 250 // NUM_FILES][:NUM_FILES]:
        frame = cv2.resize(cv2.imread(str(path)), size, interpolation=cv2.INTER_LANCZOS4)  # type: ignore[arg-type]
        noisy = np.clip(frame + rng.normal(0, NOISE_LEVELS, (*frame.shape[:2], 1)), 0, 255).astype(np.uint8)
        files.append(cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())
    return files


def vary(data: bytes) -> Iterator[bytes]:
    """Yields a JPEG in the ways that cameras and programs write it."""
    image = PIL.Image.open(io.BytesIO(data))
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    options: list[dict[str, Any]] = [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}]
    options += [{"optimize": True}, {"restart_marker_rows": 1}, {"exif": turned}]
    for mode in ("RGB", "L"):
        for each in options:
            buffer = io.BytesIO()
            image.convert(mode).save(buffer, "JPEG", quality=QUALITY, **each)
            yield buffer.getvalue()


def decode_by_pillow(data: bytes) -> Any:
    """Decodes with Pillow to BGR pixels, turned upright."""
    image = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
    return cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR)


def resize_by_pillow(image: Any) -> torch.Tensor:
    """Resizes as detectron2's DefaultPredictor does."""
    resize = transforms.ResizeTransform(*image.shape[:2], *RESIZED, interp=PIL.Image.Resampling.BILINEAR)
    return torch.from_numpy(np.ascontiguousarray(resize.apply_image(image).transpose(2, 0, 1)))


def make_decoders(data: bytes) -> Ways:
    """Returns a function for each library, which decodes the file to shape (height, width, 3)."""
    array = np.frombuffer(data, np.uint8)
    tensor = torch.from_numpy(array.copy())
    rgb = torchvision.io.ImageReadMode.RGB
    ways: Ways = {
        "coralpick": lambda: images.decode(data),
        "Pillow": lambda: decode_by_pillow(data),
        "OpenCV": lambda: cv2.imdecode(array, cv2.IMREAD_COLOR),
        "simplejpeg": lambda: simplejpeg.decode_jpeg(data, "BGR"),
        "torchvision": lambda: torchvision.io.decode_jpeg(tensor, rgb).permute(1, 2, 0).numpy()[:, :, ::-1],
    }
    try:
        torchcodec = importlib.import_module("torchcodec.decoders")
    except ImportError:
        return ways
    return ways | {"torchcodec": lambda: torchcodec.decode_jpeg(tensor).permute(1, 2, 0).numpy()[:, :, ::-1]}


def make_resizers(image: Any) -> Ways:
    """Returns a function for each way of resizing a decoded image to the detector's input."""
    view = torch.from_numpy(image).permute(2, 0, 1)
    sizes = {"channels": "BGR", "min_size": 800, "max_size": 1333}  # these make 750 x 1333 of both sizes
    exact, half = (SimpleNamespace(precision=precision, **sizes) for precision in ("fp32", "fp16"))
    return {
        "coralpick, half precision": lambda: to_tensor(image, half),  # type: ignore[arg-type]
        "coralpick, fp32": lambda: to_tensor(image, exact),  # type: ignore[arg-type]
        "Pillow": lambda: resize_by_pillow(image),
        "torchvision": lambda: functional.resize(view, list(RESIZED), antialias=True),
        "torchvision, planar": lambda: functional.resize(view.contiguous(), list(RESIZED), antialias=True),
        "OpenCV, not antialiased": lambda: cv2.resize(image, RESIZED[::-1], interpolation=cv2.INTER_LINEAR),
    }


def measure_ms(ways: Ways, turns: int) -> dict[str, float]:
    """Measures the median CPU time of each function on this thread in milliseconds, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, function in ways.items():
            start = time.thread_time()
            function()
            if turn:  # the first one loads libraries and allocates memory
                seconds[name].append(time.thread_time() - start)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def measure_size(size: tuple[int, int], turns: int) -> dict[str, Any]:
    """Measures all pieces for images of one size."""
    pieces: dict[str, list[dict[str, float]]] = {"decode": [], "resize": [], "thumbnail": []}
    files = make_files(size, np.random.default_rng(0))
    moved = []
    for data in files:
        image: Any = images.decode(data)
        resizers = make_resizers(image)
        pieces["decode"].append(measure_ms(make_decoders(data), turns))
        pieces["resize"].append(measure_ms(resizers, turns))
        pieces["thumbnail"].append(measure_ms({"coralpick": partial(images.make_thumbnail, image)}, turns))
        fast, exact = (resizers[name]().numpy().astype(int) for name in ("coralpick, half precision", "Pillow"))
        moved.append(np.abs(fast - exact))
    mean = {
        piece: {name: statistics.mean(each[name] for each in found) for name in found[0]}
        for piece, found in pieces.items()
    }
    return {
        "kb": sum(map(len, files)) / 1000 / len(files),
        **mean,
        "resized_difference": int(max(each.max() for each in moved)),
        "resized_share": float(np.mean([(each > 0).mean() for each in moved])),
    }


def measure_difference() -> dict[str, int]:
    """Measures the largest difference between decoded pixels and Pillow's, by library, over all variations."""
    worst: dict[str, int] = {}
    for size in SIZES.values():
        for data in vary(make_files(size, np.random.default_rng(1))[0]):
            expected = decode_by_pillow(data).astype(int)
            for name, decode in make_decoders(data).items():
                pixels = decode()
                if pixels.shape == expected.shape:  # the others do not all apply the EXIF orientation
                    worst[name] = max(worst.get(name, 0), int(np.abs(pixels - expected).max()))
                else:
                    assert name != "coralpick"
    return worst


def measure_scores() -> dict[str, dict[str, float]]:
    """Measures how far scores of the demo's detector move by the faster resizing, and by half precision alone."""
    detector = model.build(make_demo_settings())
    half = replace(detector, precision="fp16")
    found: dict[str, list[Any]] = {"exact": [], "resizing": [], "fp16": [], "bf16": []}
    for path in sorted(fetch.FRAMES.iterdir())[:: 250 // NUM_SCORED_FRAMES]:
        image = images.decode(path.read_bytes())
        exact, fast = to_tensor(image, detector), to_tensor(image, half)
        tensors = {"exact": exact, "resizing": fast, "fp16": exact, "bf16": exact}
        for name, tensor in tensors.items():
            dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(name)
            with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype is not None):
                inputs = [{"image": tensor, "height": image.shape[0], "width": image.shape[1]}]
                found[name].append(detector.model(inputs)[0]["instances"])
    return {name: compare_scores(found["exact"], found[name]) for name in ("resizing", "fp16", "bf16")}


def compare_scores(expected: list[Any], found: list[Any]) -> dict[str, float]:
    """Compares the scores of boxes of at least `MIN_SCORE` with those of the same objects in other detections."""
    moved, num_lost = [], 0
    for one, other in zip(expected, found, strict=True):
        one = one[one.scores >= MIN_SCORE]
        overlap = box_iou(one.pred_boxes.tensor, other.pred_boxes.tensor.float())
        overlap[one.pred_classes[:, None] != other.pred_classes[None]] = 0
        for row, score in zip(overlap, one.scores, strict=True):
            if not len(row) or row.max() < 0.5:
                num_lost += 1
            else:
                moved.append(abs(float(score) - float(other.scores[row.argmax()])))
    return {
        "boxes": len(moved) + num_lost,
        "lost": num_lost,
        "median": statistics.median(moved),
        "p99": float(np.quantile(moved, 0.99)),
        "max": max(moved),
    }


def show(figures: dict[str, Any]) -> None:
    """Prints the figures as tables."""
    sizes = figures["sizes"]
    headers = ["CPU ms an image, one thread", *(f"{name} ({found['kb']:.0f} kB)" for name, found in sizes.items())]
    rows = [
        [f"{piece}: {way}", *(f"{found[piece][way]:.1f}" for found in sizes.values())]
        for piece in ("decode", "resize", "thumbnail")
        for way in next(iter(sizes.values()))[piece]
    ]
    for way, name in (("ours", "coralpick, half precision"), ("ours_fp32", "coralpick, fp32"), ("pillow", "Pillow")):
        rows += [[f"sum: {name}", *(f"{figures[f'{way}_{size}_ms']:.1f}" for size in sizes)]]
    print(tabulate(rows, headers))
    worst = ", ".join(f"{name} {value}" for name, value in figures["differences"].items())
    print(f"\nlargest difference of decoded pixels from Pillow's: {worst}")
    for name, found in sizes.items():
        print(f"{name} resized for half precision: at most {found['resized_difference']} levels from Pillow's, "
              f"in {100 * found['resized_share']:.3f} % of the values")  # fmt: skip
    for name, found in figures["scores"].items():
        print(f"scores of {found['boxes']} boxes moved by {name}: median {found['median']:.6f}, "
              f"99 % below {found['p99']:.5f}, at most {found['max']:.5f}; {found['lost']} lost")  # fmt: skip


def main() -> None:
    """Measures everything, prints it, and writes the figures if `--json` is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--turns", type=int, default=TURNS)
    arguments = parser.parse_args()
    fetch.fetch()
    torch.set_num_threads(1)
    differences = measure_difference()
    figures: dict[str, Any] = {"difference": differences["coralpick"], "differences": differences}
    figures["sizes"] = {name: measure_size(size, arguments.turns) for name, size in SIZES.items()}
    for name, found in figures["sizes"].items():
        thumbnail = found["thumbnail"]["coralpick"]
        decode, resize = found["decode"], found["resize"]
        figures[f"ours_{name}_ms"] = decode["coralpick"] + resize["coralpick, half precision"] + thumbnail
        figures[f"ours_fp32_{name}_ms"] = decode["coralpick"] + resize["coralpick, fp32"] + thumbnail
        figures[f"pillow_{name}_ms"] = decode["Pillow"] + resize["Pillow"] + thumbnail
    figures["scores"] = measure_scores()
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
