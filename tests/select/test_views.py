"""How many views a pool shows, and how many random images would show as much as the picks."""

from typing import Any

import numpy as np
import pytest

from job.select import select
from job.select.views import measure_views


def make_scenes(lengths: list[int], dimension: int = 24, jitter: float = 0.02) -> tuple[Any, Any]:
    """Scenes of some lengths: their images are nearly the same, and the scenes have nothing in common."""
    rng = np.random.default_rng(0)
    scene = np.repeat(np.arange(len(lengths)), lengths)
    centers = rng.normal(size=(len(lengths), dimension))
    return centers[scene] + jitter * rng.normal(size=(len(scene), dimension)), scene


def test_views_are_scenes() -> None:
    embeddings, scene = make_scenes([1, 50, 3, 10, 1, 35])
    picks = [0, 1, 2, 60]  # scenes 0, 1, 1 and 3
    found = measure_views(embeddings, picks)
    assert found.images == 100
    assert found.views == pytest.approx(6)
    assert found.coverage == pytest.approx(3 / 6)
    curve = {number: (by_picks, by_random) for number, by_picks, by_random in found.curve}
    assert [curve[number][0] for number in (1, 2, 3, 4)] == pytest.approx([1 / 6, 2 / 6, 2 / 6, 3 / 6])
    assert curve[16][0] is None
    # By the definition: draws of random images.
    for number in (4, 16):
        rng = np.random.default_rng(1)
        shown = [len(set(scene[rng.choice(100, number, replace=False)])) / 6 for _ in range(4000)]
        assert curve[number][1] == pytest.approx(np.mean(shown), abs=0.01)


def test_as_many_random_images_as_show_the_same() -> None:
    embeddings, scene = make_scenes([40] * 2 + [1] * 20)
    picks = [0, 40, *range(80, 90)]  # twelve views of 22
    found = measure_views(embeddings, picks)
    by_random = {number: coverage for number, _, coverage in measure_views(embeddings, list(range(100))).curve}
    assert found.coverage == pytest.approx(12 / 22)
    # All of two scenes and half of the 20 single images: as many as every second image of the pool.
    assert 45 <= found.random_images <= 51
    assert by_random[100] == pytest.approx(1)
    assert scene[found.random_images] < 2


def test_labelled_images_count_for_both() -> None:
    embeddings, _ = make_scenes([30, 30, 5, 5])
    found = measure_views(embeddings, [65], labelled=[0, 1], labelled_elsewhere=embeddings[30:31])
    assert found.coverage == pytest.approx(3 / 4)
    assert found.curve[0][1] == pytest.approx(3 / 4)
    assert found.curve[0][2] == pytest.approx(2 / 4 + 1 / 4 * (10 / 68))


def test_a_pool_without_near_duplicates_has_no_equivalent_but_itself() -> None:
    embeddings = np.random.default_rng(2).normal(size=(300, 60))
    found = measure_views(embeddings, [pick.index for pick in select(embeddings, np.ones(300), 30).picks])
    assert found.views == pytest.approx(300, rel=0.01)
    assert found.random_images in (30, 31)


def test_a_large_pool_is_measured_on_some_of_its_images() -> None:
    embeddings, _ = make_scenes([20] * 200)
    found = measure_views(embeddings, list(range(0, 4000, 40)))
    assert found.images == 4000 and found.views == pytest.approx(200, rel=0.02)
    assert found.coverage == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_equal_images_are_one_view(count: int) -> None:
    found = measure_views(np.ones((count, 3)), [0])
    assert found.views == pytest.approx(1)
    assert (found.coverage, found.random_images) == (1, 1)
    assert measure_views(np.zeros((count, 3)), [0]).views == pytest.approx(1)
    assert measure_views(np.ones((count, 3)), []).curve == []
