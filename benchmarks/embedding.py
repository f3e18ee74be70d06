"""Which embedding keeps the shots of a video together? And how long does an epoch take beside lightly-magic?

Shot purity: of a frame's five nearest neighbours, frames within 10 of it left out, the share that lies in its own shot;
the mean over all frames whose shot has five such frames. Two pools: the demo's clip, and three clips together.

    python -m benchmarks.embedding                 the five embeddings, and the comparison with lightly-magic
    python -m benchmarks.embedding --sweep         how SimCLR's settings were chosen
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

# First frames of the shots of the demo's clip; the other clips are one shot each.
CUTS = (30, 76, 137, 187, 242)
NEIGHBOURS, APART = 5, 10


@dataclass(frozen=True)
class Frames:
    """A pool of video frames.

    Attributes:
        name: For people.
        shot: (n,) which shot a frame is of.
        clip: (n,) which clip a frame is of.
        number: (n,) of the frame in its clip.
        features: (n, d) of the detector.
        thumbnails: RGB.
    """

    name: str
    shot: Any
    clip: Any
    number: Any
    features: Any
    thumbnails: list[Image.Image]


def purity(frames: Frames, embeddings: Any) -> float:
    """The share of near neighbours in the same shot, 0 to 1; see above."""
    points = np.asarray(embeddings, np.float64)
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    distance = 2 - 2 * points @ points.T
    same_clip = frames.clip[:, None] == frames.clip[None]
    near = same_clip & (np.abs(frames.number[:, None] - frames.number[None]) <= APART)
    distance[near] = np.inf
    same_shot = frames.shot[:, None] == frames.shot[None]
    counted = (same_shot & ~near).sum(axis=1) >= NEIGHBOURS
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :NEIGHBOURS]
    return float(np.take_along_axis(same_shot, nearest, axis=1)[counted].mean())


def load(detector: Detector, folder: Path) -> list[Frames]:
    """Runs the job's map step over the clips; returns the two pools."""
    clips = []
    for clip, video in enumerate((fetch.VIDEO, *fetch.MORE_VIDEOS)):
        count = fetch.cut(video, folder / video.stem)
        source, output = LocalFolder(str(folder / video.stem)), LocalFolder(str(folder / f"{video.stem}.out"))
        listing = Listing.of(source.list())
        runner.predict(listing, source, output, detector, set(), batch_size=1, part_size=512, stop=threading.Event())
        pool = pools.load(output, listing)
        shot = np.searchsorted(CUTS, np.arange(count), side="right") if clip == 0 else np.full(count, 100 + clip)
        thumbnails = [images.read_thumbnail(each) for each in pool.thumbnails]
        clips.append(Frames(video.stem, shot, np.full(count, clip), np.arange(count), pool.features, thumbnails))
    shot, clip_of, number, features = (
        np.concatenate([getattr(each, name) for each in clips]) for name in ("shot", "clip", "number", "features")
    )
    thumbnails = [each for frames in clips for each in frames.thumbnails]
    together = Frames("three clips", shot, clip_of, number, features, thumbnails)
    return [clips[0], together]


def measure(frames: Frames, detector: Detector, epochs: int) -> dict[str, Any]:
    """Shot purity of each embedding."""
    torch.manual_seed(0)
    noise = simclr.build_random_encoder()
    result = {
        "pixels": purity(frames, [np.asarray(each.resize((16, 16))).ravel() for each in frames.thumbnails]),
        "untrained": purity(frames, simclr.embed(noise, frames.thumbnails, batch_size=64)),
    }
    simclr.train(noise, frames.thumbnails, epochs=epochs, batch_size=64, seed=0)
    result["simclr_random_init"] = purity(frames, simclr.embed(noise, frames.thumbnails, batch_size=64))
    encoder = simclr.build_encoder(detector)
    result["simclr_0_epochs"] = purity(frames, simclr.embed(encoder, frames.thumbnails, batch_size=64))
    start = time.monotonic()
    simclr.train(encoder, frames.thumbnails, epochs=epochs, batch_size=64, seed=0)
    result["simclr_s_per_epoch"] = (time.monotonic() - start) / max(1, epochs)
    result["simclr"] = purity(frames, simclr.embed(encoder, frames.thumbnails, batch_size=64))
    result["detector"] = purity(frames, frames.features)
    return result


def sweep(frames: Frames, detector: Detector, epochs: int) -> list[dict[str, Any]]:
    """Shot purity and time of SimCLR from the detector's backbone under other settings, one changed at a time."""
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
        embeddings = simclr.embed(encoder, frames.thumbnails, batch_size=64, recipe=recipe)
        rows.append({**vars(recipe), "purity": purity(frames, embeddings), "s_per_epoch": seconds})
    return rows


def lightly_network() -> simclr.Encoder:
    """The network that lightly-magic trains, in our loop."""
    from lightly.models import ResNetGenerator
    from lightly.models.batchnorm import get_norm_layer

    resnet = ResNetGenerator("resnet-18", 1)
    children = list(resnet.children())
    layers = [get_norm_layer(3, 0), *children[:-1], nn.Conv2d(children[-1].in_features, 32, 1)]
    return simclr.Encoder(nn.Sequential(*layers), torch.zeros(3), torch.full((3,), 255.0), "RGB")


def beside_lightly_magic(thumbnails: list[Image.Image]) -> dict[str, float]:
    """Seconds an epoch of lightly-magic and of our loop: same images, network, view size and batch size.

    Runs of different length are subtracted, so that start-up and the embedding at the end do not count.
    """
    recipe = simclr.SimCLRRecipe(input_size=64)

    def ours(epochs: int) -> None:
        simclr.train(lightly_network(), thumbnails, epochs=epochs, batch_size=64, seed=0, recipe=recipe)

    def theirs(epochs: int) -> None:
        options = [f"input_dir={fetch.FRAMES}", f"trainer.max_epochs={epochs}", "trainer.gpus=0", "pre_trained=False"]
        options += ["loader.batch_size=64", f"loader.num_workers={os.cpu_count()}"]
        command = [sys.executable, "-W", "ignore", "-c", "from lightly.cli.lightly_cli import entry; entry()"]
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([*command, *options], cwd=folder, check=True, capture_output=True)

    seconds = {}
    for name, train in (("ours", ours), ("lightly_magic", theirs)):
        spent = []
        for epochs in (1, 3):
            start = time.monotonic()
            train(epochs)
            spent.append(time.monotonic() - start)
        seconds[name] = (spent[1] - spent[0]) / 2
    return {
        "same_network_s_per_epoch": seconds["ours"],
        "lightly_magic_s_per_epoch": seconds["lightly_magic"],
        "speedup_over_lightly_magic": seconds["lightly_magic"] / seconds["ours"],
    }


def main() -> None:
    """Measures and prints."""
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
        comparison = beside_lightly_magic(all_frames[0].thumbnails)
        figures |= comparison
        print(tabulate(comparison.items(), floatfmt=".2f", tablefmt="plain"))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
