"""Compares the selection by shortened features (`job.detect.projection`) with that by whole ones.

    python -m benchmarks.projection

The pools are the demo's frames (1,024 numbers each), and made-up features of 2,048 that are never negative, as after a
ReLU: one pool in 20 clusters, and one without any structure. Printed are the middle 90 % of the ratios of
distances, how many of the picks are the same, and the mean distance of all images to the nearest pick, measured in
the whole features and divided by that of the picks by whole features.
"""

import argparse
import json
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tabulate import tabulate

from demo import fetch
from demo.run import environment
from job import logs
from job.detect import model, runner
from job.detect.projection import IMAGE_SIZE, Projection
from job.parts import pool as pools
from job.select import coverage, select
from job.settings import Settings
from job.storage import Listing
from job.storage.local import LocalFolder

_PICKS = 20
_STRATEGIES = ("coral", "coreset", "typicality")

Floats = npt.NDArray[np.float32]


def read_demo() -> tuple[Floats, npt.NDArray[np.float64]]:
    """The features of the demo's frames as the map step makes them without a projection, and their scores."""
    variables = environment()
    detector = model.build(
        Settings(input="", output="", model=variables["CORAL_MODEL"], weights=variables["CORAL_WEIGHTS"])
    )
    with tempfile.TemporaryDirectory() as folder:
        source, output = LocalFolder(str(fetch.FRAMES)), LocalFolder(folder)
        listing = Listing.from_entries(source.list())
        whole = replace(detector, projection="")
        runner.predict(listing, source, output, whole, set(), batch_size=1, part_size=512, stop=threading.Event())
        pool = pools.load(output, listing)
    assert pool.features is not None
    return pool.features.read(0, len(listing)), pool.scores["uncertainty_entropy"]


def make_features(clusters: int, images: int = 2000) -> tuple[Floats, npt.NDArray[np.float64]]:
    """Made-up features in so many clusters, each of a ninth of the variance between them; and random scores."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((clusters, 2048))
    points = centers[rng.integers(0, clusters, images)] + rng.standard_normal((images, 2048)) / 3
    return np.maximum(points, 0).astype(np.float32), rng.random(images)


def _spread(features: Floats) -> npt.NDArray[np.float64]:
    some = features[: 1 << 9].astype(np.float64)
    some /= np.linalg.norm(some, axis=1, keepdims=True)
    squares = np.maximum(2 - 2 * some @ some.T, 0)
    distances: npt.NDArray[np.float64] = np.sqrt(squares[np.triu_indices(len(some), 1)])
    return distances


def compare(features: Floats, scores: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Compares distances and picks of whole and shortened features."""
    short = Projection(IMAGE_SIZE).shorten(torch.from_numpy(features)).float().numpy()
    before, after = _spread(features), _spread(short)
    ratios = after[before > 0] / before[before > 0]
    result: dict[str, Any] = {"ratio_5": np.quantile(ratios, 0.05), "ratio_95": np.quantile(ratios, 0.95)}
    for strategy in _STRATEGIES:
        picks = [
            [pick.index for pick in select(points, scores, _PICKS, strategy=strategy).picks]
            for points in (features, short)
        ]
        reach = [coverage(features, rows)[0].mean() for rows in picks]
        result[f"same_{strategy}"] = len(set(picks[0]) & set(picks[1]))
        result[f"reach_{strategy}"] = reach[1] / reach[0]
    return {name: round(float(value), 4) for name, value in result.items()}


def main() -> None:
    """Prints a table, and writes the figures to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    path = parser.parse_args().json
    logs.configure("text")
    fetch.fetch()
    pools_by_name = {
        "demo, 250 frames": read_demo(),
        "2,000 in 20 clusters": make_features(20),
        "2,000 without clusters": make_features(2000),
    }
    results = {name: compare(*pool) for name, pool in pools_by_name.items()}
    rows = [
        [
            name,
            f"{result['ratio_5']:.2f} to {result['ratio_95']:.2f}",
            *(f"{result[f'same_{each}']:.0f}, {result[f'reach_{each}']:.3f}" for each in _STRATEGIES),
        ]
        for name, result in results.items()
    ]
    print(tabulate(rows, ["pool", "distances", *_STRATEGIES], tablefmt="github"))
    if path:
        path.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
