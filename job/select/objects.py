"""Diversity of objects: an image is worth the sum over its boxes of weight times distance to the nearest known box.

Known are the boxes of the labelled images and of the picks. A crowd of objects that are all known already is worth
little, and one new object on an ordinary street is worth much. The value only falls while images are picked, so that
the bounds of `job.select.shortlist` hold, and the picks are those of the definition.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from job.select.greedy import Centers, ExactDistances, Pick, choose_first, gather_centers, max_cosines
from job.select.passes import ArrayPass
from job.select.points import Array, Points, Vectors, find_distinct, to_unit_length
from job.select.shortlist import Rows, Shortlist, Worth, cosines, slack

# Without a known box, every box is as far away as unit vectors can be.
MAX_DISTANCE = 2.0
# As for scores: images without boxes can still be picked.
FLOOR = 0.05
_SHORTLIST_SHARE = 1 / 256
_MIN_SHORTLIST, _MAX_SHORTLIST = 256, 4096
_MAX_PRODUCTS = 1 << 22


@dataclass(frozen=True)
class Objects:
    """The boxes of all images, image after image.

    The factor of an image is (0.05 + 0.95 * sum(weight * distance)) ** strength. The distance is Euclidean, between
    features of unit length, to the nearest box of a labelled or picked image; 2 if there is none.

    Attributes:
        counts: (n,) number of boxes of each image.
        features: (m, d) finite, of any length.
        weights: (m,) finite and not negative.
        strength: Exponent of the factor.
    """

    counts: npt.NDArray[np.int64]
    features: npt.NDArray[np.floating]
    weights: Array
    strength: float = 1.0

    def sum_per_image(self, values: Array) -> Array:
        """(m,) values of the boxes → (n,) their sums, added up in the order of the boxes."""
        images = np.repeat(np.arange(len(self.counts)), self.counts)
        return np.bincount(images, weights=values, minlength=len(self.counts)).astype(np.float64)


def center(features: npt.NDArray[np.float16]) -> Vectors:
    """Subtracts the mean of all boxes: what they have in common would hide how they differ.

    Multiples of 2**-24 below 2**29 have exact sums in float64. So in half precision the mean does not depend on the
    order of the boxes, as long as no sum of a column exceeds that.
    """
    if len(features) == 0:
        return features.astype(np.float32)
    mean = features.sum(axis=0, dtype=np.float64) / len(features)
    result: Vectors = (features - mean).astype(np.float32)
    return result


def check_objects(objects: Objects, num_images: int) -> None:
    """Checks shapes and values.

    Raises:
        ValueError: If shapes do not match, or a value is not finite or is negative.
    """
    count = int(objects.counts.sum())
    if objects.counts.shape != (num_images,) or objects.counts.min(initial=0) < 0:
        raise ValueError(f"objects need one count of at least 0 per image: {num_images}, not {objects.counts.shape}")
    if objects.features.ndim != 2 or len(objects.features) != count or objects.weights.shape != (count,):
        raise ValueError(
            f"objects need {count} rows of features and {count} weights, as their counts say, not "
            f"{objects.features.shape} and {objects.weights.shape}"
        )
    if not np.isfinite(objects.features).all():
        raise ValueError("features of objects must be finite")
    if not ((objects.weights >= 0) & (objects.weights < np.inf)).all():
        raise ValueError("weights of objects must be finite and not negative")


def select_by_objects(
    points: Points,
    worth: Worth,
    objects: Objects,
    count: int,
    *,
    labelled: Sequence[int],
    elsewhere: Vectors,
    first: Array | None,
) -> list[Pick]:
    """Picks as `job.select.greedy.select_greedily` does, with the factor of the objects in the product.

    Args:
        points: (n, d) embeddings, of any length.
        worth: Values of the images without objects. Labelled and picked images become forbidden in `Worth.allowed`.
        objects: The boxes of the images.
        count: Number of images to pick.
        labelled: Rows of the labelled images.
        elsewhere: (k, d) of unit length, embeddings of labelled images that are not among the n. Their boxes are not
            known.
        first: (n,) values for the first pick if nothing is labelled, multiplied by the factor of the objects at a
            distance of 1; None for 1 everywhere.

    Returns:
        The picks, best first; fewer than `count` if no more images may be picked.
    """
    count = min(count, points.shape[0])
    known = _KnownBoxes(objects, labelled, count)
    centers = Centers(points.shape[1], len(labelled) + len(elsewhere) + count)
    centers.add(*gather_centers(points, labelled, elsewhere))
    worth.allowed[list(labelled)] = False
    picks: list[Pick] = []
    if len(centers) == 0:
        value = _evaluate(objects, np.ones(len(objects.weights)))
        factor = value**objects.strength
        start = choose_first(worth, factor if first is None else first * factor)
        if start is None or count == 0:
            return picks
        row = start[0]
        picks.append(Pick(index=row, value=start[1], distance=None, nearest=None, objects=float(value[row])))
        worth.allowed[row] = False
        centers.add(to_unit_length(points.rows([row])), [row])
        known.add(row)
    embedding_pass, bounded = ArrayPass(points), _BoundedWorth(**vars(worth), known=known)
    size = min(_MAX_SHORTLIST, max(_MIN_SHORTLIST, int(points.shape[0] * _SHORTLIST_SHARE)))
    while len(picks) < count:
        known.update_bounds()
        shortlist = embedding_pass.shortlist(centers.vectors, bounded, size)
        new_picks = _pick_from(shortlist, worth, known, centers, count - len(picks))
        picks += new_picks
        if len(shortlist.rows) < size:
            break  # the shortlist had every image that may be picked
        if not new_picks:
            size *= 8
    return picks


def _evaluate(objects: Objects, distance: Array) -> Array:
    """(m,) distances of the boxes → (n,) values of the images, before the strength."""
    return FLOOR + (1 - FLOOR) * objects.sum_per_image(objects.weights * distance)


class _KnownBoxes:
    """The boxes of labelled and picked images, and how near all boxes are to them.

    Attributes:
        objects: All boxes.
        vectors: (m, d) their features, of unit length.
        starts: (n + 1,) first box of each image.
        factor: (n,) upper bounds of the images' factors.
    """

    def __init__(self, objects: Objects, labelled: Sequence[int], count: int) -> None:
        self.objects, self.vectors = objects, to_unit_length(objects.features)
        self.starts = np.concatenate([[0], np.cumsum(objects.counts)])
        self.factor = np.full(len(objects.counts), np.inf)
        of_labelled = self.find_boxes(np.asarray(labelled, np.int64))
        of_labelled = of_labelled[find_distinct(self.vectors[of_labelled])]
        largest = np.sort(objects.counts)[::-1][:count].sum()
        self._centers = Centers(self.vectors.shape[1], len(of_labelled) + int(largest))
        self._centers.add(self.vectors[of_labelled], of_labelled)
        self._closest = np.full(len(self.vectors), -1, np.float32)
        self._num_merged = 0

    @property
    def centers(self) -> Vectors:
        return self._centers.vectors

    def find_boxes(self, images: Rows) -> Rows:
        """Rows of the boxes of some images, image after image."""
        return np.concatenate(
            [np.empty(0, np.int64), *(np.arange(self.starts[image], self.starts[image + 1]) for image in images)]
        )

    def add(self, image: int) -> None:
        """Adds the boxes of a picked image."""
        boxes = np.arange(self.starts[image], self.starts[image + 1])
        self._centers.add(self.vectors[boxes], boxes)

    def update_bounds(self) -> None:
        """Brings `factor` up to date."""
        new_centers = self.centers[self._num_merged :]
        if len(new_centers):
            step = max(1, _MAX_PRODUCTS // len(new_centers))
            for start in range(0, len(self.vectors), step):
                block = slice(start, start + step)
                cosine = max_cosines(self.vectors[block], new_centers)
                np.maximum(self._closest[block], cosine, out=self._closest[block])
        self._num_merged = len(self.centers)
        self.factor = _evaluate(self.objects, bound_distance(self._closest, 1, self.vectors.shape[1]))
        self.factor **= self.objects.strength


def bound_distance(closest: Vectors, sign: int, dimension: int) -> Array:
    """(m,) upper (sign 1) or lower (sign -1) bounds of distances, from cosines in single precision."""
    result: Array = np.sqrt(np.clip(2 - 2 * closest.astype(np.float64) + sign * slack(dimension), 0, MAX_DISTANCE**2))
    return result


@dataclass(frozen=True, kw_only=True)
class _BoundedWorth(Worth):
    """Upper bounds of the values: those without objects, times those of the objects' factors."""

    known: _KnownBoxes

    def evaluate(self, square: Array, rows: slice | Rows) -> Array:
        """See `Worth.evaluate`."""
        values = super().evaluate(square, rows)
        return np.where(values < 0, values, values * self.known.factor[rows])


