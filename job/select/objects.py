"""Diversity of objects: an image is worth the sum over its boxes of weight times distance to the nearest known box.

Known are the boxes of the labelled images and of the picks. A crowd of objects that are all known already is worth
little, and one new object on an ordinary street is worth much. The value only falls while images are picked, so that
the bounds of `job.select.shortlist` hold, and the picks are those of the definition.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from job.select.apart import Apart, Forbidden, find_forbidden
from job.select.greedy import Centers, ExactDistances, Pick, gather_centers, max_cosines
from job.select.passes import ArrayPass
from job.select.points import Array, ArrayPoints, Points, Vectors, find_distinct, to_unit_length
from job.select.shortlist import Rows, Shortlist, Worth, cosines, slack

# Without a known box, every box is as far away as unit vectors can be.
MAX_DISTANCE = 2.0
# As for scores: images without boxes can still be picked.
FLOOR = 0.05
_SHORTLIST_SHARE = 1 / 256
_MIN_SHORTLIST, _MAX_SHORTLIST = 512, 4096
_MAX_PRODUCTS = 1 << 22
_IMAGES_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Objects:
    """The boxes of all images, image after image.

    The factor of an image is (0.05 + 0.95 * sum(weight * distance)) ** strength. The distance is Euclidean, between
    features of unit length, to the nearest box of a labelled or picked image; 2 if there is none.

    Attributes:
        counts: (n,) number of boxes of each image.
        features: (m, d) finite, of any length: an array, or `Points` for features that are larger than memory.
        weights: (m,) finite and not negative.
        strength: Exponent of the factor.
    """

    counts: npt.NDArray[np.int64]
    features: npt.NDArray[np.floating] | Points
    weights: Array
    strength: float = 1.0

    @property
    def points(self) -> Points:
        """The features, readable in blocks."""
        return self.features if isinstance(self.features, Points) else ArrayPoints(self.features)

    def sum_weights(self) -> Array:
        """(n,) sums of the weights of each image."""
        result = np.empty(len(self.counts))
        for images, boxes in self.blocks():
            result[images] = _sum_per_image(self.counts[images], self.weights[boxes])
        return result

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Yields some images, and their boxes."""
        end = 0
        for start in range(0, len(self.counts), _IMAGES_AT_ONCE):
            images = slice(start, start + _IMAGES_AT_ONCE)
            begin, end = end, end + int(self.counts[images].sum())
            yield images, slice(begin, end)


class CenteredPoints:
    """Features without the mean of them all: what they have in common would hide how they differ.

    Multiples of 2**-24 below 2**29 have exact sums in float64. So in half precision the mean does not depend on the
    order of the boxes, as long as no sum of a column exceeds that.

    Args:
        points: (m, d) features in half precision.
    """

    def __init__(self, points: Points) -> None:
        self._points, self.shape = points, points.shape
        total = np.zeros(points.shape[1])
        for _, block in points.blocks():
            total += block.sum(axis=0, dtype=np.float64)
        self._mean = total / max(1, points.shape[0])

    def blocks(self) -> Iterator[tuple[int, Vectors]]:
        """Yields the index of the first row of each block, and the rows of the block."""
        for start, block in self._points.blocks():
            yield start, self._center(block)

    def rows(self, indices: Sequence[int]) -> Vectors:
        """Returns some rows, in the order of the indices."""
        return self._center(self._points.rows(indices))

    def _center(self, features: npt.NDArray[np.floating]) -> Vectors:
        result = features.astype(np.float64)  # before the difference, since numpy mixes types slowly
        result -= self._mean
        return result.astype(np.float32)


