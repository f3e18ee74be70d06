"""What a selection must do without any label: on a pool like video, spread over more scenes than chance does."""

from typing import Any

import numpy as np
import pytest

from benchmarks.quality_detector import KINDS, make_scenes
from job.select import select
from job.select.points import to_unit_length

COUNT = 100


@pytest.fixture(scope="module")
def pool() -> tuple[Any, Any]:
    """2,000 images in bursts of near-duplicates: their scenes, and their pixels, pooled to 12 x 12 and centred."""
    scenes = make_scenes(np.random.default_rng(11), 2000, KINDS["redundant_tail"])
    pixels = scenes.images.reshape(2000, 12, 4, 12, 4).mean(axis=(2, 4)).reshape(2000, -1)
    return scenes.scene, to_unit_length(pixels - pixels.mean(axis=0))


@pytest.mark.parametrize("strategy", ["coreset", "coral"])
def test_more_scenes_than_chance_and_no_near_duplicates(pool: tuple[Any, Any], strategy: str) -> None:
    scene, embeddings = pool
    scores = np.random.default_rng(0).random(len(scene))

    def scenes_of(name: str, seed: int = 0) -> int:
        picks = select(embeddings, scores, COUNT, strategy=name, seed=seed).picks
        return len({int(scene[pick.index]) for pick in picks})

    by_chance = np.mean([scenes_of("random", seed) for seed in range(10)])
    assert scenes_of(strategy) >= 1.2 * by_chance
    # A near-duplicate is nearer than half of the images of a burst are to the one before.
    steps = np.linalg.norm(np.diff(embeddings, axis=0), axis=1)[scene[1:] == scene[:-1]]
    rows = [pick.index for pick in select(embeddings, scores, COUNT, strategy=strategy).picks]
    apart = np.linalg.norm(embeddings[rows][:, None] - embeddings[rows][None], axis=2)
    assert (apart[np.triu_indices(COUNT, 1)] > np.median(steps)).all()
