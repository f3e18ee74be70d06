"""Does the selection pay? Trains a detector on the picked images, and compares it with detectors of random images.

`python -m benchmarks.quality [--json FILE]`. A detector is trained on 40 random images of a pool of 2,000. A strategy
picks 100 more by that detector's predictions on the pool. The detector is trained again on all 140, and its AP50 on
700 other scenes is measured (`benchmarks.quality_worlds`).

Crowded images teach more, but cost more to label. So every strategy is compared with random images of the same cost
twice, in images and in boxes. The control is a learning curve that is fitted to random sets of several sizes
(`benchmarks.learning_curve`). The strategy `random` is compared with it, too: its interval must hold 0.

Each seed has its own pool, labelled images and control, and all strategies share these. Seeds below 100 are for the
figures that are published: develop with `--first-seed 500`, so that they choose nothing.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tabulate import tabulate

from benchmarks.learning_curve import Curve, Point, estimate, fit
from benchmarks.quality_strategies import DEFAULT, RANDOM, STRATEGIES, WITH_FEATURES
from benchmarks.quality_worlds import POOLS, WORLDS, Sizes, Trial

PROCESSES = 2
IN_TWO_ROUNDS = (RANDOM, DEFAULT)
# Beside this many random images, the picks of the default are also compared directly, without a fitted curve.
MORE_RANDOM = (160, 240)


class Outcome(NamedTuple):
    """Result of a strategy with one seed, after one round or two.

    Attributes:
        point: Cost and AP50 of the detector that learned from the picks.
        per_image: AP50 over that of as many random images.
        per_box: AP50 over that of random images with as many boxes.
        boxes: Number of boxes of the picks.
        scenes: Number of scenes that the picks show.
    """

    point: Point
    per_image: float
    per_box: float
    boxes: int
    scenes: int


class SeedResult(NamedTuple):
    """Results of one seed on one pool.

    Attributes:
        before: AP50 before the selection.
        random: AP50 by number of random images besides the labelled ones, the mean of the draws.
        rounds: For one round and two, the outcome of each strategy.
    """

    before: float
    random: dict[int, float]
    rounds: list[dict[str, Outcome]]


class Experiment:
    """All strategies on one pool.

    Args:
        trial: The pool.
        seed: Seed of the random sets.
        sizes: Sizes of the experiment.
    """

    def __init__(self, trial: Trial, seed: int, sizes: Sizes) -> None:
        self._trial, self._sizes = trial, sizes
        rest = np.setdiff1d(np.arange(len(trial.boxes)), trial.labelled)
        counts = sorted({*sizes.control, *sizes.later_control})
        self.control: dict[int, list[Point]] = {count: [] for count in counts}
        for draw in range(sizes.draws):
            order = np.random.default_rng([seed, 99, draw]).permutation(rest).tolist()
            for count in counts:
                rows = trial.labelled + order[:count]
                self.control[count].append(self._evaluate(rows, trial.learn(rows)))
        self._curves = [self._fit(sizes.control), self._fit(sizes.later_control)]

    def _fit(self, counts: Iterable[int]) -> list[Curve]:
        points = [point for count in counts for point in self.control[count]]
        return [fit(points, "image"), fit(points, "box")]

    def _evaluate(self, rows: list[int], detector: Any) -> Point:
        return Point(len(rows), int(self._trial.boxes[rows].sum()), self._trial.measure(detector))

    def run(self, name: str) -> list[Outcome]:
        """Runs a strategy for one round, or for two rounds if it is one of `IN_TWO_ROUNDS`."""
        rows = self._trial.labelled
        detector = self._trial.learn(rows)
        outcomes = []
        for curves in self._curves[: 2 if name in IN_TWO_ROUNDS else 1]:
            picks = STRATEGIES[name](self._trial.look(detector, rows), self._sizes.picks)
            if len(set(picks) - set(rows)) != self._sizes.picks:
                raise RuntimeError(f"{name} picked an image twice, a labelled one, or too few")
            rows = rows + picks
            detector = self._trial.learn(rows)
            point = self._evaluate(rows, detector)
            shown = rows[len(self._trial.labelled) :]
            boxes, scenes = int(self._trial.boxes[shown].sum()), len(np.unique(self._trial.scenes[shown]))
            per_image, per_box = (curve.gain(point) for curve in curves)
            outcomes.append(Outcome(point, per_image, per_box, boxes, scenes))
        return outcomes


def run(world: str, kind: str, seed: int, names: Sequence[str], sizes: Sizes) -> SeedResult:
    """Runs the strategies on one pool, with progress on stderr."""
    start = time.process_time()
    trial = WORLDS[world](kind, seed, sizes)
    before = trial.measure(trial.learn(trial.labelled))
    experiment = Experiment(trial, seed, sizes)
    rounds: list[dict[str, Outcome]] = [{}, {}]
    for name in names:
        for outcomes, outcome in zip(rounds, experiment.run(name), strict=False):
            outcomes[name] = outcome
    random = {count: float(np.mean([point.ap50 for point in points])) for count, points in experiment.control.items()}
    print(f"{kind}, seed {seed}: {time.process_time() - start:.1f} CPU seconds", file=sys.stderr, flush=True)
    return SeedResult(before, random, rounds)


def run_all(
    world: str, kinds: Sequence[str], seeds: Sequence[int], names: Sequence[str], sizes: Sizes
) -> dict[str, list[SeedResult]]:
    """Runs the strategies on all pools, two seeds at a time; returns the results of each seed by kind of pool."""
    os.environ["OMP_NUM_THREADS"] = "1"  # numpy in the child processes reads it when they start
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, context, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        running = {kind: [executor.submit(run, world, kind, seed, names, sizes) for seed in seeds] for kind in kinds}
        return {kind: [future.result() for future in futures] for kind, futures in running.items()}


def summarize(results: Sequence[SeedResult]) -> dict[str, Any]:
    """Computes the figures of one pool: means over the seeds, and differences that are paired by seed.

    Returns:
        By strategy, those of `_describe`; and under ``two_rounds`` the same for the strategies that ran twice.
    """
    first, second = (
        {name: _describe([result.rounds[index] for result in results], name) for name in results[0].rounds[index]}
        for index in (0, 1)
    )
    if DEFAULT in first:
        first[DEFAULT]["over_more_random"] = {
            str(count): estimate([result.rounds[0][DEFAULT].point.ap50 - result.random[count] for result in results])
            for count in MORE_RANDOM
            if count in results[0].random
        }
    return {**first, "two_rounds": second}


def _describe(by_seed: Sequence[dict[str, Outcome]], name: str) -> dict[str, Any]:
    """Figures of one strategy: ``per_image`` and ``per_box`` over random, the same less the default's, and means."""
    own = [outcomes[name] for outcomes in by_seed]
    figures: dict[str, Any] = {
        "ap50": float(np.mean([outcome.point.ap50 for outcome in own])),
        "per_image": estimate([outcome.per_image for outcome in own]),
        "per_box": estimate([outcome.per_box for outcome in own]),
        "boxes": float(np.mean([outcome.boxes for outcome in own])),
        "scenes": float(np.mean([outcome.scenes for outcome in own])),
    }
    if name != DEFAULT and DEFAULT in by_seed[0]:
        pairs = [(outcomes[name], outcomes[DEFAULT]) for outcomes in by_seed]
        figures["over_default"] = {
            "per_image": estimate([mine.per_image - default.per_image for mine, default in pairs]),
            "per_box": estimate([mine.per_box - default.per_box for mine, default in pairs]),
        }
    return figures


