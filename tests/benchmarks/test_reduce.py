"""The benchmark of `select` at toy size, and its figures against values worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import figures, reduce
from job import parts
from job.parts import listings
from job.shards import Shard
from job.storage.local import LocalFolder


def test_the_pool_is_what_the_map_step_leaves_and_select_takes_it(tmp_path: Path) -> None:
    reduce.write_pool(tmp_path / "out", 40)
    output = LocalFolder(str(tmp_path / "out"))
    (part,) = parts.read(output)
    counts = [len(scores) for scores in part.table["scores"].to_pylist()]
    assert part.table.num_rows == len(listings.read(output)) == 40
    assert 5 < np.mean(counts) < 11 and len(part.provenance.class_names) == 80
    assert all(scores == sorted(scores, reverse=True) for scores in part.table["scores"].to_pylist())
    row = reduce.measure_select(tmp_path, 40, 5)
    assert (tmp_path / "out/selected.txt").read_text().count("\n") == 5
    assert sum(stage["cpu_seconds"] for stage in row["stages"].values()) == pytest.approx(row["cpu_seconds"], rel=0.2)
    assert not (tmp_path / "out/.lightly").exists()


def test_a_restart_is_counted_by_shard(tmp_path: Path) -> None:
    reduce.write_pool(tmp_path, 30, num_shards=2)
    names = [entry.key for entry in LocalFolder(str(tmp_path)).list("parts/listing-")]
    assert len(names) == 0  # a prefix is a folder
    owned = sum(Shard(0, 2).owns(reduce.name_image(number)) for number in range(30))
    found = reduce.count_restart(str(tmp_path), 2)
    assert found["found"] in (owned, 30) and found["requests"] > 1 and found["bytes"] > 0


def make_row(images: int, cpu_seconds: float, peak_mb: float) -> dict[str, object]:
    stages = {
        "linear": {"cpu_seconds": cpu_seconds, "peak_mb": peak_mb},
        "square": {"cpu_seconds": (images / 1e4) ** 2, "peak_mb": 1.0},
        "short": {"cpu_seconds": 0.5, "peak_mb": 1.0},
    }
    return {
        "images": images,
        "picks": 100,
        "cpu_seconds": cpu_seconds,
        "peak_mb": peak_mb,
        "written_mb": 3.0,
        "part_bytes": images * 1000,
        "stages": stages,
    }


def test_slopes_and_extrapolations_are_those_of_a_straight_line() -> None:
    rows = [make_row(10_000, 2.0, 500.0), make_row(100_000, 20.0, 770.0)]
    restart = {"measured": [], "computed": {"images": 10_000_000, "shards": 100, "requests": 7, "bytes": 10**6}}
    result = {"cores": 2, "rows": rows, "left_out": {"1000000": "it would need 27 GB of memory"}, "restart": restart}
    result |= reduce.summarize(result)
    assert result["slope"] == {"linear": 1.0, "square": 2.0}
    assert result["bytes_per_image"] == pytest.approx(3000) and result["cpu_ms_per_image"] == pytest.approx(0.2)
    assert result["peak_mb_1m"] is None and result["restart_requests"] == 7
    found = figures.extrapolate(result, 10_000_000)
    assert found["peak_mb"] == pytest.approx(30_470) and found["cpu_seconds"] == pytest.approx(2000)
    text = figures.render_reduce(json.loads(json.dumps(result)))
    assert "| linear | 2.0 s, 500 MB | 20.0 s, 770 MB | 1.00 |" in text
    assert "1 million images were not measured: it would need 27 GB of memory." in text
    assert "10 million images need 30 GB of memory, 0.6 CPU hours, parts of 10 GB" in text


def test_a_size_that_does_not_fit_is_left_out() -> None:
    rows = [make_row(10_000, 2.0, 500.0), make_row(100_000, 20.0, 770.0)]
    assert reduce.find_obstacle([], 10**9) is None and reduce.find_obstacle(rows, 200_000) is None
    assert (reduce.find_obstacle(rows, 10**9) or "").startswith("it would need 3000 GB of memory")
    more_picks = make_row(10_000, 2.0, 545.0) | {"picks": 1_000}  # which says nothing about the number of images
    assert reduce.find_obstacle([rows[0], more_picks], 10**7) is None


def test_without_a_measurement_the_page_says_so(tmp_path: Path) -> None:
    assert "make bench-reduce" in figures.reduce_table(tmp_path / "none.json")
