"""Compares embeddings by how well they keep the shots of a video together, and SimCLR's speed with lightly-magic.

Shot purity is the share of a frame's five nearest neighbours that belong to the same shot. Frames within 10 of the
frame do not count as neighbours. The figure is the mean over all frames whose shot has five other frames that count.
There are two pools: the demo's clip, and three clips together.

    python -m benchmarks.embedding                 all embeddings, and the comparison with lightly-magic
    python -m benchmarks.embedding --sweep         the experiment that SimCLR's hyperparameters were chosen by
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tabulate import tabulate
from torch import nn

from demo import fetch
from job import images, logs
from job.detect import model, runner
from job.detect.model import Detector
from job.embed import simclr
from job.parts import pool as pools
from job.settings import Settings
from job.storage import Listing
from job.storage.local import LocalFolder

# First frames of the shots of the demo's clip. Each of the other clips is one shot.
CUTS = (30, 76, 137, 187, 242)
NEIGHBOURS, MIN_FRAME_DISTANCE = 5, 10


@dataclass(frozen=True)
class Frames:
    """A pool of video frames.

    Attributes:
        name: Name of the pool.
        shot: (n,) number of each frame's shot.
        clip: (n,) number of each frame's clip.
        number: (n,) number of each frame in its clip.
        features: (n, d) pooled features of the detector.
        thumbnails: RGB thumbnails.
    """

    name: str
    shot: Any
    clip: Any
    number: Any
    features: Any
    thumbnails: list[Image.Image]


def compute_purity(frames: Frames, embeddings: Any) -> float:
    """Computes the shot purity, 0 to 1, which the docstring of the module defines."""
    points = np.asarray(embeddings, np.float64)
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    distance = 2 - 2 * points @ points.T
    same_clip = frames.clip[:, None] == frames.clip[None]
    near = same_clip & (np.abs(frames.number[:, None] - frames.number[None]) <= MIN_FRAME_DISTANCE)
    distance[near] = np.inf
    same_shot = frames.shot[:, None] == frames.shot[None]
    counted = (same_shot & ~near).sum(axis=1) >= NEIGHBOURS
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :NEIGHBOURS]
    return float(np.take_along_axis(same_shot, nearest, axis=1)[counted].mean())


def load(detector: Detector, folder: Path) -> list[Frames]:
    """Runs the map step on the clips, and returns the two pools."""
    clips = []
    for clip, video in enumerate((fetch.VIDEO, *fetch.MORE_VIDEOS)):
        count = fetch.cut(video, folder / video.stem)
        source, output = LocalFolder(str(folder / video.stem)), LocalFolder(str(folder / f"{video.stem}.out"))
        listing = Listing.from_entries(source.list())
        runner.predict(listing, source, output, detector, set(), batch_size=1, part_size=512, stop=threading.Event())
        pool = pools.load(output, listing)
        shot = np.searchsorted(CUTS, np.arange(count), side="right") if clip == 0 else np.full(count, 100 + clip)
        data = pools.thumbnails(output, pool, range(count))
        thumbnails = [images.read_thumbnail(data[row]) for row in range(count)]
        features = np.empty((count, 0)) if pool.features is None else pool.features.read(0, count)
        clips.append(Frames(video.stem, shot, np.full(count, clip), np.arange(count), features, thumbnails))
    shot, clip_of, number, features = (
        np.concatenate([getattr(frames, name) for frames in clips]) for name in ("shot", "clip", "number", "features")
    )
    thumbnails = [thumbnail for frames in clips for thumbnail in frames.thumbnails]
    together = Frames("three clips", shot, clip_of, number, features, thumbnails)
    return [clips[0], together]


def embed(
    encoder: simclr.Encoder, frames: Frames, recipe: simclr.SimCLRRecipe = simclr.DEFAULT_RECIPE
) -> npt.NDArray[np.floating]:
    """(frames, D) embeddings by an encoder."""
    return simclr.embed(encoder, frames.thumbnails, batch_size=64, recipe=recipe).read(0, len(frames.thumbnails))


def measure(frames: Frames, detector: Detector, epochs: int) -> dict[str, Any]:
    """Measures the shot purity of each embedding, and the seconds per epoch of SimCLR."""
    torch.manual_seed(0)
    random_encoder = simclr.build_random_encoder()
    result = {
        "pixels": compute_purity(frames, [np.asarray(image.resize((16, 16))).ravel() for image in frames.thumbnails]),
        "untrained": compute_purity(frames, embed(random_encoder, frames)),
    }
    simclr.train(random_encoder, frames.thumbnails, epochs=epochs, batch_size=64, seed=0)
    result["simclr_random_init"] = compute_purity(frames, embed(random_encoder, frames))
    encoder = simclr.build_encoder(detector)
    result["simclr_0_epochs"] = compute_purity(frames, embed(encoder, frames))
    start = time.monotonic()
    simclr.train(encoder, frames.thumbnails, epochs=epochs, batch_size=64, seed=0)
    result["simclr_s_per_epoch"] = (time.monotonic() - start) / max(1, epochs)
    result["simclr"] = compute_purity(frames, embed(encoder, frames))
    result["detector"] = compute_purity(frames, frames.features)
    return result


def sweep(frames: Frames, detector: Detector, epochs: int) -> list[dict[str, Any]]:
    """Measures purity and speed of SimCLR from the detector's backbone, with hyperparameters changed one by one."""
    changes: list[dict[str, Any]] = [{}, {"input_size": 64}, {"input_size": 96}]
    changes += [{"learning_rate": rate} for rate in (0.001, 0.003, 0.03)]
    changes += [{"min_scale": 0.08, "colour_strength": 1.0}, {"min_scale": 0.5}, {"colour_strength": 0.25}]
    rows = []
    for change in changes:
        recipe = simclr.SimCLRRecipe(**change)
        encoder = simclr.build_encoder(detector)
        start = time.monotonic()
        simclr.train(encoder, frames.thumbnails, epochs=epochs, batch_size=64, seed=0, recipe=recipe)
        seconds = (time.monotonic() - start) / epochs
        embeddings = embed(encoder, frames, recipe)
        rows.append({**vars(recipe), "purity": compute_purity(frames, embeddings), "s_per_epoch": seconds})
    return rows


