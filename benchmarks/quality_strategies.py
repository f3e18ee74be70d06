"""The strategies that `benchmarks.quality` compares: the product's, and peers' methods written from their papers.

Each is a function from a `View` of the pool and a number of images to the rows that it picks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.cluster import KMeans  # type: ignore[import-untyped]

from job import scores as formulas
from job.select import ArrayPoints, Objects, choose, select
from job.select.objects import CenteredPoints
from job.settings import Settings
from job.settings.mix import largest_share

RANDOM, DEFAULT = "random", "coral"


@dataclass(frozen=True)
class View:
    """What a strategy may know of a pool.

    Attributes:
        embeddings: (n, d) embeddings.
        boxes: Detections on the pool.
        features: (boxes, d) features of these boxes; None if the detector has none.
        labelled: Rows of the labelled images.
        seed: Seed of everything random.
    """

    embeddings: Any
    boxes: formulas.Boxes
    features: Any
    labelled: list[int]
    seed: int

    def score(self, name: str) -> Any:
        """(n,) a score of the product."""
        record = formulas.TABLE[name]
        return record.over_pool(record.join(self.boxes, record.contributions(self.boxes)))

    def unlabelled(self) -> Any:
        """(m,) rows of the images without labels."""
        return np.setdiff1d(np.arange(len(self.embeddings)), self.labelled)


Strategy = Callable[[View, int], list[int]]


def run_product(
    view: View, count: int, strategy: str, score: str, strength: float = 1.0, shuffle: int = 0
) -> list[int]:
    """Picks by the product's `select`; with scores that are shuffled among the images if `shuffle` is not 0."""
    scores = view.score(score)
    if shuffle:
        scores = np.random.default_rng([view.seed, shuffle]).permutation(scores)
    selection = select(
        view.embeddings,
        scores,
        count,
        strategy=strategy,
        score_strength=strength,
        labelled=view.labelled,
        seed=view.seed,
    )
    return [pick.index for pick in selection.picks]


def _use(strategy: str, score: str, strength: float = 1.0, shuffle: int = 0) -> Strategy:
    return lambda view, count: run_product(view, count, strategy, score, strength, shuffle)


def run_default(view: View, count: int) -> list[int]:
    """Picks as a run without settings of the selection does."""
    settings = Settings(input="-", output="-")
    score = largest_share(settings.ranking_scores)
    return run_product(view, count, settings.strategy.text, score, settings.score_strength)


def run_objects(view: View, count: int) -> list[int]:
    """Picks by the product's diversity of objects: coral, with a sum of entropies in which known objects count less."""
    weights = formulas.entropy(view.boxes.probabilities)
    features = CenteredPoints(ArrayPoints(np.asarray(view.features, np.float16)))
    objects = Objects(view.boxes.counts, features, weights, Settings(input="-", output="-").score_strength)
    selection = choose(view.embeddings, count, [], 1.0, objects=objects, labelled=view.labelled)
    return [pick.index for pick in selection.picks]


def run_zcore(view: View, count: int) -> list[int]:
    """Picks by ZCore (Griffin et al., https://arxiv.org/abs/2411.15349), for which labels do not count.

    A point is drawn in two random dimensions of the embedding, from the triangular distribution over minimum, median
    and maximum. The image nearest to it gains 1 (coverage). The others lose 1 together, in proportion to the fourth
    power of their nearness to that image (redundancy). Ten points are drawn per image. The paper shares the loss among
    the nearest 1,000 images: the fourth power makes the others negligible.
    """
    rng = np.random.default_rng([view.seed, 3])
    values = np.asarray(view.embeddings, np.float32)
    varying = np.flatnonzero(values.max(axis=0) > values.min(axis=0))
    low, middle, high = values.min(axis=0), np.median(values, axis=0), values.max(axis=0)
    scores = rng.uniform(size=len(values))
    for _ in range(10 * len(values)):
        pair = rng.choice(varying, 2, replace=False)
        plane = values[:, pair]
        nearest = int(np.abs(plane - rng.triangular(low[pair], middle[pair], high[pair])).sum(axis=1).argmin())
        scores[nearest] += 1
        distance = np.abs(plane - plane[nearest]).sum(axis=1).astype(np.float64)
        distance[nearest] = np.inf
        if distance.min() == 0:
            scores[distance.argmin()] -= 1
        else:
            penalty = (distance.min() / distance) ** 4
            scores -= penalty / penalty.sum()
    rows = view.unlabelled()
    return [int(row) for row in rows[np.argsort(-scores[rows], kind="stable")[:count]]]


def run_ofds(view: View, count: int) -> list[int]:
    """Picks in the manner of OFDS (Popp et al., https://arxiv.org/abs/2412.10032): objects of all classes, rare first.

    From the class with the fewest boxes to the most common one, the features of its boxes are clustered by k-means. Of
    each cluster without a box on a labelled or picked image, the box nearest to the centre gives its image. The
    clusters are as many as its share of the remaining budget and its boxes that are labelled or picked. The paper has
    boxes of Grounding DINO and features of SAM 2; here both are those of the detector.
    """
    image, features, classes = view.boxes.images, view.features, view.boxes.classes
    taken, picks = set(view.labelled), list[int]()
    order = np.argsort(np.bincount(classes, minlength=view.boxes.probabilities.shape[1] - 1), kind="stable")
    for position, label in enumerate(order):
        rows = np.flatnonzero(classes == label)
        share = -(-(count - len(picks)) // (len(order) - position))
        covered = sum(int(owner) in taken for owner in image[rows])
        if len(rows) == 0:
            continue
        clusters = KMeans(min(share + covered, len(rows)), n_init=1, max_iter=20, random_state=view.seed)
        group = clusters.fit_predict(features[rows])
        distance = np.linalg.norm(features[rows] - clusters.cluster_centers_[group], axis=1)
        for cluster in np.argsort(-np.bincount(group), kind="stable"):
            members = rows[group == cluster]
            if share > 0 and not any(int(owner) in taken for owner in image[members]):
                best = int(image[members[distance[group == cluster].argmin()]])
                taken.add(best)
                picks.append(best)
                share -= 1
    rest = np.random.default_rng([view.seed, 4]).permutation(np.setdiff1d(view.unlabelled(), picks))
    return [*picks, *rest.tolist()][:count]


STRATEGIES: dict[str, Strategy] = {
    RANDOM: lambda view, count: np.random.default_rng([view.seed, 5]).permutation(view.unlabelled())[:count].tolist(),
    DEFAULT: run_default,
    "coral_objects": run_objects,
    "coral, largest entropy": _use("coral", "uncertainty_entropy"),
    "coral, sum of entropies": _use("coral", "entropy_sum"),
    "coral, shuffled scores": _use("coral", "entropy_sum", 0.5, shuffle=6),
    "coreset": _use("coreset", "entropy_sum"),
    "typicality": _use("typicality", "entropy_sum"),
    "two_stage": _use("two_stage", "entropy_sum"),
    "active_learning": _use("active_learning", "entropy_sum"),
    "active_learning, largest entropy": _use("active_learning", "uncertainty_entropy"),
    "ZCore": run_zcore,
    "OFDS": run_ofds,
}
# Those that compare features of boxes.
WITH_FEATURES = ("coral_objects", "OFDS")
