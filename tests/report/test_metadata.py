"""Metadata in the report: values of the picks, and how these spread beside the pool."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from job import parts
from job.parts import pool as pools
from job.report import metadata
from job.storage import Entry
from job.storage.local import LocalFolder
from tests.parts.test_part import MADE_WITH
from tests.report.test_report import rendered, usable

TIMES = pa.array([f"2026-11-{day:02d}" for day in range(1, 21)])


def test_values_are_counted_in_the_pool_and_in_the_picks() -> None:
    columns = {
        "weather": pa.array(["rain", "sun", "sun", None]),
        "night": pa.array([True, False, True, True]),
        "lane": pa.array([10, 9, 10, None]),
    }
    weather, night, lane = metadata.make_distributions(columns, [0, 3])
    assert (weather.name, weather.rows) == (
        "weather",
        [("sun", 0.5, 0, 2, 0), ("rain", 0.25, 0.5, 1, 1), ("unknown", 0.25, 0.5, 1, 1)],
    )
    assert [(row[0], *row[3:]) for row in night.rows] == [("false", 1, 0), ("true", 3, 2)]
    assert [(row[0], *row[3:]) for row in lane.rows] == [("9", 1, 0), ("10", 2, 1), ("unknown", 1, 1)]


def test_many_numbers_are_cut_into_intervals_as_numpy_cuts_them() -> None:
    numbers = np.random.default_rng(0).normal(size=200) * 10
    column = pa.array([*numbers, None, np.inf], pa.float64())
    (made,) = metadata.make_distributions({"speed": column}, range(50))
    counts, edges = np.histogram(numbers, bins=8)
    counts[-1] += 1  # the infinite one
    assert [row[3] for row in made.rows] == [*counts, 1]
    assert made.rows[0][0] == f"{edges[0]:,.4g} to {edges[1]:,.4g}" and made.rows[-1][0] == "unknown"
    assert [row[4] for row in made.rows[:-1]] == np.histogram(numbers[:50], bins=edges)[0].tolist()


def test_rare_values_are_one_row_and_values_of_each_image_none() -> None:
    column = pa.array([str(number) for number in range(30) for _ in range(30 - number)])
    (made,) = metadata.make_distributions(
        {"camera": column, "time": pa.array([str(n) for n in range(len(column))])}, []
    )
    assert [row[0] for row in made.rows] == [*map(str, range(11)), "19 other values"]
    assert sum(row[3] for row in made.rows) == len(column)
    assert len(metadata.make_distributions({str(number): pa.array([1]) for number in range(20)}, [0])) == 8


def test_the_page_shows_them(tmp_path: Path) -> None:
    rows = [usable(f"{number}.jpg", number) for number in range(4)]
    output = LocalFolder(str(tmp_path))
    parts.write(output, rows, MADE_WITH)
    pool = pools.load(output, [Entry(row.file_name, row.etag, row.byte_size) for row in rows])
    columns = {"weather": pa.array(["<b>", "sun", "sun", None]), "score": pa.array([1.0, 2.0, 3.0, 4.0])}
    page = rendered(output, replace(pool, metadata=columns), 4)
    assert page.count("<div><dt>weather</dt><dd>sun</dd></div>") == 2
    assert (
        page.count("<div><dt>weather</dt><dd>&lt;b&gt;</dd></div>") == 1 and "<b>" not in page.partition("<script")[0]
    )
    (section,) = re.findall(r'<div id="metadata">.*?</section>', page, re.DOTALL)
    assert "50.0 % (2)" in section and "unknown" in section
    without = rendered(output, pool, 4)
    assert 'id="metadata"' not in without
