"""Cuts of clips, found in the embeddings of a real detector and in made ones."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser

from job.report import cuts
from tests.conftest import Job, demo_variables
from tests.standins import browser as browsers
from tests.video.clips import write_video


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from browsers.launched()


def test_a_clip_of_two_scenes_and_one_with_fast_motion(
    frames: list[Path], tmp_path: Path, job: Job, browser: Browser
) -> None:
    """Shots of the demo's clip begin at the frames 30 and 76; a bicycle fills the picture quickly after frame 100."""
    pictures: list[Any] = [cv2.imread(str(path)) for path in frames]
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "two.mp4", [*pictures[:12], *pictures[40:54]])
    write_video(tmp_path / "in" / "one.mp4", pictures[90:114])
    given = demo_variables(tmp_path / "in", tmp_path / "out", CORAL_FRAMES="all", CORAL_COPY_SELECTED=0)
    done = job(**given | {"CORAL_N_SAMPLES": 12})
    assert done.returncode == 0, done.stderr
    path = tmp_path / "out" / "report.html"
    page = browser.new_page()
    page.goto(path.as_uri())
    headings = [re.sub(r", \d+ picks?", "", text) for text in page.locator("#time h3").all_inner_texts()]
    assert sorted(headings) == ["one.mp4: 24 images", "two.mp4: 26 images, 1 cut"]
    plot = page.locator(f"#plot-timeline-{headings.index('two.mp4: 26 images, 1 cut')}")
    plot.scroll_into_view_if_needed()
    plot.locator(".legendtext").first.wait_for()
    assert plot.locator(".legendtext").all_text_contents() == ["cuts", "score", "picks"]
    assert plot.evaluate("plot => plot.data[0].x") == [12, 12, None]
    assert "Dotted lines are cuts" in page.locator("#time .note").inner_text()
    page.close()


def test_steps_in_blocks_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "_BLOCK_ROWS", 7)
    rng = np.random.default_rng(0)
    scenes = rng.normal(size=(5, 16))
    made = np.repeat(np.arange(5), [20, 1, 30, 13, 36])
    embeddings = (scenes[made] + rng.normal(0, 0.05, (100, 16))).astype(np.float32) * rng.random((100, 1)).astype(
        np.float32
    )
    order = rng.permutation(100)  # rows of the pool lie in another order than the frames
    pool = np.empty_like(embeddings)
    pool[order] = embeddings
    unit = embeddings / np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    steps = [float(np.linalg.norm(unit[place] - unit[place - 1])) for place in range(1, 100)]
    expected = [place for place, step in enumerate(steps, start=1) if step > 3 * np.median(steps)]
    assert cuts.find(pool, order) == expected == [20, 21, 51, 64]


def test_clips_without_cuts() -> None:
    still = np.ones((30, 4), np.float32)
    assert cuts.find(still, np.arange(30)) == []
    still[15:, 0] += 0.05  # something small appears in a picture that does not move
    assert cuts.find(still, np.arange(30)) == []
    assert cuts.find(np.zeros((30, 4), np.float32), np.arange(30)) == []
    assert cuts.find(still, np.arange(1)) == cuts.find(still, np.arange(0)) == []
