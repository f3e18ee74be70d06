"""Does the selection pay? Trains a detector on the picked images, and compares it with one trained on random images.

`python -m benchmarks.quality [--json FILE]`. A detector is trained on 40 random images of a pool of 2,000. The job's
own `select` picks 100 more, using that detector's predictions on the pool. The detector is trained again from scratch
on all 140, and its AP50 on 600 other scenes is measured. `benchmarks.quality_detector` has the scenes, the detector and
the embedding. One pool is like video, with long runs of near-duplicates and rare classes; the other is curated.

Crowded images teach more, but cost more to label. So every strategy is compared twice: with the same number of random
images, and with random images that have at least as many boxes. For the random strategy, the second comparison is of
random with random, so it shows the noise level.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tabulate import tabulate

from benchmarks import quality_detector as world
from job.select import select

PROCESSES = 2

# The 0.975 quantiles of Student's t distribution with 1, 2, ... degrees of freedom.
T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


class Method(NamedTuple):
    """Arguments of `select`: the strategy, and the score it gets."""

    strategy: str
    score: str


RANDOM, RANDOM_BOXES = "random", "random_boxes"
STRATEGIES = {
    RANDOM: Method("random", "sum"),
    "active_learning": Method("active_learning", "sum"),
    "active_learning_max": Method("active_learning", "max"),
    "coreset": Method("coreset", "sum"),
    "coral": Method("coral", "sum"),
    "coral_max": Method("coral", "max"),
    "two_stage": Method("two_stage", "sum"),
    "typicality": Method("typicality", "sum"),
}
NAMES = (RANDOM, RANDOM_BOXES, *(name for name in STRATEGIES if name != RANDOM))


@dataclass(frozen=True)
class Sizes:
    """Sizes of the experiment: numbers of images and of training steps."""

    pool: int = 2000
    labelled: int = 40
    picks: int = 100
    test: int = 600
    steps: int = 350
    embedding_steps: int = 100


@dataclass(frozen=True)
class Outcome:
    """Result of a strategy with one seed.

    Attributes:
        ap50: AP50 of the detector that was trained on the picks.
        ap50_same_boxes: AP50 of the detector that was trained on random images with the same number of boxes.
        boxes: Number of boxes of the picks.
        scenes: Number of different scenes of the picks.
        pairs: Number of pairs of picks that show the same scene.
    """

    ap50: float
    ap50_same_boxes: float
    boxes: int
    scenes: int
    pairs: int


class Trial:
    """One pool, with a detector that was trained on a few random images of it.

    Args:
        kind: Kind of the pool, a key of `quality_detector.KINDS`.
        seed: Seed of everything random except the test scenes.
        sizes: Sizes of the experiment.
    """

    def __init__(self, kind: str, seed: int, sizes: Sizes) -> None:
        self._seed, self._sizes = seed, sizes
        rng = np.random.default_rng(1000 + seed)
        self.pool = world.make_scenes(rng, sizes.pool, world.KINDS[kind])
        balanced = world.KINDS["iid_balanced"]
        self._test = world.make_scenes(np.random.default_rng(7), sizes.test, balanced, test=True)
        self.labelled: list[int] = rng.choice(sizes.pool, sizes.labelled, replace=False).tolist()
        self._embeddings = world.embed(self.pool, seed, sizes.embedding_steps)
        detector = world.train(self.pool, self.labelled, seed, sizes.steps)
        self._scores = world.entropies(world.detect(detector, self.pool))
        self.ap50_before = world.ap50(world.detect(detector, self._test), self._test)
        self._ap50_of: dict[tuple[int, ...], float] = {}
        # Another order than that of the random strategy, which would otherwise be its own control.
        order = np.random.default_rng(2000 + seed).permutation(sizes.pool)
        self._order = [int(row) for row in order if row not in self.labelled]

    def pick(self, name: str) -> list[int]:
        """Picks rows by a strategy."""
        if name == RANDOM_BOXES:
            return self.draw_with_boxes(self.pool.count_boxes(self.pick("coral")))
        method = STRATEGIES[name]
        scores = self._scores[method.score]
        options: dict[str, Any] = {"strategy": method.strategy, "labelled": self.labelled, "seed": self._seed}
        return [pick.index for pick in select(self._embeddings, scores, self._sizes.picks, **options).picks]

    def draw_with_boxes(self, boxes: int) -> list[int]:
        """Takes random rows until they have at least this number of boxes, or the pool is used up."""
        reached = np.cumsum([self.pool.count_boxes([row]) for row in self._order])
        return self._order[: int(np.searchsorted(reached, boxes)) + 1]

    def ap50(self, picks: list[int]) -> float:
        """AP50 of a detector that is trained on the picks and the labelled images; equal picks are trained once."""
        key = tuple(picks)
        if key not in self._ap50_of:
            detector = world.train(self.pool, self.labelled + picks, self._seed + 50, self._sizes.steps)
            self._ap50_of[key] = world.ap50(world.detect(detector, self._test), self._test)
        return self._ap50_of[key]

    def measure(self, name: str) -> Outcome:
        """Picks by a strategy, trains, and measures."""
        picks = self.pick(name)
        boxes = self.pool.count_boxes(picks)
        same_boxes = self.draw_with_boxes(boxes)
        images_of_scene = np.bincount(self.pool.scene[picks])
        return Outcome(
            self.ap50(picks),
            self.ap50(same_boxes),
            boxes,
            scenes=int((images_of_scene > 0).sum()),
            pairs=int((images_of_scene * (images_of_scene - 1) // 2).sum()),
        )


def run(kind: str, seed: int, names: Sequence[str], sizes: Sizes) -> tuple[float, dict[str, Outcome]]:
    """Runs the strategies on one pool, with progress on stderr.

    Returns:
        AP50 before the selection, and the outcome of each strategy.
    """
    start = time.monotonic()

    def report(message: str) -> None:
        print(f"{kind}, seed {seed}, {time.monotonic() - start:.0f} s: {message}", file=sys.stderr, flush=True)

    trial = Trial(kind, seed, sizes)
    report(f"AP50 {trial.ap50_before:.3f} before the selection")
    outcomes = {}
    for name in names:
        outcome = outcomes[name] = trial.measure(name)
        report(f"{name}: AP50 {outcome.ap50:.3f}, random with {outcome.boxes} boxes {outcome.ap50_same_boxes:.3f}")
    return trial.ap50_before, outcomes


def run_all(
    kinds: Sequence[str], seeds: int, names: Sequence[str], sizes: Sizes
) -> tuple[dict[str, float], dict[str, list[dict[str, Outcome]]]]:
    """Runs the strategies on all pools, two seeds at a time.

    Returns:
        By kind of pool, the mean AP50 before the selection; and by kind of pool, the outcomes of each seed.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # numpy in the child processes reads it when they start
    context = multiprocessing.get_context("spawn")
    before, outcomes = {}, {}
    workers = min(PROCESSES, seeds)
    with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        running = {kind: [executor.submit(run, kind, seed, names, sizes) for seed in range(seeds)] for kind in kinds}
        for kind, futures in running.items():
            done = [future.result() for future in futures]
            before[kind] = statistics.mean(ap50 for ap50, _ in done)
            outcomes[kind] = [by_strategy for _, by_strategy in done]
    return before, outcomes


