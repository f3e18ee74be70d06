"""The exact greedy on pools that need many shortlists: against the definition, in other orders, and from elsewhere."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import lightly_mundig
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from job.select import ParquetPoints, Selection, greedy, select
from job.select.engine import SCORE_FLOOR, scale_scores
from job.select.points import ArrayPoints, to_unit_length
from job.select.tensors import TensorPass
from job.select.typicality import typicality
from tests.conftest import ROOT


def naive(
    embeddings: Any, weight: Any, count: int, a: float, labelled: list[int], min_distance: float = 0
) -> list[int]:
    """The definition: a pass in float64 for each pick; the first pick by weight."""
    points = to_unit_length(embeddings).astype(np.float64)
    distance, free, picks = np.full(len(points), np.inf), np.ones(len(points), bool), list[int]()
    for row in labelled:
        distance, free[row] = np.minimum(distance, np.sqrt(((points - points[row]) ** 2).sum(1))), False
    while len(picks) < count:
        value = weight if not (labelled or picks) else distance**a * weight
        value = np.where(free & (distance >= min_distance), value, -1)
        if value.max(initial=-1) < 0:
            break
        picks.append(int(value.argmax()))
        free[picks[-1]] = False
        distance = np.minimum(distance, np.sqrt(((points - points[picks[-1]]) ** 2).sum(1)))
    return picks


def clusters(seed: int, count: int, dimension: int) -> Any:
    """Unit vectors in clusters of very different sizes, some of them all but the same."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(12, dimension))
    spread = rng.choice([0.0, 1e-7, 1e-3, 0.1, 0.5], 12)
    cluster = np.minimum(rng.geometric(0.3, count) - 1, 11)
    return (centers[cluster] + spread[cluster, None] * rng.normal(size=(count, dimension))).astype(np.float32)


def rows(selection: Selection) -> list[int]:
    return [pick.index for pick in selection.picks]


@settings(max_examples=1500, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 400),
    st.integers(1, 40),
    st.sampled_from([0, 0.5, 1, 2]),
    st.sampled_from([0, 0.01, 0.3]),
    st.booleans(),
)
def test_many_short_lists_give_the_picks_of_the_definition(
    seed: int, count: int, dimension: int, a: float, min_distance: float, with_labels: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(greedy, "_MIN_SHORTLIST", 8)
        embeddings, rng = clusters(seed, count, dimension), np.random.default_rng(seed)
        embeddings *= rng.choice([1e-3, 1, 50], (count, 1)).astype(np.float32)
        scores = rng.choice([0, 0.25, 1], count) if seed % 2 else rng.random(count)
        labelled = rng.choice(count, min(count, 9), replace=False).tolist() if with_labels else []
        found = select(
            *(embeddings, scores, 60), labelled=labelled, diversity_strength=a, min_distance=min_distance
        )  # fmt: skip
        weight = SCORE_FLOOR + (1 - SCORE_FLOOR) * scores
        assert rows(found) == naive(embeddings, weight, 60, a, labelled, min_distance)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32), st.sampled_from(["coral", "coreset", "active_learning", "two_stage", "typicality", "random"])
)
def test_the_order_of_the_rows_changes_no_pick(seed: int, strategy: str) -> None:
    rng = np.random.default_rng(seed)
    embeddings, scores = clusters(seed, 120, 6), rng.choice([0, 0.5, 1], 120)
    names = [f"{number}é" for number in range(120)]
    order = rng.permutation(120)
    first = select(embeddings, scores, 30, strategy=strategy, names=names, labelled=[3, 4])
    labelled = [int(np.flatnonzero(order == row)[0]) for row in (3, 4)]
    shuffled = [names[row] for row in order]
    second = select(embeddings[order], scores[order], 30, strategy=strategy, names=shuffled, labelled=labelled)
    assert [names[row] for row in rows(first)] == [shuffled[row] for row in rows(second)]


