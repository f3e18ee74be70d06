"""detections.parquet, and what images.parquet says of labels and of the map."""

import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from job import parts
from job.context import SelectionInputs
from job.parts import pool as pools
from job.parts.pool import Pool
from job.publish import boxes, tables
from job.report import needs as report_needs
from job.report.gather import gather
from job.report.projection import project
from job.select.points import ArrayPoints
from job.storage import Entry
from job.storage.local import LocalFolder
from tests.conftest import nothing_elsewhere
from tests.parts.test_part import MADE_WITH, row

NAMES = ["b.jpg", "a.jpg", "sub/ä.jpg", "c.jpg"]
COLUMNS = ["file_name", "class", "class_index", "score", "left", "top", "right", "bottom", "entropy"]


def filled(folder: Path, per_part: int) -> tuple[LocalFolder, Pool]:
    """Four images with 0 to 3 boxes; no box in the second one by name."""
    output = LocalFolder(str(folder))
    rows = [replace(row(name, boxes=number, seed=number), thumbnail=b"") for number, name in enumerate(NAMES)]
    for start in range(0, len(rows), per_part):
        parts.write(output, rows[start : start + per_part], MADE_WITH)
    return output, pools.load(output, [Entry(each.file_name, each.etag, each.byte_size) for each in rows])


def test_each_box_is_a_row(tmp_path: Path) -> None:
    output, pool = filled(tmp_path, 2)
    write_detections(output, pool)
    table = pq.read_table(tmp_path / "detections.parquet")
    assert table.column_names == COLUMNS
    assert [str(kind) for kind in table.schema.types] == ["string", "string", "int32", *["float"] * 6]
    assert table["file_name"].to_pylist() == ["a.jpg", "c.jpg", "c.jpg", "c.jpg", "sub/ä.jpg", "sub/ä.jpg"]
    expected = [
        (name, MADE_WITH.class_names[kind], kind, score, *box, entropy(given))
        for name, number in (("a.jpg", 1), ("c.jpg", 3), ("sub/ä.jpg", 2))
        for made in [row(name, boxes=number, seed=number)]
        for box, score, kind, given in zip(
            *(array.tolist() for array in (made.boxes, made.scores, made.classes, made.class_probabilities)),  # type: ignore[union-attr]
            strict=True,
        )
    ]
    found = [tuple(each.values()) for each in table.to_pylist()]
    assert [each[:3] for each in found] == [each[:3] for each in expected]
    np.testing.assert_allclose([each[3:] for each in found], [each[3:] for each in expected], rtol=1e-6)
    # The score of an image is the sum over its boxes.
    sums = [sum(each[-1] for each in found if each[0] == name) for name in pool.file_names]
    np.testing.assert_allclose(sums, pool.scores["entropy_sum"], rtol=1e-6)


def entropy(probabilities: list[float]) -> float:
    shares = [value / sum(probabilities) for value in probabilities]
    return -sum(share * math.log(share) for share in shares if share > 0) / math.log(len(shares))


def test_parts_and_groups_change_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = []
    for per_part in (1, 2, 4):
        output, pool = filled(tmp_path / str(per_part), per_part)
        write_detections(output, pool)
        contents.append(output.read("detections.parquet"))
    assert contents[0] == contents[1] == contents[2]
    before = pq.read_table(pa.BufferReader(contents[0]))
    monkeypatch.setattr(boxes, "_GROUP_ROWS", 2)
    write_detections(output, pool)
    file = pq.ParquetFile(tmp_path / "4" / "detections.parquet")
    assert file.num_row_groups == 3 and file.read().equals(before)


