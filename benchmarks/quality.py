"""Does the selection pay? How well a detector does once the picked images are labelled, beside images drawn at random.

`python -m benchmarks.quality [--json FILE]`: a detector is trained on 40 random images of a pool of 2,000, the job's
own `select` picks 100 more by what that detector says of the pool, and the detector is trained again from scratch on
all 140. What counts is its AP50 on 600 other scenes. `benchmarks.quality_detector` has the scenes, the detector and the
embedding. One pool is like video, with long runs of near-duplicates and rare classes; the other is curated.

Crowded images teach more, and cost more to label. So every strategy is compared twice: with as many random images, and
with random images until they have as many boxes as its picks. For the random picks themselves the second comparison is
one of chance with chance: what it shows is noise.
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


class Way(NamedTuple):
    """How `select` is called: its strategy, and which score it is given."""

    strategy: str
    score: str


RANDOM, RANDOM_BOXES = "random", "random_boxes"
STRATEGIES = {
    RANDOM: Way("random", "sum"),
    "active_learning": Way("active_learning", "sum"),
    "active_learning_max": Way("active_learning", "max"),
    "coreset": Way("coreset", "sum"),
    "coral": Way("coral", "sum"),
    "coral_max": Way("coral", "max"),
    "two_stage": Way("two_stage", "sum"),
    "typicality": Way("typicality", "sum"),
}
NAMES = (RANDOM, RANDOM_BOXES, *(name for name in STRATEGIES if name != RANDOM))


@dataclass(frozen=True)
class Sizes:
    """How large the experiment is."""

    pool: int = 2000
    labelled: int = 40
    picks: int = 100
    test: int = 600
    steps: int = 350
    embedding_steps: int = 100


@dataclass(frozen=True)
class Outcome:
    """What a strategy came to, with one seed.

    Attributes:
        ap50: Of the detector that learnt from the picks.
        ap50_same_boxes: Of the one that learnt from random images with as many boxes.
        boxes: That the picks have.
        scenes: How many different ones the picks show.
        pairs: Pairs of picks that show the same scene.
    """

    ap50: float
    ap50_same_boxes: float
    boxes: int
    scenes: int
    pairs: int


class Trial:
    """One pool, with a detector that learnt from a few random images of it.

    Args:
        kind: A key of `quality_detector.KINDS`.
        seed: Decides everything that is random, but for the test scenes.
        sizes: How large the experiment is.
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
        self._learnt: dict[tuple[int, ...], float] = {}
        # Not the order of the random strategy, which would then be its own control.
        order = np.random.default_rng(2000 + seed).permutation(sizes.pool)
        self._order = [int(row) for row in order if row not in self.labelled]

    def pick(self, name: str) -> list[int]:
        """The rows that a strategy picks."""
        if name == RANDOM_BOXES:
            return self.random_with_boxes(self.pool.count_boxes(self.pick("coral")))
        way = STRATEGIES[name]
        scores = self._scores[way.score]
        options: dict[str, Any] = {"strategy": way.strategy, "labelled": self.labelled, "seed": self._seed}
        return [pick.index for pick in select(self._embeddings, scores, self._sizes.picks, **options).picks]

    def random_with_boxes(self, boxes: int) -> list[int]:
        """Random rows until they have at least so many boxes, or the pool is at its end."""
        reached = np.cumsum([self.pool.count_boxes([row]) for row in self._order])
        return self._order[: int(np.searchsorted(reached, boxes)) + 1]

    def ap50(self, picks: list[int]) -> float:
        """Of a detector that learns from the picks and the images labelled before; the same picks are learnt once."""
        key = tuple(picks)
        if key not in self._learnt:
            detector = world.train(self.pool, self.labelled + picks, self._seed + 50, self._sizes.steps)
            self._learnt[key] = world.ap50(world.detect(detector, self._test), self._test)
        return self._learnt[key]

    def outcome(self, name: str) -> Outcome:
        """Selects and learns."""
        picks = self.pick(name)
        boxes = self.pool.count_boxes(picks)
        same_boxes = self.random_with_boxes(boxes)
        images_of_scene = np.bincount(self.pool.scene[picks])
        return Outcome(
            self.ap50(picks),
            self.ap50(same_boxes),
            boxes,
            scenes=int((images_of_scene > 0).sum()),
            pairs=int((images_of_scene * (images_of_scene - 1) // 2).sum()),
        )


def run(kind: str, seed: int, names: Sequence[str], sizes: Sizes) -> tuple[float, dict[str, Outcome]]:
    """The AP50 before the selection, and what each strategy came to; says on stderr how far it is."""
    start = time.monotonic()

    def say(what: str) -> None:
        print(f"{kind}, seed {seed}, {time.monotonic() - start:.0f} s: {what}", file=sys.stderr, flush=True)

    trial = Trial(kind, seed, sizes)
    say(f"AP50 {trial.ap50_before:.3f} before the selection")
    outcomes = {}
    for name in names:
        outcome = outcomes[name] = trial.outcome(name)
        say(f"{name}: AP50 {outcome.ap50:.3f}, random with {outcome.boxes} boxes {outcome.ap50_same_boxes:.3f}")
    return trial.ap50_before, outcomes


def run_all(
    kinds: Sequence[str], seeds: int, names: Sequence[str], sizes: Sizes
) -> tuple[dict[str, float], dict[str, list[dict[str, Outcome]]]]:
    """By kind of pool, the mean AP50 before the selection, and the outcomes of each seed; two seeds at a time."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for numpy in the processes, which read it when they start
    context = multiprocessing.get_context("spawn")
    before, outcomes = {}, {}
    workers = min(PROCESSES, seeds)
    with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        running = {kind: [executor.submit(run, kind, seed, names, sizes) for seed in range(seeds)] for kind in kinds}
        for kind, futures in running.items():
            done = [future.result() for future in futures]
            before[kind] = statistics.mean(ap50 for ap50, _ in done)
            outcomes[kind] = [each for _, each in done]
    return before, outcomes


def half_interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % t-interval of a mean; None of a single value."""
    if len(values) < 2:
        return None
    return T_QUANTILES[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))


def summary(by_seed: Sequence[dict[str, Outcome]]) -> dict[str, dict[str, Any]]:
    """The figures of each strategy: means over the seeds, and differences that are paired by seed.

    Args:
        by_seed: For each seed the outcome of each strategy, `random` among them.

    Returns:
        By strategy: ``ap50``; ``mean_gain`` over as many random images, ``ci95`` (half the width of its 95 %
        t-interval) and ``wins`` (of how many seeds it is above 0); likewise ``mean_gain_boxes``, ``ci95_boxes`` and
        ``wins_boxes`` over random images with as many boxes; ``boxes``, ``scenes``, ``near_duplicate_pairs``; and
        ``ap50_by_seed`` and ``ap50_same_boxes_by_seed``. What would compare a strategy with itself is None.
    """
    figures = {}
    for name in by_seed[0]:
        each = [outcomes[name] for outcomes in by_seed]
        gains = [outcomes[name].ap50 - outcomes[RANDOM].ap50 for outcomes in by_seed]
        gains_boxes = [outcome.ap50 - outcome.ap50_same_boxes for outcome in each]
        figures[name] = {
            "ap50": statistics.mean(outcome.ap50 for outcome in each),
            **compared([] if name == RANDOM else gains, ""),
            **compared([] if name == RANDOM_BOXES else gains_boxes, "_boxes"),
            "boxes": statistics.mean(outcome.boxes for outcome in each),
            "scenes": statistics.mean(outcome.scenes for outcome in each),
            "near_duplicate_pairs": statistics.mean(outcome.pairs for outcome in each),
            "ap50_by_seed": [outcome.ap50 for outcome in each],
            "ap50_same_boxes_by_seed": [outcome.ap50_same_boxes for outcome in each],
        }
    return figures


def compared(gains: Sequence[float], suffix: str) -> dict[str, Any]:
    """Mean, half interval and wins of paired differences; None where there are none."""
    mean = statistics.mean(gains) if gains else None
    wins = sum(gain > 0 for gain in gains) if gains else None
    return {f"mean_gain{suffix}": mean, f"ci95{suffix}": half_interval(gains), f"wins{suffix}": wins}


def show(kind: str, before: float, figures: dict[str, dict[str, Any]], seeds: int) -> None:
    """Prints the table of one pool."""

    def gain(each: dict[str, Any], suffix: str) -> str:
        if each[f"mean_gain{suffix}"] is None:
            return ""
        half = each[f"ci95{suffix}"]
        interval = "" if half is None else f" ± {half:.3f}"
        return f"{each[f'mean_gain{suffix}']:+.3f}{interval} ({each[f'wins{suffix}']}/{seeds})"

    rows = [["before the selection", f"{before:.3f}"]]
    for name, each in figures.items():
        counts = [f"{each[key]:.0f}" for key in ("boxes", "scenes", "near_duplicate_pairs")]
        rows.append([name, f"{each['ap50']:.3f}", gain(each, ""), gain(each, "_boxes"), *counts])
    headers = ["", "AP50", "over random", "over random of as many boxes", "boxes", "scenes", "near-duplicate pairs"]
    print(f"\n{kind}:\n\n{tabulate(rows, headers, disable_numparse=True)}")


def seed_count(text: str) -> int:
    """How many seeds, at most as many as there are quantiles for."""
    count = int(text)
    if not 1 <= count <= len(T_QUANTILES) + 1:
        raise argparse.ArgumentTypeError(f"must be 1 to {len(T_QUANTILES) + 1}")
    return count


def main() -> None:
    """Measures, prints tables, and writes the figures when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--seeds", type=seed_count, default=5, metavar="N")
    parser.add_argument("--pools", nargs="+", choices=world.KINDS, default=list(world.KINDS))
    parser.add_argument("--strategies", nargs="+", choices=NAMES, default=list(NAMES), help="random is always there")
    arguments = parser.parse_args()
    names = [name for name in NAMES if name == RANDOM or name in arguments.strategies]
    start, sizes = time.monotonic(), Sizes()
    before, outcomes = run_all(arguments.pools, arguments.seeds, names, sizes)
    seconds = time.monotonic() - start
    pools = {kind: summary(by_seed) for kind, by_seed in outcomes.items()}
    for kind, figures in pools.items():
        show(kind, before[kind], figures, arguments.seeds)
    print(
        f"\nMeans over {arguments.seeds} seeds; differences are paired by seed, with the 95 % t-interval of their mean "
        f"and in how many seeds they are above 0. The {sizes.picks} picks have so many boxes, show so many scenes, and "
        "hold so many pairs of the same scene."
    )
    if arguments.json:
        written = {"pools": pools, "before": before, "seeds": arguments.seeds, "sizes": vars(sizes), "seconds": seconds}
        arguments.json.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