def test_a_large_pool_of_real_size() -> None:
    rng = np.random.default_rng(0)
    embeddings, scores = clusters(0, 20_000, 64), rng.random(20_000)
    expected = naive(embeddings, SCORE_FLOOR + (1 - SCORE_FLOOR) * scores, 300, 1, [5, 6])
    assert rows(select(embeddings, scores, 300, labelled=[5, 6])) == expected


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_rows_of_zeros_and_of_extreme_lengths(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy, "_MIN_SHORTLIST", 4)
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(60, 5)) * scale
    embeddings[::7] = 0
    embeddings[1::9] *= 1e30
    embeddings[2::11] *= 1e-30
    for labelled in ([], [0], [7, 8]):
        found = select(embeddings, np.ones(60), 60, strategy="coreset", labelled=labelled)
        assert rows(found) == naive(embeddings, np.ones(60), 60, 1, labelled)


@pytest.mark.parametrize("strategy", ["coral", "coreset", "active_learning", "two_stage", "typicality"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_give_the_picks_of_arrays(strategy: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy, "_MIN_SHORTLIST", 32)
    rng = np.random.default_rng(2)
    embeddings, scores = clusters(3, 800, 16), rng.choice([0, 0.5, 0.7, 1], 800)
    embeddings[::50] = 0
    for options in ({}, {"labelled": [1, 2, 3]}, {"min_distance": 0.2}):
        expected = select(embeddings, scores, 100, strategy=strategy, **options)
        found = select(torch.from_numpy(embeddings).to(dtype), scores, 100, strategy=strategy, **options)
        assert rows(found) == rows(expected)


@pytest.mark.parametrize("shuffled", [False, True])
def test_ties_on_tensors_go_by_name_and_take_no_longer_list(shuffled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy, "_MIN_SHORTLIST", 16)
    sizes: list[int] = []
    real = TensorPass.shortlist

    def noted(self: TensorPass, centers: Any, worth: Any, size: int) -> Any:
        sizes.append(size)
        return real(self, centers, worth, size)

    monkeypatch.setattr(TensorPass, "shortlist", noted)
    embeddings, rng = clusters(6, 500, 8), np.random.default_rng(6)
    names = [f"{number:04d}" for number in (rng.permutation(500) if shuffled else range(500))]
    found = select(torch.from_numpy(embeddings), np.zeros(500), 60, strategy="active_learning", names=names)
    assert [names[row] for row in rows(found)] == sorted(names)[:60]
    assert set(sizes) == {16}


def test_a_file_gives_the_picks_of_the_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("job.select.points._ROWS_PER_READ", 64)
    embeddings, scores = clusters(4, 1000, 8), np.random.default_rng(4).random(1000)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), 8)
    pq.write_table(pa.table({"embedding": vectors}), tmp_path / "a.parquet", row_group_size=150)
    points = ParquetPoints(tmp_path / "a.parquet")
    assert points.shape == (1000, 8)
    expected = select(embeddings, scores, 50, labelled=[999, 0])
    assert select(points, scores, 50, labelled=[999, 0]).picks == expected.picks


def test_a_file_of_doubles_gives_the_distances_of_the_array(tmp_path: Path) -> None:
    embeddings = clusters(8, 300, 6).astype(np.float64) * (1 + 1e-9)
    embeddings[7] = embeddings[3]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), 6)
    pq.write_table(pa.table({"embedding": vectors}), tmp_path / "a.parquet")
    expected = select(embeddings, np.ones(300), 300, labelled=np.array([3]), min_distance=1e-9)
    found = select(ParquetPoints(tmp_path / "a.parquet"), np.ones(300), 300, labelled=[3], min_distance=1e-9)
    assert found.picks == expected.picks


def test_duplicates_are_typical() -> None:
    rng = np.random.default_rng(9)
    embeddings = np.concatenate([np.repeat(rng.normal(size=(5, 16)), 60, axis=0), rng.normal(size=(100, 16))])
    found = typicality(ArrayPoints(embeddings))
    assert (
        (found[:300] == 1).all()
        and (found[300:] < 0.9).all()
        and np.median(found[300:]) == pytest.approx(0.5, abs=0.01)
    )


def test_nothing_left_to_pick_from() -> None:
    assert select(np.eye(3), np.ones(3), 10**12, candidates=[], strategy="two_stage").picks == []
    assert len(select(np.eye(3), np.ones(3), 10**12).picks) == 3


