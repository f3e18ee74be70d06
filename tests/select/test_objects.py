"""Diversity of objects: against the definition, one pick at a time in float64."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.select import ArrayPoints, Factor, Objects, choose, objects, select
from job.select.points import to_unit_length
from job.spool import SpooledRows
from tests.select.test_exact import clusters, rows


def naive(
    embeddings: Any, weight: Any, found: Objects, count: int, a: float, labelled: list[int], min_distance: float = 0
) -> list[int]:
    """The definition: for each pick, all distances of all images and boxes again."""
    points, boxes = (to_unit_length(each).astype(np.float64) for each in (embeddings, features_of(found)))
    owner = np.repeat(np.arange(len(points)), found.counts)
    scale, known, picks = find_scale(found), list(labelled), list[int]()
    while len(picks) < count:
        distance = measure(points, points[known]) if known else np.ones(len(points))
        of_boxes = np.ones(len(boxes))
        if known:
            seen = boxes[np.isin(owner, known)]
            of_boxes = measure(boxes, seen) if len(seen) else np.full(len(boxes), 2.0)
        total = np.zeros(len(points))
        for box, image in enumerate(owner):
            total[image] += found.weights[box] / scale * of_boxes[box]
        value = distance ** (a if known else 0) * weight * (0.05 + 0.95 * total) ** found.strength
        value[known] = -1
        if known:
            value[distance < min_distance] = -1
        if value.max(initial=-1) < 0:
            break
        picks.append(int(value.argmax()))
        known.append(picks[-1])
    return picks


def features_of(found: Objects) -> Any:
    return found.features


def find_scale(found: Objects) -> float:
    """The 99th percentile of the summed weights, at least 1."""
    owner = np.repeat(np.arange(len(found.counts)), found.counts)
    sums = sorted(found.weights[owner == image].sum() for image in range(len(found.counts)))
    return float(max(1.0, sums[int(np.ceil(0.99 * (len(sums) - 1) - 1e-9))]))


def measure(vectors: Any, centers: Any) -> Any:
    return np.sqrt(((vectors[:, None] - centers[None]) ** 2).sum(axis=2)).min(axis=1)


def draw(seed: int, count: int, dimension: int) -> tuple[Any, Any, Objects]:
    rng = np.random.default_rng(seed)
    embeddings = clusters(seed, count, dimension)
    counts = rng.choice([0, 1, 2, 5], count, p=[0.3, 0.3, 0.3, 0.1])
    features = clusters(seed + 1, int(counts.sum()), 4) * rng.choice([0.1, 1, 9])
    features[rng.random(len(features)) < 0.05] = 0
    weights = rng.choice([0, 0.25, 1], len(features)) if seed % 2 else rng.random(len(features))
    return embeddings, rng.random(count), Objects(counts, features, weights, rng.choice([0.5, 1.0]))


@settings(max_examples=1500, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 60),
    st.integers(1, 20),
    st.sampled_from([0, 0.5, 1]),
    st.sampled_from([0, 0.3]),
    st.booleans(),
)
def test_the_picks_are_those_of_the_definition(
    seed: int, count: int, dimension: int, a: float, min_distance: float, with_labels: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "_MIN_SHORTLIST", 4)
        embeddings, weight, found = draw(seed, count, dimension)
        labelled = np.random.default_rng(seed).choice(count, min(count, 5), replace=False).tolist()
        labelled = labelled if with_labels else []
        chosen = choose(
            embeddings, 12, [Factor("weight", weight)], a, objects=found, labelled=labelled, min_distance=min_distance
        )
        assert rows(chosen) == naive(embeddings, weight, found, 12, a, labelled, min_distance)


def test_one_new_object_beats_a_crowd_of_known_ones() -> None:
    # Image 0 is labelled and shows a car; image 1 shows ten cars, image 2 one bicycle, image 3 nothing.
    car, bicycle = [1.0, 0.0], [0.0, 1.0]
    found = Objects(np.array([1, 10, 1, 0]), np.array([car] * 11 + [bicycle]), np.ones(12))
    first = choose(np.ones((4, 2)), 1, [], 0, objects=found, labelled=[0]).picks[0]
    # The sums of weights are 1, 10, 1 and 0: their 99th percentile is 10. The bicycle is sqrt(2) from the car.
    assert first.index == 2
    assert first.objects == pytest.approx(0.05 + 0.95 * 2**0.5 / 10)
    assert first.value == pytest.approx(first.objects)


def test_a_pick_names_the_box_that_made_it_worth_labelling() -> None:
    car, bicycle, bus = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.6, 0.8, 0.0]
    # Image 0 is labelled and shows a car; image 1 shows a car, a bicycle and a bus; image 2 the bus alone.
    found = Objects(np.array([1, 3, 1]), np.array([car, car, bicycle, bus, bus]), np.array([1, 1, 0.9, 1, 1.0]))
    first, second = choose(np.eye(3), 2, [], 1, objects=found, labelled=[0]).picks
    # 1 x 0, 0.9 x sqrt(2) = 1.27, 1 x sqrt(0.8) = 0.89.
    assert (first.index, first.box) == (1, 1)
    assert first.box_distance == pytest.approx(2**0.5)
    # That bus is known by now, so no box of image 2 contributes.
    assert (second.index, second.box, second.box_distance) == (2, None, None)
    assert second.objects == pytest.approx(0.05)
    alone = choose(np.eye(3), 1, [], 1, objects=found).picks[0]
    assert (alone.index, alone.box, alone.box_distance) == (1, 0, None)


def test_coral_objects_multiplies_distance_and_objects() -> None:
    embeddings, _, found = draw(7, 50, 5)
    picked = select(embeddings, None, 10, strategy="coral_objects", objects=found, labelled=[3], score_strength=0.5)
    halved = Objects(found.counts, found.features, found.weights, 0.5)
    assert rows(picked) == naive(embeddings, np.ones(50), halved, 10, 1, [3])
    with pytest.raises(ValueError, match="'coral_objects' needs objects: give the boxes of the images, or use coral"):
        select(embeddings, None, 1, strategy="coral_objects")


def test_features_that_are_read_in_blocks_give_the_same_picks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_IMAGES_AT_ONCE", 7)
    embeddings, weight, found = draw(11, 90, 6)
    spooled = SpooledRows(found.features.shape)
    spooled.write(0, np.asarray(found.features, np.float32))
    again = Objects(found.counts, spooled, found.weights, found.strength)
    expected = Objects(found.counts, np.asarray(found.features, np.float32), found.weights, found.strength)
    one, other = (
        choose(embeddings, 30, [Factor("weight", weight)], 1, objects=each, labelled=[2, 4]).picks
        for each in (again, expected)
    )
    assert one == other and len(one) == 30


def test_the_order_of_images_and_boxes_changes_no_pick() -> None:
    embeddings, weight, found = draw(4, 80, 6)
    order = np.random.default_rng(0).permutation(80)
    starts = np.concatenate([[0], np.cumsum(found.counts)])
    boxes = np.concatenate([np.arange(starts[image], starts[image + 1]) for image in order])
    shuffled = Objects(found.counts[order], features_of(found)[boxes], found.weights[boxes], found.strength)
    one = choose(embeddings, 20, [Factor("weight", weight)], 1, objects=found)
    other = choose(embeddings[order], 20, [Factor("weight", weight[order])], 1, objects=shuffled)
    assert rows(one) == [int(order[row]) for row in rows(other)]


def test_the_mean_is_exact_in_any_order() -> None:
    features = np.random.default_rng(1).normal(size=(1000, 8)).astype(np.float16) * np.float16(50)
    order = np.random.default_rng(2).permutation(1000)
    one, other = (objects.CenteredPoints(ArrayPoints(each)) for each in (features, features[order]))
    assert (one.rows(order.tolist()) == other.rows(range(1000))).all()
    assert one.rows(range(1000)).mean(axis=0) == pytest.approx(np.zeros(8), abs=1e-4)
    assert objects.CenteredPoints(ArrayPoints(features[:0])).rows([]).shape == (0, 8)


@pytest.mark.parametrize(
    ("counts", "features", "weights", "message"),
    [
        ([1, 1, 1], np.ones((3, 2)), np.ones(3), "one count of at least 0 per image: 2"),
        ([2, -1], np.ones((1, 2)), np.ones(1), "one count of at least 0"),
        ([1, 1], np.ones((3, 2)), np.ones(2), "2 rows of features and 2 weights"),
        ([1, 1], np.array([[1, np.nan], [1, 1]]), np.ones(2), "features of objects must be finite"),
        ([1, 1], np.ones((2, 2)), np.array([1, -1.0]), "not negative"),
    ],
)
def test_wrong_objects_are_refused(counts: list[int], features: Any, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose(np.ones((2, 2)), 1, [], 1, objects=Objects(np.array(counts), features, weights))
