"""What `benchmarks.quality` measures with: scenes, AP50, the control, and the strategies of its own."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

from benchmarks import learning_curve, quality, quality_strategies, quality_worlds, street, street_head
from benchmarks import quality_detector as digits
from benchmarks.learning_curve import Point
from benchmarks.quality_strategies import WITH_FEATURES
from job import scores as formulas

HERE, THERE = [0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]
Found = list[list[tuple[list[float], float, int]]]


def of_digits(found: Found, boxes: list[list[list[float]]], classes: list[list[int]]) -> float:
    flat = [row for image in found for row in image]
    corners = np.array([box for box, _, _ in flat], np.float32).reshape(-1, 4)
    scores, labels = np.array([each[1] for each in flat]), np.array([each[2] for each in flat], int)
    counts = np.array([len(image) for image in found])
    scenes = digits.Scenes(
        np.zeros((len(boxes), 1, digits.SIZE, digits.SIZE), np.float32),
        [np.array(each, np.float32) for each in boxes],
        [np.array(each) for each in classes],
        np.arange(len(boxes)),
    )
    return digits.ap50(digits.Detections(counts, corners, scores, labels, np.zeros((len(flat), 11))), scenes)


def of_street(found: Found, boxes: list[list[list[float]]], classes: list[list[int]]) -> float:
    padded = street_head.Detections(
        np.zeros((len(found), 12)), np.zeros((len(found), 12), int), np.zeros((len(found), 12, 4)), None, None
    )
    for image, rows in enumerate(found):
        for rank, (box, score, label) in enumerate(rows):
            padded.boxes[image, rank], padded.scores[image, rank], padded.classes[image, rank] = box, score, label
    true_boxes, true_classes = np.zeros((len(boxes), 8, 4)), np.full((len(boxes), 8), -1)
    for image, (of_image, labels) in enumerate(zip(boxes, classes, strict=True)):
        true_boxes[image, : len(labels)], true_classes[image, : len(labels)] = of_image, labels
    return street_head.ap50(padded, true_boxes, true_classes)


@pytest.mark.parametrize("ap50", [of_digits, of_street])
@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([[(HERE, 0.9, 3), (THERE, 0.8, 5)], [(HERE, 0.7, 3)]], 1.0),
        ([[], []], 0.0),
        ([[(HERE, 0.9, 5), (THERE, 0.8, 3)], []], 0.0),  # of the wrong classes
        ([[(HERE, 0.9, 3)], []], 0.25),  # half of one class, and nothing of the other
        # A second box on an object is wrong: precision is 1 at half of the class, and 2 of 3 at all of it.
        ([[(HERE, 0.9, 3), (HERE, 0.8, 3)], [(HERE, 0.7, 3)]], (0.5 + 0.5 * 2 / 3) / 2),
        # A wrong box that is less sure than all right ones costs nothing.
        ([[(HERE, 0.9, 3), (THERE, 0.1, 3)], [(HERE, 0.7, 3)]], 0.5),
        # The envelope: of 1/2 and 2/3, the higher counts for both.
        ([[(THERE, 0.9, 3), (HERE, 0.8, 3)], [(HERE, 0.7, 3)]], (2 / 3) / 2),
        ([[([0.0, 0.0, 10.0, 5.1], 0.9, 3)], [([0.0, 0.0, 10.0, 4.9], 0.7, 3)]], 0.25),  # overlaps of 0.51 and 0.49
    ],
)
def test_ap50(ap50: Any, found: Found, expected: float) -> None:
    assert ap50(found, [[HERE, THERE], [HERE]], [[3, 5], [3]]) == pytest.approx(expected)


@pytest.mark.parametrize("kind", digits.KINDS)
def test_digits_are_what_the_kind_says(kind: str) -> None:
    pool = digits.make_scenes(np.random.default_rng(0), 500, digits.KINDS[kind])
    assert pool.images.shape == (500, 1, digits.SIZE, digits.SIZE)
    assert len(pool.boxes) == len(pool.classes) == len(pool.scene) == 500
    for boxes, classes in zip(pool.boxes, pool.classes, strict=True):
        assert 1 <= len(boxes) == len(classes) <= 4
        assert boxes.min() >= 0
        assert boxes.max() <= digits.SIZE
    lengths = np.bincount(pool.scene)
    frequency = np.bincount(np.concatenate(pool.classes), minlength=digits.CLASSES)
    if kind == "redundant_tail":
        assert lengths.max() > 20
        assert frequency[0] > 4 * frequency[5:].max()
    else:
        assert lengths.max() == 1
        assert frequency.max() < 1.5 * frequency.min()


def test_digits_to_learn_and_to_test_share_no_digit() -> None:
    balanced = digits.KINDS["iid_balanced"]
    for test in (False, True):
        rng = np.random.default_rng(0)
        found = [digit for _ in range(200) for digit in digits._arrange(rng, np.full(10, 0.1), test)]
        assert {digit.number >= digits.TRAINING_DIGITS for digit in found} == {test}
        assert all(digits._load_digits()[1][digit.number] == digit.label for digit in found)
    first, second = (digits.make_scenes(np.random.default_rng(1), 3, balanced).images for _ in range(2))
    assert (first == second).all()


@pytest.fixture(scope="module")
def small_street(tmp_path_factory: pytest.TempPathFactory) -> street.Street:
    """A street of 20 scenes of frames, 60 images of their own and 10 of the test, made by the real backbone."""
    scenes = {"video": 20, "curated": 60, "test": 10}
    parts = {name: part._replace(scenes=scenes[name]) for name, part in street.PARTS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(street, "PARTS", parts)
        cache = tmp_path_factory.mktemp("cache")
        makes = Mock(side_effect=street.make)
        patch.setattr(street, "make", makes)
        with ThreadPoolExecutor(2) as executor:  # as the processes of the benchmark do
            one, other = executor.map(street.load, [cache] * 2)
        assert makes.call_count == 1
        again = street.load(cache)  # from the file
        assert all((each.features == again.features).all() for each in (one, other))
        assert all((each.embeddings == again.embeddings).all() for each in (one, other))
    return again


def test_the_street(small_street: street.Street) -> None:
    one, (video, curated, test) = small_street, (small_street.part == part for part in range(3))
    assert curated.sum() == 60 and test.sum() == 10
    assert one.embeddings.shape == (len(one.part), 1024) and one.features.shape == (len(one.part), 144, 64)
    # Consecutive frames of a scene are nearer to each other than different scenes are, in the product's embedding.
    unit = one.embeddings / np.linalg.norm(one.embeddings, axis=1, keepdims=True)
    same = one.scene[1:][video[1:]] == one.scene[:-1][video[1:]]
    steps = np.linalg.norm(unit[1:] - unit[:-1], axis=1)[video[1:]]
    assert same.sum() > 20 and np.median(steps[same]) < np.median(steps[~same]) / 2
    assert one.boxes.min() >= 0 and one.boxes.max() <= street.SIZE
    assert ((one.boxes[..., 2] > one.boxes[..., 0]) == (one.classes >= 0)).all()


def test_digits_of_the_test_are_in_no_pool() -> None:
    labels = load_digits().target
    training, test = (np.concatenate(street._list_digits(labels, test)) for test in (False, True))
    assert sorted([*training, *test]) == list(range(len(labels)))
    for label, rows in enumerate(street._list_digits(labels, test=True)):
        assert len(rows) > 20 and (labels[rows] == label).all()


def test_a_head_learns_without_noise(small_street: street.Street) -> None:
    trainer = street_head.Trainer(small_street)
    rows = np.flatnonzero(small_street.part == 1)
    first, again = trainer.train(rows), trainer.train(rows)
    assert (first.classes == again.classes).all() and (first.boxes == again.boxes).all()
    found = street_head.detect(first, small_street.features[rows])
    # On what it has learned from it is far better than on other scenes.
    other = np.flatnonzero(small_street.part == 2)
    on_other = street_head.detect(first, small_street.features[other])
    learned = street_head.ap50(found, small_street.boxes[rows], small_street.classes[rows])
    assert learned > 0.4 > street_head.ap50(on_other, small_street.boxes[other], small_street.classes[other])
    # From another start the same optimum is reached, to the tolerance of the optimizer.
    start = trainer.train(rows[:20])
    warm = street_head.detect(trainer.train(rows, start), small_street.features[rows])
    assert np.abs(warm.scores - found.scores).mean() < 0.01


def test_the_control_is_the_curve_of_random_sets() -> None:
    # AP50 that is a quadratic in the logarithm of the boxes is met exactly, and what is above it is the gain.
    points = [Point(n, 3 * n, 0.1 + 0.05 * np.log(3 * n) - 0.002 * np.log(3 * n) ** 2) for n in (90, 140, 200, 280)]
    curve = learning_curve.fit(points, "box")
    expected = 0.1 + 0.05 * np.log(500) - 0.002 * np.log(500) ** 2
    assert curve.gain(Point(140, 500, 0.4)) == pytest.approx(0.4 - expected)
    assert curve.gain(Point(140, 5000, 0.4)) == pytest.approx(0.4 - points[-1].ap50)  # not extrapolated
    assert learning_curve.fit(points, "image").gain(points[1]) == pytest.approx(0)


def test_the_interval() -> None:
    # Of 1, 2, 3, 4, 5: a mean of 3, a deviation of sqrt(2.5), and a quantile of 2.776 (tables of Student's t).
    half = 2.7764 * (2.5 / 5) ** 0.5
    expected = {"mean": 3, "low": 3 - half, "high": 3 + half, "wins": 5}
    assert learning_curve.estimate([1, 2, 3, 4, 5]) == pytest.approx(expected, abs=1e-3)
    assert learning_curve.estimate([-1]) == {"mean": -1, "low": None, "high": None, "wins": 0}


def test_the_summary_pairs_by_seed() -> None:
    def result(random: float, coral: float) -> quality.SeedResult:
        def outcome(gain: float) -> quality.Outcome:
            return quality.Outcome(Point(140, 400, 0.3 + gain), gain, gain - 0.1, 360, 80)

        rounds = [{"random": outcome(random), "coral": outcome(coral)}, {"coral": outcome(coral)}]
        return quality.SeedResult(0.1, {160: 0.3, 240: 0.4}, rounds)

    figures = quality.summarize([result(0.0, 0.2), result(0.1, 0.2)])
    assert figures["coral"]["per_image"] == pytest.approx({"mean": 0.2, "low": 0.2, "high": 0.2, "wins": 2})
    assert figures["coral"]["per_box"]["mean"] == pytest.approx(0.1)
    assert figures["coral"]["over_more_random"]["240"]["mean"] == pytest.approx(0.1)
    beside = figures["random"]["over_default"]["per_image"]
    assert (beside["mean"], beside["wins"]) == (pytest.approx(-0.15), 0)
    assert beside["high"] - beside["mean"] == pytest.approx(12.706 * 0.05, abs=1e-3)
    assert list(figures["two_rounds"]) == ["coral"]


def make_view(counts: list[int], classes: list[int], features: list[list[float]], embeddings: Any) -> Any:
    boxes = formulas.Boxes(
        np.array(counts), np.zeros((len(classes), 4)), np.ones(len(classes)), np.array(classes), np.eye(3)[classes]
    )
    return quality_strategies.View(embeddings, boxes, np.array(features), [0], 0)


def test_ofds_takes_the_rare_class_and_new_clusters_first() -> None:
    # Class 1 is rare: image 5. Class 0 has three groups of boxes, of which image 0, labelled, shows one.
    groups = [[0.0, 0.0], [0.0, 0.1], [9.0, 0.0], [9.0, 0.1], [0.0, 9.0]]
    view = make_view([1] * 6, [0] * 5 + [1], [*groups, [5.0, 5.0]], np.ones((6, 2)))
    picks = quality_strategies.run_ofds(view, 3)
    assert picks[0] == 5
    assert set(picks[1:]) in ({2, 4}, {3, 4})


def test_zcore_leaves_out_duplicates() -> None:
    rng = np.random.default_rng(0)
    embeddings = np.concatenate([np.zeros((40, 6)) + 0.5, rng.random((20, 6))])
    view = make_view([0] * 60, [], np.empty((0, 2)).tolist(), embeddings)
    picks = quality_strategies.run_zcore(view, 15)
    assert len(set(picks)) == 15 and 0 not in picks
    assert sum(row < 40 for row in picks) <= 1


@pytest.mark.parametrize("world", ["street", "digits"])
def test_an_experiment(world: str, small_street: street.Street, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = quality_worlds.Sizes(60, 20, 8, (4, 8, 16), (8, 16, 24), draws=1, steps=2, embedding_steps=2)
    quality_worlds._load_test_features.cache_clear()
    monkeypatch.setattr(quality_worlds, "_load_street", lambda: (small_street, street_head.Trainer(small_street)))
    kind = quality_worlds.POOLS[world][-1]
    names = [name for name in quality_strategies.STRATEGIES if world == "street" or name not in WITH_FEATURES]
    result = quality.run(world, kind, 0, names, sizes)
    quality_worlds._load_test_features.cache_clear()
    assert list(result.rounds[0]) == names and list(result.rounds[1]) == ["random", "coral"]
    assert all(outcome.point.images == 28 and outcome.scenes == 8 for outcome in result.rounds[0].values())
    assert result.rounds[1]["coral"].point.images == 36
    json.dumps(quality.summarize([result, result]))