def build_lightly_network() -> simclr.Encoder:
    """Builds the network that lightly-magic trains, as an encoder of the job."""
    from lightly.models import ResNetGenerator
    from lightly.models.batchnorm import get_norm_layer

    resnet = ResNetGenerator("resnet-18", 1)
    children = list(resnet.children())
    layers = [get_norm_layer(3, 0), *children[:-1], nn.Conv2d(children[-1].in_features, 32, 1)]
    return simclr.Encoder(nn.Sequential(*layers), torch.zeros(3), torch.full((3,), 255.0), "RGB")


def compare_with_lightly_magic(thumbnails: list[Image.Image]) -> dict[str, float]:
    """Measures seconds per epoch of lightly-magic and of the job, on the same images, network, view and batch size.

    The times of runs of different length are subtracted, so that start-up and the final embedding do not count.
    """
    recipe = simclr.SimCLRRecipe(input_size=64)

    def train_job(epochs: int) -> None:
        simclr.train(build_lightly_network(), thumbnails, epochs=epochs, batch_size=64, seed=0, recipe=recipe)

    def train_lightly_magic(epochs: int) -> None:
        options = [f"input_dir={fetch.FRAMES}", f"trainer.max_epochs={epochs}", "trainer.gpus=0", "pre_trained=False"]
        options += ["loader.batch_size=64", f"loader.num_workers={os.cpu_count()}"]
        command = [sys.executable, "-W", "ignore", "-c", "from lightly.cli.lightly_cli import entry; entry()"]
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([*command, *options], cwd=folder, check=True, capture_output=True)

    seconds = {}
    for name, train in (("job", train_job), ("lightly_magic", train_lightly_magic)):
        durations = []
        for epochs in (1, 3):
            start = time.monotonic()
            train(epochs)
            durations.append(time.monotonic() - start)
        seconds[name] = (durations[1] - durations[0]) / 2
    return {
        "same_network_s_per_epoch": seconds["job"],
        "lightly_magic_s_per_epoch": seconds["lightly_magic"],
        "speedup_over_lightly_magic": seconds["lightly_magic"] / seconds["job"],
    }


def main() -> None:
    """Measures, prints tables, and writes the figures to a file with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--epochs", type=int, default=20, metavar="N")
    parser.add_argument("--sweep", action="store_true")
    arguments = parser.parse_args()
    logs.configure("text")
    fetch.fetch()
    detector = model.build(
        Settings(input="-", output="-", model=str(Path(fetch.__file__).with_name("yolov3-tiny.yaml")),
                 weights=str(fetch.WEIGHTS))
    )  # fmt: skip
    figures: dict[str, Any]
    with tempfile.TemporaryDirectory() as folder:
        all_frames = load(detector, Path(folder))
    if arguments.sweep:
        rows = sweep(all_frames[0], detector, arguments.epochs)
        figures = {"sweep": rows}
        print(tabulate(rows, headers="keys", floatfmt=".3f"))
    else:
        measured = {frames.name: measure(frames, detector, arguments.epochs) for frames in all_frames}
        figures = {**measured[all_frames[0].name], "pools": measured, "epochs": arguments.epochs}
        names = list(measured[all_frames[0].name])
        print(tabulate([[name, *(measured[pool][name] for pool in measured)] for name in names],
                       ["", *measured], floatfmt=".3f"))  # fmt: skip
        comparison = compare_with_lightly_magic(all_frames[0].thumbnails)
        figures |= comparison
        print(tabulate(comparison.items(), floatfmt=".2f", tablefmt="plain"))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