def half_interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % t-interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    return T_QUANTILES[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))


def summarize(by_seed: Sequence[dict[str, Outcome]]) -> dict[str, dict[str, Any]]:
    """Computes the figures of each strategy: means over the seeds, and differences that are paired by seed.

    Args:
        by_seed: For each seed, the outcome of each strategy, including `random`.

    Returns:
        By strategy: ``ap50``; ``mean_gain`` over the same number of random images, ``ci95`` (half the width of its 95 %
        t-interval) and ``wins`` (number of seeds with a gain above 0); the same over random images with the same number
        of boxes, as ``mean_gain_boxes``, ``ci95_boxes`` and ``wins_boxes``; ``boxes``, ``scenes``,
        ``near_duplicate_pairs``; and ``ap50_by_seed`` and ``ap50_same_boxes_by_seed``. A comparison of a strategy with
        itself is None.
    """
    figures = {}
    for name in by_seed[0]:
        of_strategy = [outcomes[name] for outcomes in by_seed]
        gains = [outcomes[name].ap50 - outcomes[RANDOM].ap50 for outcomes in by_seed]
        gains_boxes = [outcome.ap50 - outcome.ap50_same_boxes for outcome in of_strategy]
        figures[name] = {
            "ap50": statistics.mean(outcome.ap50 for outcome in of_strategy),
            **compare([] if name == RANDOM else gains, ""),
            **compare([] if name == RANDOM_BOXES else gains_boxes, "_boxes"),
            "boxes": statistics.mean(outcome.boxes for outcome in of_strategy),
            "scenes": statistics.mean(outcome.scenes for outcome in of_strategy),
            "near_duplicate_pairs": statistics.mean(outcome.pairs for outcome in of_strategy),
            "ap50_by_seed": [outcome.ap50 for outcome in of_strategy],
            "ap50_same_boxes_by_seed": [outcome.ap50_same_boxes for outcome in of_strategy],
        }
    return figures