def test_without_boxes_there_are_columns(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    made = row("a.jpg", boxes=0, seed=0)
    parts.write(output, [made], MADE_WITH)
    write_detections(output, pools.load(output, [Entry(made.file_name, made.etag, made.byte_size)]))
    table = pq.read_table(tmp_path / "detections.parquet")
    assert (table.num_rows, table.column_names) == (0, COLUMNS)


def write_detections(output: LocalFolder, pool: Pool) -> None:
    made = boxes.read_boxes(output, pool, report_needs.choose(pool, None, [], []))
    assert made is not None
    made.write(output)


def selected_from(pool: Pool, labelled: list[str]) -> SelectionInputs:
    points = ArrayPoints(np.zeros((len(pool.file_names), 3), np.float32))
    return SelectionInputs(pool, points, {"method": "own"}, labelled, nothing_elsewhere(3), {}, "0")


def test_images_say_whether_they_are_labelled_and_where_they_are_on_the_map(tmp_path: Path) -> None:
    output, pool = filled(tmp_path, 2)
    pool = replace(pool, failures=[("broken.jpg", "it is empty"), ("labelled.jpg", "it is empty")])
    infinite, none = np.full(4, np.inf), np.full(4, -1)
    labelled = ["c.jpg", "labelled.jpg", "not in the pool.jpg"]
    embeddings = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    projection = project(embeddings)
    tables.write_images(output, selected_from(pool, labelled), [], infinite, none, projection.points)
    table = pq.read_table(tmp_path / "images.parquet")
    assert table["file_name"].to_pylist() == ["a.jpg", "b.jpg", "c.jpg", "sub/ä.jpg", "broken.jpg", "labelled.jpg"]
    assert table["labelled"].to_pylist() == [False, False, True, False, False, True]
    places = [(each["map_x"], each["map_y"]) for each in table.to_pylist()]
    assert places[4:] == [(None, None)] * 2
    np.testing.assert_array_equal(places[:4], projection.points)

    tables.write_images(output, selected_from(pool, []), [], infinite, none, None)
    table = pq.read_table(tmp_path / "images.parquet")
    assert (table["map_x"].null_count, table["map_y"].null_count) == (6, 6)
    assert [str(table.schema.field(name).type) for name in ("labelled", "map_x", "map_y")] == [
        "bool",
        "double",
        "double",
    ]


def test_the_report_shows_the_same_map(tmp_path: Path) -> None:
    output, pool = filled(tmp_path, 2)
    embeddings = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    projection = project(embeddings)
    run: dict[str, Any] = {
        "coralpick": "0", "device": None, "settings": {}, "versions": {}, "seconds": {}, "embedding": {},
        "detector": {"class_names": []}, "counts": {"usable": 4, "labelled": 0, "failed": 0, "selected": 0},
        "selection": {"classes": {name: {"picks": 0} for name in MADE_WITH.class_names}, "boxes": 0,
                      "expected_cost": 0.0},
    }  # fmt: skip
    needs = report_needs.choose(pool, embeddings, [], [])
    boxes.read_boxes(output, pool, needs)
    content = gather(output, pool, embeddings, projection, [], [], run, None, [], needs)
    assert content.map is not None and content.map.file_names == pool.file_names
    np.testing.assert_array_equal(content.map.points, projection.points)


@pytest.mark.parametrize("count", [1, 2, 50, 200_000])
def test_the_map_is_that_of_a_singular_value_decomposition(count: int) -> None:
    embeddings = (np.random.default_rng(1).normal(size=(count, 4)) * (1, 5, 2, 0.1)).astype(np.float32)
    projection = project(embeddings)
    units = embeddings / np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    fitted = units[:: -(-count // 20_000)]
    _, values, axes = np.linalg.svd(fitted - fitted.mean(axis=0), full_matrices=False)
    expected = (units - fitted.mean(axis=0)) @ axes[:2].T
    width = expected.shape[1]
    np.testing.assert_allclose(abs(projection.points[:, :width]), abs(expected), atol=2e-6)
    if count > 2:
        assert projection.explained == pytest.approx((values[:2] ** 2).sum() / (values**2).sum())


@pytest.mark.parametrize(("count", "width"), [(1, 50), (2, 50), (60, 4000), (1500, 1200), (1200, 1500)])
def test_the_map_of_many_dimensions(count: int, width: int) -> None:
    generator = np.random.default_rng(2)
    # A spectrum that falls, as those of embeddings do.
    embeddings = (generator.normal(size=(count, 40)) / np.arange(1, 41)) @ generator.normal(size=(40, width))
    projection = project(embeddings.astype(np.float32))
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    left, values, _ = np.linalg.svd(units - units.mean(axis=0), full_matrices=False)
    expected = np.pad(left * values, ((0, 0), (0, 1)))[:, :2]
    np.testing.assert_allclose(abs(projection.points), abs(expected), atol=5e-6)
    if count > 2:
        assert projection.explained == pytest.approx((values[:2] ** 2).sum() / (values**2).sum(), rel=1e-5)


def test_the_map_needs_no_matrix_of_all_dimensions() -> None:
    embeddings = np.random.default_rng(3).normal(size=(40, 20_000)).astype(np.float32)
    tracemalloc.start()
    project(embeddings)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * embeddings.nbytes  # 32 MB; 20,000 x 20,000 would be 3.2 GB


def test_embeddings_of_one_dimension_lie_on_a_line() -> None:
    projection = project(np.array([[1], [-1], [2]], np.float32))
    assert projection.points[:, 1].tolist() == [0, 0, 0] and projection.explained == 1