def check_objects(objects: Objects, num_images: int) -> None:
    """Checks shapes and values.

    Raises:
        ValueError: If shapes do not match, or a value is not finite or is negative.
    """
    count = int(objects.counts.sum())
    if objects.counts.shape != (num_images,) or objects.counts.min(initial=0) < 0:
        raise ValueError(f"objects need one count of at least 0 per image: {num_images}, not {objects.counts.shape}")
    if len(objects.features.shape) != 2 or objects.features.shape[0] != count or objects.weights.shape != (count,):
        raise ValueError(
            f"objects need {count} rows of features and {count} weights, as their counts say, not "
            f"{objects.features.shape} and {objects.weights.shape}"
        )
    if not all(np.isfinite(block).all() for _, block in objects.points.blocks()):
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
    apart: Apart | None = None,
) -> list[Pick]:
    """Picks as `job.select.greedy.select_greedily` does, with the factor of the objects in the product.

    Args:
        points: (n, d) embeddings, of any length.
        worth: Values of the images without objects; that for the first pick is multiplied by the factor of the objects
            at a distance of 1. Labelled and picked images become forbidden in `Worth.allowed`.
        objects: The boxes of the images.
        count: Number of images to pick.
        labelled: Rows of the labelled images.
        elsewhere: (k, d) of unit length, embeddings of labelled images that are not among the n. Their boxes are not
            known.
        apart: What else picks keep a distance in; None for nothing.

    Returns:
        The picks, best first; fewer than `count` if no more images may be picked.
    """
    count = min(count, points.shape[0])
    known = _KnownBoxes(objects, labelled, count)
    embedding_pass = ArrayPass(points, _BoundedWorth(**vars(worth), known=known))
    centers = Centers(points.shape[1], len(labelled) + len(elsewhere) + count)
    centers.add(*gather_centers(embedding_pass.read(labelled), labelled, elsewhere, points.shape[0]))
    forbidden = find_forbidden(labelled, apart)
    picks: list[Pick] = []
    if len(centers) == 0:
        value = FLOOR + (1 - FLOOR) * objects.sum_weights()
        factor = value**objects.strength
        start = replace(worth, first=factor if worth.first is None else worth.first * factor).choose_first()
        if start is None or count == 0:
            return picks
        row = start[0]
        box = _find_best(objects.weights[known.slice_boxes(row)])
        picks.append(Pick(index=row, value=start[1], distance=None, nearest=None, objects=float(value[row]), box=box))
        forbidden = find_forbidden([row], apart)
        centers.add(embedding_pass.read([row]), [row])
        known.add(row)
    size = min(_MAX_SHORTLIST, max(_MIN_SHORTLIST, int(points.shape[0] * _SHORTLIST_SHARE)))
    num_told = 0
    while len(picks) < count:
        known.update_bounds()
        shortlist = embedding_pass.shortlist(centers.vectors[num_told:], forbidden, size)
        num_told = len(centers)
        new_picks, forbidden = _pick_from(shortlist, known, centers, count - len(picks), apart)
        picks += new_picks
        if len(shortlist.rows) < size:
            break  # the shortlist had every image that may be picked
        if not new_picks:
            size *= 8
    return picks


def _sum_per_image(counts: Rows, values: Array) -> Array:
    """(m,) values of the boxes → (n,) their sums per image, added up in the order of the boxes."""
    images = np.repeat(np.arange(len(counts)), counts)
    return np.bincount(images, weights=values, minlength=len(counts)).astype(np.float64)


def _evaluate(counts: Rows, weights: Array, distance: Array) -> Array:
    """(m,) weights and distances of the boxes → (n,) values of the images, before the strength."""
    return FLOOR + (1 - FLOOR) * _sum_per_image(counts, weights * distance)


def _find_best(values: Array) -> int | None:
    """Position of the largest value above 0; None if there is none."""
    return int(values.argmax()) if values.any() else None