def compare(gains: Sequence[float], suffix: str) -> dict[str, Any]:
    """Mean, half interval and number of wins of paired differences; None without differences."""
    mean = statistics.mean(gains) if gains else None
    wins = sum(gain > 0 for gain in gains) if gains else None
    return {f"mean_gain{suffix}": mean, f"ci95{suffix}": half_interval(gains), f"wins{suffix}": wins}


def show(kind: str, before: float, figures: dict[str, dict[str, Any]], seeds: int) -> None:
    """Prints the table of one pool."""

    def format_gain(strategy: dict[str, Any], suffix: str) -> str:
        if strategy[f"mean_gain{suffix}"] is None:
            return ""
        half = strategy[f"ci95{suffix}"]
        interval = "" if half is None else f" ± {half:.3f}"
        return f"{strategy[f'mean_gain{suffix}']:+.3f}{interval} ({strategy[f'wins{suffix}']}/{seeds})"

    rows = [["before the selection", f"{before:.3f}"]]
    for name, strategy in figures.items():
        counts = [f"{strategy[key]:.0f}" for key in ("boxes", "scenes", "near_duplicate_pairs")]
        gains = [format_gain(strategy, ""), format_gain(strategy, "_boxes")]
        rows.append([name, f"{strategy['ap50']:.3f}", *gains, *counts])
    headers = ["", "AP50", "over random", "over random with as many boxes", "boxes", "scenes", "near-duplicate pairs"]
    print(f"\n{kind}:\n\n{tabulate(rows, headers, disable_numparse=True)}")


def parse_seed_count(text: str) -> int:
    """Parses a number of seeds; there must be a quantile for it."""
    count = int(text)
    if not 1 <= count <= len(T_QUANTILES) + 1:
        raise argparse.ArgumentTypeError(f"must be 1 to {len(T_QUANTILES) + 1}")
    return count


def main() -> None:
    """Measures, prints tables, and writes the figures if --json is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seeds", type=parse_seed_count, default=5, metavar="N")
    parser.add_argument("--pools", nargs="+", choices=world.KINDS, default=list(world.KINDS))
    parser.add_argument("--strategies", nargs="+", choices=NAMES, default=list(NAMES), help="random is always included")
    arguments = parser.parse_args()
    names = [name for name in NAMES if name == RANDOM or name in arguments.strategies]
    start, sizes = time.monotonic(), Sizes()
    before, outcomes = run_all(arguments.pools, arguments.seeds, names, sizes)
    seconds = time.monotonic() - start
    pools = {kind: summarize(by_seed) for kind, by_seed in outcomes.items()}
    for kind, figures in pools.items():
        show(kind, before[kind], figures, arguments.seeds)
    print(
        f"\nMeans over {arguments.seeds} seeds; differences are paired by seed, with the 95 % t-interval of their mean "
        f"and the number of seeds with a gain. Boxes, scenes and pairs of the same scene are those of the "
        f"{sizes.picks} picks."
    )
    if arguments.json:
        written = {"pools": pools, "before": before, "seeds": arguments.seeds, "sizes": vars(sizes), "seconds": seconds}
        arguments.json.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
