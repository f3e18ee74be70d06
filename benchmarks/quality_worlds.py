"""The two worlds of `benchmarks.quality`: pools of images, and a detector that learns from any of them.

The street (`benchmarks.street`) has real frames and a frozen backbone; a training takes a fifth of a second. The digits
(`benchmarks.quality_detector`) have a detector that is trained from scratch and embeddings of SimCLR; a training takes
ten seconds, and the same images give another detector with another seed.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np

from benchmarks import quality_detector as digits
from benchmarks import street, street_head
from benchmarks.quality_strategies import View
from job import scores as formulas


@dataclass(frozen=True)
class Sizes:
    """Sizes of the experiment.

    Attributes:
        pool: Images of a pool.
        labelled: Images of it that are labelled at first.
        picks: Images to pick in each round.
        control: Numbers of random images besides the labelled ones, around `picks`.
        later_control: The same around twice `picks`, for the second round.
        draws: Random sets of each of these sizes.
        steps: Training steps of the digits' detector.
        embedding_steps: Training steps of the digits' embedding.
    """

    pool: int = 2000
    labelled: int = 40
    picks: int = 100
    control: tuple[int, ...] = (50, 100, 160, 240)
    later_control: tuple[int, ...] = (160, 240, 340, 440)
    draws: int = 3
    steps: int = 350
    embedding_steps: int = 100


class Trial(Protocol):
    """One pool with a few labelled images.

    Attributes:
        labelled: Rows of the labelled images.
        boxes: (n,) number of objects of each image.
        scenes: (n,) number of the scene of each image.
    """

    labelled: list[int]
    boxes: Any
    scenes: Any

    def learn(self, rows: list[int]) -> Any:
        """Trains a detector on some images of the pool."""

    def measure(self, detector: Any) -> float:
        """AP50 of a detector on other scenes."""

    def look(self, detector: Any, labelled: list[int]) -> View:
        """What is known of the pool if these images are labelled and the detector has learned from them."""


_STREET_POOLS = ("video", "shift", "curated")
_MIN_BOXES = 20  # of the labelled images, so that there is something to learn


@cache
def _load_street() -> tuple[street.Street, street_head.Trainer]:
    loaded = street.load()
    return loaded, street_head.Trainer(loaded)


class StreetTrial:
    """A pool of the street.

    Args:
        kind: "video" (runs of consecutive frames, rare classes, few images of dusk and fog), "shift" (the same, but all
            labelled images are clear) or "curated" (a scene per image; classes and conditions alike).
        seed: Seed of the pool and of the labelled images.
        sizes: Sizes of the experiment.
    """

    def __init__(self, kind: str, seed: int, sizes: Sizes) -> None:
        self._seed = seed
        self._street, self._trainer = _load_street()
        rng = np.random.default_rng([seed, _STREET_POOLS.index(kind)])
        parts = list(street.PARTS)
        rows = np.flatnonzero(self._street.part == parts.index("curated" if kind == "curated" else "video"))
        order = rng.permutation(np.unique(self._street.scene[rows]))
        place = np.empty(order.max() + 1, np.int64)
        place[order] = np.arange(len(order))
        self._rows = rows[np.argsort(place[self._street.scene[rows]], kind="stable")][: sizes.pool]
        self.boxes, self.scenes = self._street.signs[self._rows], self._street.scene[self._rows]
        allowed = np.flatnonzero((kind != "shift") | (self._street.condition[self._rows] == 0))
        while True:
            self.labelled: list[int] = rng.choice(allowed, sizes.labelled, replace=False).tolist()
            if self.boxes[self.labelled].sum() >= _MIN_BOXES:
                break
        self._test = np.flatnonzero(self._street.part == parts.index("test"))
        self._features, self._test_features = self._street.features[self._rows], _load_test_features()
        self._start: Any = None
        self._start = self.learn(self.labelled)

    def learn(self, rows: list[int]) -> Any:
        """See `Trial.learn`."""
        return self._trainer.train(self._rows[rows], self._start)

    def measure(self, detector: Any) -> float:
        """See `Trial.measure`."""
        found = street_head.detect(detector, self._test_features)
        return street_head.ap50(found, self._street.boxes[self._test], self._street.classes[self._test])

    def look(self, detector: Any, labelled: list[int]) -> View:
        """See `Trial.look`."""
        found = street_head.detect(detector, self._features)
        embeddings = self._street.embeddings[self._rows]
        return View(embeddings, found.as_boxes(), found.features[found.valid], labelled, self._seed)


@cache
def _load_test_features() -> Any:
    loaded = _load_street()[0]
    return loaded.features[loaded.part == list(street.PARTS).index("test")]


class DigitsTrial:
    """A pool of digits on synthetic backgrounds.

    Args:
        kind: A key of `quality_detector.KINDS`.
        seed: Seed of everything random except the test scenes.
        sizes: Sizes of the experiment.
    """

    def __init__(self, kind: str, seed: int, sizes: Sizes) -> None:
        self._seed, self._sizes = seed, sizes
        rng = np.random.default_rng(1000 + seed)
        self._pool = digits.make_scenes(rng, sizes.pool, digits.KINDS[kind])
        self._test = digits.make_scenes(np.random.default_rng(7), 600, digits.KINDS["iid_balanced"], test=True)
        self.labelled: list[int] = rng.choice(sizes.pool, sizes.labelled, replace=False).tolist()
        self.boxes = np.array([len(boxes) for boxes in self._pool.boxes])
        self.scenes = self._pool.scene
        self._embeddings = digits.embed(self._pool, seed, sizes.embedding_steps)

    def learn(self, rows: list[int]) -> Any:
        """See `Trial.learn`."""
        return digits.train(self._pool, rows, self._seed, self._sizes.steps)

    def measure(self, detector: Any) -> float:
        """See `Trial.measure`."""
        return digits.ap50(digits.detect(detector, self._test), self._test)

    def look(self, detector: Any, labelled: list[int]) -> View:
        """See `Trial.look`."""
        found = digits.detect(detector, self._pool)
        probabilities = formulas.normalize(found.probabilities)
        boxes = formulas.Boxes(found.counts, found.boxes, found.scores, found.classes, probabilities)
        return View(self._embeddings, boxes, None, labelled, self._seed)


WORLDS: dict[str, Any] = {"street": StreetTrial, "digits": DigitsTrial}
POOLS: dict[str, tuple[str, ...]] = {"street": _STREET_POOLS, "digits": tuple(digits.KINDS)}