def _pick_from(shortlist: Shortlist, worth: Worth, known: _KnownBoxes, centers: Centers, count: int) -> list[Pick]:
    """Picks from a shortlist as long as the best row is sure to be the best of all images."""
    rows, vectors = shortlist.rows, shortlist.vectors
    if len(rows) == 0:
        return []
    boxes = known.find_boxes(rows)
    listed_objects = Objects(
        known.objects.counts[rows], known.vectors[boxes], known.objects.weights[boxes], known.objects.strength
    )
    starts = np.concatenate([[0], np.cumsum(listed_objects.counts)])
    closest, near_boxes = max_cosines(vectors, centers.vectors), np.full(len(boxes), -1, np.float32)
    if len(known.centers):
        near_boxes = max_cosines(listed_objects.features, known.centers)
    weight = None if worth.weight is None else worth.weight[rows]
    listed = replace(worth, weight=weight, allowed=worth.allowed[rows])
    exact, exact_boxes = ExactDistances(vectors), ExactDistances(listed_objects.features)
    error, ranks, everything = slack(vectors.shape[1]), worth.get_ranks(rows), slice(None)
    dimension = listed_objects.features.shape[1]
    picks: list[Pick] = []
    while len(picks) < count and listed.allowed.any():
        upper, lower = (
            listed.evaluate(np.maximum(2 - 2 * closest.astype(np.float64) + sign * error, 0), everything)
            * _evaluate(listed_objects, bound_distance(near_boxes, sign, dimension)) ** listed_objects.strength
            for sign in (1, -1)
        )
        possible = upper >= max(0.0, lower.max())
        if not possible.any():
            break
        contenders = np.flatnonzero(possible)
        distance, nearest = exact.measure(contenders, centers.vectors)
        if (blocked := distance < worth.min_distance).any():
            listed.allowed[contenders[blocked]] = False
            worth.allowed[rows[contenders[blocked]]] = False
            continue
        of_objects = _measure(listed_objects, starts, exact_boxes, contenders, known.centers)
        values = distance**worth.strength
        if listed.weight is not None:
            values *= listed.weight[contenders]
        values *= of_objects**listed_objects.strength
        best = np.lexsort((ranks[contenders], -values))[0]
        row = int(contenders[best])
        bound, rank = shortlist.bound
        if (-values[best], ranks[row]) > (-bound, rank):
            break
        picks.append(
            Pick(
                index=int(rows[row]),
                value=float(values[best]),
                distance=float(distance[best]),
                nearest=int(centers.rows[nearest[best]]),
                objects=float(of_objects[best]),
            )
        )
        listed.allowed[row] = worth.allowed[rows[row]] = False
        own = slice(starts[row], starts[row + 1])
        known.add(int(rows[row]))
        if own.stop > own.start:
            np.maximum(near_boxes, max_cosines(listed_objects.features, known.vectors[boxes[own]]), out=near_boxes)
        centers.add(vectors[row : row + 1], rows[row : row + 1].tolist())
        np.maximum(closest, cosines(vectors, vectors[row : row + 1])[:, 0], out=closest)
    return picks


def _measure(objects: Objects, starts: Rows, exact: ExactDistances, images: Rows, centers: Vectors) -> Array:
    """(k,) exact values of the objects of some images, before the strength."""
    own = [np.arange(starts[image], starts[image + 1]) for image in images]
    boxes = np.concatenate([np.empty(0, np.int64), *own])
    distance = np.full(len(boxes), MAX_DISTANCE)
    if len(centers) and len(boxes):
        distance, _ = exact.measure(boxes, centers)
    chosen = Objects(objects.counts[images], objects.features[boxes], objects.weights[boxes])
    return _evaluate(chosen, distance)
