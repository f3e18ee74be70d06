"""What `benchmarks.quality` measures with: scenes, AP50, the interval, and random picks of as many boxes."""

from typing import Any

import numpy as np
import pytest

from benchmarks import quality
from benchmarks import quality_detector as world


def scenes(boxes: list[list[list[float]]], classes: list[list[int]]) -> world.Scenes:
    return world.Scenes(
        np.zeros((len(boxes), 1, world.SIZE, world.SIZE), np.float32),
        [np.array(each, np.float32) for each in boxes],
        [np.array(each) for each in classes],
        np.arange(len(boxes)),
    )


def detections(rows: list[list[tuple[list[float], float, int]]]) -> world.Detections:
    flat = [row for image in rows for row in image]
    boxes = np.array([box for box, _, _ in flat], np.float32).reshape(-1, 4)
    scores, classes = np.array([each[1] for each in flat]), np.array([each[2] for each in flat], int)
    return world.Detections(np.array([len(image) for image in rows]), boxes, scores, classes, np.zeros((len(flat), 11)))


HERE, THERE = [0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]


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
def test_ap50(found: Any, expected: float) -> None:
    truth = scenes([[HERE, THERE], [HERE]], [[3, 5], [3]])
    assert world.ap50(detections(found), truth) == pytest.approx(expected)


def test_scores_of_images_are_the_largest_and_the_sum_over_boxes() -> None:
    certain, torn = np.eye(11)[0], np.full(11, 1 / 11)
    found = detections([[(HERE, 1.0, 0), (THERE, 1.0, 0)], [], [(HERE, 1.0, 0), (THERE, 1.0, 0)]])
    found.probabilities[:] = [certain, torn, torn, torn]
    scores = world.entropies(found)
    assert scores["max"] == pytest.approx([1, 0, 1])
    assert scores["sum"] == pytest.approx([0.5, 0, 1])


@pytest.mark.parametrize("kind", world.KINDS)
def test_scenes_are_what_the_kind_says(kind: str) -> None:
    pool = world.make_scenes(np.random.default_rng(0), 500, world.KINDS[kind])
    assert pool.images.shape == (500, 1, world.SIZE, world.SIZE)
    assert len(pool.boxes) == len(pool.classes) == len(pool.scene) == 500
    for boxes, classes in zip(pool.boxes, pool.classes, strict=True):
        assert 1 <= len(boxes) == len(classes) <= 4
        assert boxes.min() >= 0
        assert boxes.max() <= world.SIZE
    lengths = np.bincount(pool.scene)
    frequency = np.bincount(np.concatenate(pool.classes), minlength=world.CLASSES)
    if kind == "redundant_tail":
        assert lengths.max() > 20
        assert frequency[0] > 4 * frequency[5:].max()
    else:
        assert lengths.max() == 1
        assert frequency.max() < 1.5 * frequency.min()


def test_scenes_to_learn_and_to_test_share_no_digit() -> None:
    balanced = world.KINDS["iid_balanced"]
    for test in (False, True):
        rng = np.random.default_rng(0)
        digits = [digit for _ in range(200) for digit in world._arrange(rng, np.full(10, 0.1), test)]
        assert {digit.number >= world.TRAINING_DIGITS for digit in digits} == {test}
        assert all(world._load_digits()[1][digit.number] == digit.label for digit in digits)
    first, second = (world.make_scenes(np.random.default_rng(1), 3, balanced).images for _ in range(2))
    assert (first == second).all()


def test_the_interval() -> None:
    # Of 1, 2, 3, 4, 5: a mean of 3, a deviation of sqrt(2.5), and a quantile of 2.776.
    assert quality.half_interval([1, 2, 3, 4, 5]) == pytest.approx(2.776 * (2.5 / 5) ** 0.5)
    assert quality.half_interval([1]) is None
    assert list(quality.T_QUANTILES) == sorted(quality.T_QUANTILES, reverse=True)
    assert len(quality.T_QUANTILES) == 30


def test_the_summary_pairs_by_seed_and_compares_nothing_with_itself() -> None:
    def outcomes(random: float, coral: float, control: float) -> dict[str, quality.Outcome]:
        return {
            "random": quality.Outcome(random, random + 0.1, 200, 50, 30),
            "random_boxes": quality.Outcome(control, control, 300, 60, 40),
            "coral": quality.Outcome(coral, control, 300, 80, 2),
        }

    figures = quality.summarize([outcomes(0.3, 0.5, 0.4), outcomes(0.5, 0.6, 0.7)])
    coral = figures["coral"]
    assert coral["ap50"] == pytest.approx(0.55)
    assert (coral["mean_gain"], coral["wins"]) == (pytest.approx(0.15), 2)
    assert coral["ci95"] == pytest.approx(12.706 * 0.05)
    assert (coral["mean_gain_boxes"], coral["wins_boxes"]) == (pytest.approx(0), 1)
    assert (coral["boxes"], coral["scenes"], coral["near_duplicate_pairs"]) == (300, 80, 2)
    assert figures["random"]["mean_gain"] is figures["random"]["wins"] is figures["random"]["ci95"] is None
    assert (figures["random"]["mean_gain_boxes"], figures["random"]["wins_boxes"]) == (pytest.approx(-0.1), 0)
    assert figures["random_boxes"]["mean_gain_boxes"] is None


def test_a_trial() -> None:
    sizes = quality.Sizes(pool=300, labelled=20, picks=30, test=20, steps=4, embedding_steps=10)
    trial = quality.Trial("redundant_tail", 0, sizes)
    random = trial.draw_with_boxes(70)
    assert trial.pool.count_boxes(random) >= 70 > trial.pool.count_boxes(random[:-1])
    assert not set(random) & set(trial.labelled)
    for name in ("random", "active_learning_max", "coreset", "coral"):
        picks = trial.pick(name)
        assert len(set(picks)) == sizes.picks
        assert not set(picks) & set(trial.labelled)
    outcome = trial.measure("coral")
    seen = [int(scene) for scene in trial.pool.scene[trial.pick("coral")]]
    assert outcome.boxes == trial.pool.count_boxes(trial.pick("coral"))
    assert outcome.scenes == len(set(seen))
    assert outcome.pairs == sum(a == b for i, a in enumerate(seen) for b in seen[:i])
    assert trial.measure("coral") == outcome