def test_a_file_with_vectors_of_two_lengths_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"embedding": [[1.0, 2.0], [1.0]]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="must all have 2 values"):
        select(ParquetPoints(tmp_path / "a.parquet"), np.ones(2), 1)


@pytest.mark.parametrize("seed", range(5))
def test_coreset_covers_as_well_as_mundig_does(seed: int) -> None:
    """The same picks up to the first tie in single precision; the same radius whatever the ties."""
    embeddings = to_unit_length(np.random.default_rng(seed).normal(size=(3000, 32)))
    engine = lightly_mundig.Selection()
    engine.add_diversifying_strategy(embeddings, 1.0)
    theirs = engine.run_selection([7], 3000, 101)[1:]
    ours = select(embeddings, np.zeros(3000), 100, strategy="coreset", labelled=[7])
    radii = []
    for picks in (theirs, rows(ours)):
        chosen = embeddings[[7, *picks]].astype(np.float64)
        square = 2 - 2 * (embeddings.astype(np.float64) @ chosen.T).max(1)
        radii.append(float(np.sqrt(square.max())))
    assert radii[1] == pytest.approx(radii[0], rel=1e-3)
    same = [ours == theirs for ours, theirs in zip(rows(ours), theirs, strict=True)]
    assert sum(same) >= 95


def test_two_stage_is_coreset_among_the_best() -> None:
    embeddings, scores = clusters(5, 300, 4), np.random.default_rng(5).random(300)
    best = np.argsort(-scores, kind="stable")
    best = best[~np.isin(best, [1, 2])][:40]
    found = select(embeddings, scores, 10, strategy="two_stage", labelled=[1, 2])
    expected = select(embeddings, scores, 10, strategy="coreset", labelled=[1, 2], candidates=best.tolist())
    assert rows(found) == rows(expected) and set(rows(found)) <= set(best.tolist())


def test_typicality_begins_in_the_densest_place_and_leaves_outliers() -> None:
    rng = np.random.default_rng(6)
    dense = np.array([1, 0, 0]) + 0.01 * rng.normal(size=(60, 3))
    thin = np.array([0, 1, 0]) + 0.05 * rng.normal(size=(30, 3))
    outliers = np.array([[0, 0, 1], [0, -1, 0], [-1, 0, 0]])
    embeddings = np.concatenate([dense, thin, outliers])
    typical, spread = (rows(select(embeddings, np.zeros(93), 4, strategy=each)) for each in ("typicality", "coreset"))
    assert typical[0] < 60 <= typical[1] < 90
    assert sum(row >= 90 for row in spread) > sum(row >= 90 for row in typical[:2])


def test_scores_are_divided_by_their_99th_percentile() -> None:
    embeddings, scores = clusters(7, 300, 8), np.random.default_rng(7).random(300) * 9
    utility = SCORE_FLOOR + (1 - SCORE_FLOOR) * scores / np.sort(scores)[-3]  # the rank of 0.99 among 0 ... 299 is 297
    assert rows(select(embeddings, scores, 40)) == naive(embeddings, utility, 40, 1, [])
    few = np.arange(100.0)
    assert scale_scores(few).max() == 1  # of up to 100 images, the 99th percentile is the largest
    assert (scale_scores(few / 99) == few / 99).all()
    assert scale_scores(np.zeros(0)).shape == (0,)


def test_one_crowd_does_not_change_how_all_others_compare() -> None:
    embeddings, scores = clusters(8, 300, 8), np.random.default_rng(8).random(300) * 2
    crowded = scores.copy()
    crowded[scores.argmax()] = 500
    assert rows(select(embeddings, scores, 40)) == rows(select(embeddings, crowded, 40))


def test_invalid_scores_are_named() -> None:
    with pytest.raises(ValueError, match=r"not negative, but are not for b\.jpg: nan, c\.jpg: -1$"):
        select(np.ones((3, 2)), np.array([0.5, np.nan, -1]), 1, names=["a.jpg", "b.jpg", "c.jpg"])


def test_the_library_does_not_import_torch_for_arrays() -> None:
    code = (
        "import sys, numpy\n"
        "from job.select import select\n"
        "assert len(select(numpy.eye(4), numpy.ones(4), 2).picks) == 2\n"
        "sys.exit('torch' in sys.modules or 'detectron2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