class _KnownBoxes:
    """The boxes of labelled and picked images, and how near all boxes are to them.

    Attributes:
        objects: All boxes.
        starts: (n + 1,) first box of each image.
        factor: (n,) upper bounds of the images' factors.
    """

    def __init__(self, objects: Objects, labelled: Sequence[int], count: int) -> None:
        self.objects, self._points = objects, objects.points
        self.starts = np.concatenate([[0], np.cumsum(objects.counts)])
        self.factor = np.full(len(objects.counts), np.inf)
        of_labelled = self.find_boxes(np.asarray(labelled, np.int64))
        vectors = self.read(of_labelled)
        distinct = find_distinct(vectors)
        largest = np.sort(objects.counts)[::-1][:count].sum()
        self._centers = Centers(self._points.shape[1], len(distinct) + int(largest))
        self._centers.add(vectors[distinct], of_labelled[distinct])
        self._closest = np.full(self._points.shape[0], -1, np.float32)
        self._num_merged = 0

    @property
    def centers(self) -> Vectors:
        return self._centers.vectors

    def slice_boxes(self, image: int) -> slice:
        """The boxes of an image."""
        return slice(int(self.starts[image]), int(self.starts[image + 1]))

    def find_boxes(self, images: Rows) -> Rows:
        """Rows of the boxes of some images, image after image."""
        counts = self.objects.counts[images]
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        result: Rows = np.repeat(self.starts[images], counts) + offsets
        return result

    def read(self, boxes: Rows) -> Vectors:
        """Features of some boxes, of unit length."""
        return to_unit_length(self._points.rows(boxes.tolist()))

    def add(self, image: int) -> Vectors:
        """Adds the boxes of a picked image, and returns their features, of unit length."""
        boxes = np.arange(self.starts[image], self.starts[image + 1])
        vectors = self.read(boxes)
        self._centers.add(vectors, boxes)
        return vectors

    def update_bounds(self) -> None:
        """Brings `factor` up to date."""
        new_centers = self.centers[self._num_merged :]
        if len(new_centers):
            for start, block in self._points.blocks():
                vectors, closest = to_unit_length(block), self._closest[start : start + len(block)]
                step = max(1, _MAX_PRODUCTS // len(new_centers))
                for begin in range(0, len(vectors), step):
                    some = slice(begin, begin + step)
                    np.maximum(closest[some], max_cosines(vectors[some], new_centers), out=closest[some])
        self._num_merged = len(self.centers)
        for images, boxes in self.objects.blocks():
            distance = bound_distance(self._closest[boxes], 1, self._points.shape[1])
            self.factor[images] = _evaluate(self.objects.counts[images], self.objects.weights[boxes], distance)
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


def _pick_from(
    shortlist: Shortlist, known: _KnownBoxes, centers: Centers, count: int, apart: Apart | None
) -> tuple[list[Pick], Rows]:
    """Picks as `job.select.greedy` does from a shortlist; returns the picks, and the rows that become forbidden."""
    rows, vectors, listed = shortlist.rows, shortlist.vectors, shortlist.worth
    forbidden = Forbidden(listed.allowed, rows, apart)
    if len(rows) == 0:
        return [], forbidden.rows
    boxes, strength = known.find_boxes(rows), known.objects.strength
    counts, weights, features = known.objects.counts[rows], known.objects.weights[boxes], known.read(boxes)
    starts = np.concatenate([[0], np.cumsum(counts)])
    closest, near_boxes = max_cosines(vectors, centers.vectors), np.full(len(boxes), -1, np.float32)
    if len(known.centers):
        near_boxes = max_cosines(features, known.centers)
    exact, exact_boxes = ExactDistances(vectors), ExactDistances(features)
    error, ranks, everything = slack(vectors.shape[1]), listed.get_ranks(np.arange(len(rows))), slice(None)
    dimension = features.shape[1]
    picks: list[Pick] = []
    while len(picks) < count and listed.allowed.any():
        upper, lower = (
            listed.evaluate(np.maximum(2 - 2 * closest.astype(np.float64) + sign * error, 0), everything)
            * _evaluate(counts, weights, bound_distance(near_boxes, sign, dimension)) ** strength
            for sign in (1, -1)
        )
        possible = upper >= max(0.0, lower.max())
        if not possible.any():
            break
        contenders = np.flatnonzero(possible)
        distance, nearest = exact.measure(contenders, centers.vectors)
        if (blocked := distance < listed.min_distance).any():
            forbidden.add(contenders[blocked])
            continue
        own_boxes = [np.arange(starts[image], starts[image + 1]) for image in contenders]
        of_boxes = _measure(exact_boxes, own_boxes, known.centers)
        worth_of_boxes = weights[np.concatenate(own_boxes)] * of_boxes
        of_objects = FLOOR + (1 - FLOOR) * _sum_per_image(counts[contenders], worth_of_boxes)
        values = distance**listed.strength
        if listed.weight is not None:
            values *= listed.weight[contenders]
        values *= of_objects**strength
        best = np.lexsort((ranks[contenders], -values))[0]
        row = int(contenders[best])
        bound, rank = shortlist.bound
        if (-values[best], ranks[row]) > (-bound, rank):
            break
        own = np.flatnonzero(np.repeat(np.arange(len(contenders)), counts[contenders]) == best)
        box = _find_best(worth_of_boxes[own])
        picks.append(
            Pick(
                index=int(rows[row]),
                value=float(values[best]),
                distance=float(distance[best]),
                nearest=int(centers.rows[nearest[best]]),
                objects=float(of_objects[best]),
                box=box,
                box_distance=None if box is None or not len(known.centers) else float(of_boxes[own[box]]),
            )
        )
        forbidden.add_pick(row)
        new = known.add(int(rows[row]))
        if len(new):
            np.maximum(near_boxes, max_cosines(features, new), out=near_boxes)
        centers.add(vectors[row : row + 1], rows[row : row + 1].tolist())
        np.maximum(closest, cosines(vectors, vectors[row : row + 1])[:, 0], out=closest)
    return picks, forbidden.rows


def _measure(exact: ExactDistances, boxes: Sequence[Rows], centers: Vectors) -> Array:
    """(m,) exact distances of the boxes of some images, image after image."""
    rows = np.concatenate(boxes)
    if len(centers) and len(rows):
        return exact.measure(rows, centers)[0]
    return np.full(len(rows), MAX_DISTANCE)
