"""Which boxes cannot be true: each mistake is found, and no honest file gets an error or a warning."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.external.geometry import MIN_BOXES, Evidence, Finding, find_problem
from job.external.layouts import CENTER_SIZE, CORNER_SIZE, CORNERS, LAYOUTS, Layout, from_corners, to_corners

Change = Callable[[Evidence], Evidence]
SIZES = [(640, 480), (1920, 1080), (480, 640), (333, 500)]


def make_scenes(
    seed: int,
    sizes: list[tuple[int, int]],
    boxes_per_image: int = 4,
    region: float = 1,
    largest: float = 0.5,
    overshoot: float = 0,
) -> Evidence:
    """True boxes.

    Args:
        seed: Seed of the random numbers.
        sizes: Width and height of the images.
        boxes_per_image: Number of objects in each.
        region: Share of width and height, from the upper left corner, in which all objects are.
        largest: Longest side of an object, as a share of the region.
        overshoot: Up to which share of the image's side boxes reach outside; without it they are cut at the edge.
    """
    rng = np.random.default_rng(seed)
    size = np.array(sizes, np.float64)
    image_of = np.repeat(np.arange(len(sizes)), boxes_per_image)
    room = size[image_of] * region
    sides = room * rng.uniform(0.01, largest, (len(image_of), 2))
    inside = sides / 2 if region < 1 else 0  # nothing cuts an object at the end of the region
    centers = inside + (room - 2 * inside) * rng.uniform(0, 1, (len(image_of), 2))
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], axis=1)
    limit = size[image_of]
    boxes = np.clip(boxes, np.tile(-overshoot * limit, 2), np.tile((1 + overshoot) * limit, 2))
    return Evidence([f"{number}.jpg" for number in range(len(sizes))], boxes, image_of, size, size)


def with_boxes(evidence: Evidence, boxes: Any) -> Evidence:
    return Evidence(evidence.names, boxes, evidence.image_of, evidence.size, evidence.stored)


def per_box(evidence: Evidence) -> Any:
    return np.tile(evidence.size[evidence.image_of], 2)


def misread(written: Layout, read: Layout) -> Change:
    return lambda true: with_boxes(true, to_corners(from_corners(true.boxes, written), read))


def turn(true: Evidence) -> Evidence:
    """Boxes on the stored pixels of images that the EXIF orientation turns."""
    return Evidence(true.names, true.boxes, true.image_of, true.size[:, ::-1], true.size)


CERTAIN: list[tuple[str, Layout, Change, str]] = [
    ("fractions", CORNER_SIZE, lambda true: with_boxes(true, true.boxes / per_box(true)), "look like fractions"),
    ("corners as sizes", CORNER_SIZE, misread(CORNERS, CORNER_SIZE), f"if they are read as {CORNERS}"),
    ("center as corner", CORNER_SIZE, misread(CENTER_SIZE, CORNER_SIZE), f"if they are read as {CENTER_SIZE}"),
    ("corners as center", CENTER_SIZE, misread(CORNERS, CENTER_SIZE), f"if they are read as {CORNERS}"),
    ("corner as center", CENTER_SIZE, misread(CORNER_SIZE, CENTER_SIZE), f"if they are read as {CORNER_SIZE}"),
    ("turned", CORNER_SIZE, turn, "fit the images as they are stored. Detect on the oriented images"),
    (
        "exchanged sizes",
        CORNERS,
        lambda true: Evidence(true.names, true.boxes, true.image_of, true.size[:, ::-1], true.size[:, ::-1]),
        "They fit if width and height of the images are exchanged",
    ),
    ("larger copies", CORNER_SIZE, lambda true: with_boxes(true, true.boxes * 2), "up to 2 times as large: give boxes"),
    (
        "a grid of 1000",
        CORNER_SIZE,
        lambda true: with_boxes(true, true.boxes / per_box(true) * 1000),
        "of other images or of copies",
    ),
    ("other images", CORNER_SIZE, lambda true: with_boxes(true, true.boxes + 900), "of other images or"),
]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("layout", "change", "says"), [case[1:] for case in CERTAIN], ids=[case[0] for case in CERTAIN]
)
def test_a_mistake_in_all_boxes_is_certain(layout: Layout, change: Change, says: str, seed: int) -> None:
    sizes = SIZES[:1] * 9 if "exchanged" in says or "stored" in says or "1000" in says else SIZES * 3
    finding = find_problem(change(make_scenes(seed, sizes, 12)), layout)
    assert finding is not None and finding.is_certain and says in finding.sentences
    assert " has the box [" in finding.sentences and "(left, top, right, bottom)" in finding.sentences


def find_smaller(change: Change) -> list[Finding | None]:
    return [find_problem(change(make_scenes(seed, SIZES * 40, 8, largest=0.3)), CORNER_SIZE) for seed in range(20)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda true: with_boxes(true, true.boxes / 3), "copies that are 0.33 times as large"),
        (lambda true: with_boxes(true, true.boxes / per_box(true) * 256), "copies of 256x256 pixels"),
        (lambda true: with_boxes(true, true.boxes / per_box(true) * 100), "copies of 100x100 pixels"),  # percent
    ],
)
def test_boxes_of_smaller_copies_are_likely(change: Change, says: str) -> None:
    findings = find_smaller(change)
    assert all(finding and not finding.is_certain and says in finding.sentences for finding in findings)


def test_some_fractions_are_likely() -> None:
    true = make_scenes(0, SIZES * 3)
    boxes = np.where(true.image_of[:, None] < 8, true.boxes / per_box(true), true.boxes)
    finding = find_problem(with_boxes(true, boxes), CORNER_SIZE)
    assert finding is not None and not finding.is_certain
    assert finding.sentences.startswith(
        "32 of 48 boxes are in the first pixel of their images: '0.jpg' (640x480 pixels)"
    )


def test_fractions_on_images_of_unknown_size_are_likely() -> None:
    true = make_scenes(0, SIZES)
    unknown = Evidence(true.names, true.boxes / per_box(true), true.image_of, true.size * 0, true.size * 0)
    finding = find_problem(unknown, CORNER_SIZE)
    assert finding is not None and not finding.is_certain and "'0.jpg' has the box [" in finding.sentences


def test_boxes_that_reach_far_outside_without_a_cause_are_likely() -> None:
    true = make_scenes(1, SIZES * 3)
    finding = find_problem(with_boxes(true, true.boxes + 0.2 * per_box(true) * [-1, 0, 1, 0]), CORNERS)
    assert finding is not None and not finding.is_certain and "reach far outside their images" in finding.sentences


def test_one_turned_image_in_ten_is_enough() -> None:
    true = make_scenes(2, [(640, 480)] * 10)
    size = true.size.copy()
    size[3] = size[3, ::-1]
    boxes = true.boxes.copy()
    boxes[true.image_of == 3] = [[400, 300, 630, 470]] * 4
    finding = find_problem(Evidence(true.names, boxes, true.image_of, size, true.size), CORNERS)
    assert finding is not None and finding.is_certain
    assert finding.sentences.startswith(
        "4 of 4 boxes on images with an EXIF orientation reach far outside these images: '3.jpg' (480x640 pixels) has "
        "the box [400, 300, 630, 470]"
    )


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.sampled_from([*SIZES, (1, 1), (2, 3), (16, 16), (4000, 3000)]), min_size=1, max_size=12),
    boxes_per_image=st.integers(1, 30),
    region=st.sampled_from([1, 0.5, 0.25, 0.1]),
    largest=st.sampled_from([1, 0.3, 0.05]),
    overshoot=st.sampled_from([0, 0.02, 0.1]),
    step=st.sampled_from([0, 1e-3, 1]),
    layout=st.sampled_from([*LAYOUTS, None]),
)
def test_true_boxes_are_no_problem(
    seed: int,
    sizes: list[tuple[int, int]],
    boxes_per_image: int,
    region: float,
    largest: float,
    overshoot: float,
    step: float,
    layout: Layout | None,
) -> None:
    true = make_scenes(seed, sizes, boxes_per_image, region, largest, overshoot)
    boxes = true.boxes
    if step:  # outwards, as integers of whole pixels
        boxes = np.concatenate([np.floor(boxes[:, :2] / step), np.ceil(boxes[:, 2:] / step)], axis=1) * step
    assert find_problem(with_boxes(true, boxes), layout) is None
    turned = Evidence(true.names, boxes, true.image_of, true.size, true.size[:, ::-1])
    assert find_problem(turned, layout) is None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (640, 480)])
@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 1, 1),  # the whole image
        (0, 0, 0.5, 1),
        (0.5, 0, 1, 0.6),
        (0.9, 0.9, 1, 1),
        (0.4, 0.4, 0.4004, 0.4004),  # less than a pixel
    ],
)
def test_the_same_box_on_all_images_is_no_problem(
    layout: Layout, size: tuple[int, int], box: tuple[float, ...]
) -> None:
    sizes = np.full((20, 2), size, np.float64)
    boxes = np.tile(sizes, 2) * box
    evidence = Evidence([str(number) for number in range(20)], boxes, np.arange(20), sizes, sizes)
    assert find_problem(evidence, layout) is None


def test_few_boxes_say_nothing() -> None:
    few = make_scenes(0, SIZES, 1).take(np.arange(4) < MIN_BOXES - 1)
    assert find_problem(with_boxes(few, few.boxes / per_box(few)), CORNERS) is None
    assert find_problem(with_boxes(few, few.boxes * 3), CORNERS) is None
    assert find_problem(few.take(np.zeros(4, bool)), CORNERS) is None


@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6)] * 4), max_size=5), st.sampled_from(LAYOUTS))
def test_layouts_are_read_as_they_are_written(boxes: list[tuple[float, ...]], layout: Layout) -> None:
    corners = np.array(boxes).reshape(-1, 4)
    np.testing.assert_allclose(to_corners(from_corners(corners, layout), layout), corners, atol=1e-8)