def show(kind: str, figures: dict[str, Any]) -> None:
    """Prints the table of one pool."""

    def format_gain(gain: dict[str, Any]) -> str:
        interval = "" if gain["low"] is None else f" [{gain['low']:+.3f}, {gain['high']:+.3f}]"
        return f"{gain['mean']:+.3f}{interval}"

    rows = []
    for title, strategies in ((kind, figures), ("after a second round", figures["two_rounds"])):
        rows.append([f"{title}:"])
        for name, one in strategies.items():
            if name != "two_rounds":
                gains = [format_gain(one[key]) for key in ("per_image", "per_box")]
                beside = [format_gain(gain) for gain in one.get("over_default", {}).values()]
                counts = [f"{one[key]:.0f}" for key in ("boxes", "scenes")]
                rows.append([name, f"{one['ap50']:.3f}", *gains, *counts, *beside])
    headers = ["", "AP50", "per image", "per box", "boxes", "scenes", "per image over coral", "per box over coral"]
    print(f"\n{tabulate(rows, headers, disable_numparse=True)}")


def main() -> None:
    """Measures, prints tables, and writes the figures if --json is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--world", choices=WORLDS, default="street")
    parser.add_argument("--seeds", type=int, default=20, metavar="N")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N")
    parser.add_argument("--pools", nargs="+", metavar="POOL", help="all of the world by default")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, help="all that the world allows by default")
    arguments = parser.parse_args()
    kinds = arguments.pools or POOLS[arguments.world]
    if unknown := set(kinds) - set(POOLS[arguments.world]):
        parser.error(f"no pool {sorted(unknown)[0]!r} in this world: use {', '.join(POOLS[arguments.world])}")
    allowed = [name for name in STRATEGIES if arguments.world == "street" or name not in WITH_FEATURES]
    names = arguments.strategies or allowed
    start, sizes = time.monotonic(), Sizes()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    results = run_all(arguments.world, kinds, seeds, names, sizes)
    pools = {kind: summarize(by_seed) for kind, by_seed in results.items()}
    for kind, figures in pools.items():
        show(kind, figures)
    print(
        f"\nMeans over {len(seeds)} seeds. Gains are over random images of the same cost, in images or in boxes, with "
        f"the 95 % t-interval of their mean. Boxes and scenes are those of the picks."
    )
    if arguments.json:
        before = {kind: float(np.mean([result.before for result in by_seed])) for kind, by_seed in results.items()}
        random = {
            kind: {count: float(np.mean([result.random[count] for result in by_seed])) for count in by_seed[0].random}
            for kind, by_seed in results.items()
        }
        written = {
            "world": arguments.world,
            "seeds": [seeds.start, seeds.stop],
            "sizes": vars(sizes),
            "before": before,
            "random": random,
            "pools": pools,
            "seconds": time.monotonic() - start,
        }
        arguments.json.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
