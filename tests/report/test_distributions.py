"""Distributions, strips and clusters of the report, against values that are worked out by hand or by a loop."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from job import parts
from job.parts import boxes
from job.parts import pool as pools
from job.parts.pool import Pool
from job.report import colors, distributions, struggles, timeline
from job.report.sample import NO_BOXES, BoxSample, measure_sizes, spread
from job.report.space import find_clusters
from job.storage import Entry
from job.storage.local import LocalFolder
from tests.parts.test_part import MADE_WITH
from tests.report.test_report import usable


def encode(pixels: npt.NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def test_a_sample_is_even_and_as_large_as_asked_for() -> None:
    assert spread(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert spread(10, 4).tolist() == [0, 2, 5, 7]
    assert len(spread(200_000, 100_000)) == 100_000 and len(spread(9, 0)) == len(spread(9, -2)) == 0


def test_sizes_of_boxes() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 100, 100], [-50, 0, 400, 100], [5, 5, 5, 9]], np.float32)
    counts = measure_sizes(boxes, np.full((4, 2), [200, 50], np.int32))  # of an area of 100 * 100
    assert counts.sum() == 4 and counts[2] == 1 and counts[-1] == 2 and counts[0] == 1  # 0.1, twice 1, and 0
    assert measure_sizes(boxes, np.zeros((4, 2), np.int32)).sum() == 0


def test_brightness_and_sharpness() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (64, 64), dtype=np.uint8)
    bright, sharp = distributions.measure_quality(encode(noise))
    assert np.isclose(bright, noise.mean() / 255)
    # The Laplacian by its definition, inside of the border.
    pixels = noise.astype(float) / 255
    inside = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:] - 4 * pixels[1:-1, 1:-1]
    assert np.isclose(sharp, inside.std(), rtol=0.03)
    assert distributions.measure_quality(encode(cv2.GaussianBlur(noise, (0, 0), 3).astype(np.uint8)))[1] < sharp / 10
    assert distributions.measure_quality(encode(np.full((8, 8), 51, np.uint8))) == (0.2, 0.0)


def test_folders_and_clips() -> None:
    assert distributions.get_folder("a/b/c.jpg") == "a/b" and distributions.get_folder("c.jpg") == "."
    assert distributions.get_folder("a/clip-0015-mp4.png") == "a/clip.mp4"
    assert distributions.get_folder("a#1/c.jpg") == "a#1"
    made = distributions.make_folders(["a/1", "a/2", "a/3", "b/1"], ["b/1"])
    assert made is not None and made.rows == [("a", 0.75, 0.0, 3, 0), ("b", 0.25, 1.0, 1, 1)]
    assert distributions.make_folders(["a/1", "a/2"], ["a/1"]) is None


def test_strips_do_not_repeat_an_image() -> None:
    rng = np.random.default_rng(1)
    scenes = rng.normal(size=(8, 16))
    embeddings = np.repeat(scenes, 20, axis=0) + rng.normal(0, 0.001, (160, 16))
    values = np.repeat(np.linspace(0.5, 1, 8), 20)
    chosen = struggles.choose_diverse(values, embeddings.astype(np.float32), 6)
    assert chosen[0] // 20 == 7  # the highest comes first
    # Of a quarter of the pool, the 40 highest, there are two scenes: both are shown before one is repeated.
    assert {row // 20 for row in chosen[:2]} == {6, 7}
    assert struggles.choose_diverse(values, None, 3) == [140, 141, 142]
    assert struggles.choose_diverse(np.zeros(4), embeddings[:4].astype(np.float32), 2) == []


def test_clusters_are_those_that_were_made() -> None:
    rng = np.random.default_rng(2)
    centers = np.eye(8, 12)
    sizes = [50, 40, 30, 20, 20, 20, 20, 20]
    made = np.repeat(np.arange(8), sizes)
    embeddings = (centers[made] + rng.normal(0, 0.02, (220, 12))).astype(np.float32)
    found = find_clusters(embeddings, np.arange(220))
    assert all(len(set(found[made == number])) == 1 for number in range(8)) and len(set(found)) == 8
    assert found[0] == 0 and found[50] == 1  # the largest first


def test_a_timeline_has_the_order_of_the_numbers() -> None:
    names = [f"{clip}{number}.jpg" for clip in ("a/", "a/b/", "a!", "a-c/f") for number in range(30)]
    names = sorted([*names, *(f"v-{number:02d}-mp4.png" for number in range(25))], key=str.encode)
    assert [names[row] for row in timeline.list_rows(names, "a")] == [f"a/{number}.jpg" for number in range(30)]
    assert [names[row] for row in timeline.list_rows(names, "v.mp4")] == [f"v-{n:02d}-mp4.png" for n in range(25)]
    assert [names[row] for row in timeline.list_rows(names, ".")] == [f"a!{number}.jpg" for number in range(30)]
    assert len(timeline.list_rows(names, "a/b")) == 30
    pool = SimpleNamespace(file_names=names)
    values = np.random.default_rng(0).random(len(names))
    picks = [names.index("a/10.jpg"), names.index("a/b/3.jpg"), names.index("a/9.jpg")]
    first, second = timeline.make_timelines(cast("Pool", pool), values, picks, None)
    assert (first.name, first.num_images, second.name) == ("a", 30, "a/b")
    assert [(place, rank) for place, _, rank in first.picks] == [(9, 3), (10, 1)]
    assert first.values == [round(values[names.index(f"a/{number}.jpg")], 4) for number in range(30)]


def test_a_long_timeline_keeps_its_peaks() -> None:
    names = [f"f/{number:05d}" for number in range(10_000)]
    values = np.zeros(10_000)
    values[[17, 5_000, 9_999]] = 1
    (made,) = timeline.make_timelines(cast("Pool", SimpleNamespace(file_names=names)), values, [5_000], None)
    assert len(made.places) == 400 and sum(made.values) == 3 and {17, 5_000, 9_999} <= set(made.places)


def test_black_text_can_be_read_on_every_color() -> None:
    for color in (*colors.PALETTE, colors.OTHER):
        channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        assert (np.dot(linear, [0.2126, 0.7152, 0.0722]) + 0.05) / (0.0056 + 0.05) >= 4.5
    assert len(set(colors.PALETTE)) == 24


def test_boxes_of_a_sample_are_those_of_a_loop(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    rows = [usable(f"{number:02d}.jpg", number, boxes=number % 4) for number in range(20)]
    for start in (0, 7, 14):
        parts.write(output, rows[start : start + 7], MADE_WITH)
    pool = pools.load(output, [Entry(row.file_name, row.etag, row.byte_size) for row in rows])
    sample = np.array([1, 2, 4, 5, 11, 19])
    found = BoxSample(pool, sample)
    boxes.scan(output, pool, range(20), [found])
    expected = np.zeros_like(found.sizes)
    for place, number in enumerate(sample.tolist()):
        row = rows[number]
        assert row.boxes is not None and row.scores is not None and row.classes is not None
        top = row.classes[row.scores.argmax()] if len(row.scores) else NO_BOXES
        assert found.top_class[place] == top
        width, height = pool.size[number]
        for left, above, right, below in row.boxes.tolist():
            relative = min(1, ((right - left) * (below - above) / float(width * height)) ** 0.5)
            expected[min(len(expected) - 1, int(relative * len(expected)))] += 1
    assert found.sizes.tolist() == expected.tolist() and expected.sum() == 10
