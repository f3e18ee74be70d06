"""The demo's own detections out and in again by every format: with class probabilities they are the same run, and
without them nearly so.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from job import names, pipeline
from job.stopping import Stop
from tests.conftest import Job, demo_variables, settings, start_job
from tests.external.writers import WITH_PROBABILITIES, WRITERS, Detected, output

COUNT = 20
SCORES = ("uncertainty_entropy", "uncertainty_margin", "entropy_sum")


@pytest.fixture(scope="module")
def own_run(frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run on the frames of the demo."""
    folder = tmp_path_factory.mktemp("run") / "out"
    process = start_job(**demo_variables(frames[0].parent, folder, CORAL_N_SAMPLES=COUNT, CORAL_LIGHTLY_PREDICTIONS=1))
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return folder


@pytest.fixture(scope="module")
def classes(own_run: Path) -> tuple[str, ...]:
    return tuple(json.loads((own_run / "run.json").read_text())["detector"]["class_names"])


@pytest.fixture(scope="module")
def detections(own_run: Path, classes: tuple[str, ...]) -> list[Detected]:
    """The detections of that run, with all class probabilities."""
    rows = [row for path in (own_run / "parts").rglob("part-*.parquet") for row in pq.read_table(path).to_pylist()]
    return [
        Detected(
            row["key"],
            row["width"],
            row["height"],
            np.array(row["boxes"], np.float64).reshape(-1, 4),
            np.array(row["scores"], np.float64),
            np.array(row["classes"], np.int64),
            np.array(row["class_probabilities"], np.float64).reshape(-1, len(classes) + 1),
        )
        for row in sorted(rows, key=lambda row: row["key"])
    ]


def select_again(own_run: Path, frames: list[Path], written: tuple[Any, Any], folder: Path) -> None:
    uri, class_names = written
    ours = settings(
        input=str(frames[0].parent),
        output=str(folder),
        predictions=str(uri),
        classes=class_names,
        embedding=str(own_run / "embeddings.parquet"),
        n_samples=COUNT,
        exports=("coco",),
    )
    pipeline.select(ours, Stop())


def list_picks(folder: Path) -> list[str]:
    return names.parse((folder / "selected.txt").read_text())


def read_scores(folder: Path, score: str = "uncertainty_entropy") -> Any:
    return pq.read_table(folder / "images.parquet")[score].to_numpy()


def test_our_own_coco_file_comes_back_as_the_same_run(
    own_run: Path, frames: list[Path], job: Job, tmp_path: Path
) -> None:
    done = job(
        "select",
        CORAL_INPUT=frames[0].parent,
        CORAL_OUTPUT=tmp_path / "out",
        CORAL_PREDICTIONS=own_run / "predictions/coco.json",
        CORAL_EMBEDDING=own_run / "embeddings.parquet",
        CORAL_N_SAMPLES=COUNT,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr.upper(), "true boxes on their own images"
    assert list_picks(tmp_path / "out") == list_picks(own_run)
    for score in SCORES:
        np.testing.assert_array_equal(read_scores(tmp_path / "out", score), read_scores(own_run, score))
    one, other = (json.loads((folder / "predictions/coco.json").read_text()) for folder in (own_run, tmp_path / "out"))
    assert one["annotations"] == other["annotations"]


def test_the_output_itself_comes_back_as_the_same_run(own_run: Path, frames: list[Path], tmp_path: Path) -> None:
    select_again(own_run, frames, (own_run, None), tmp_path)
    assert list_picks(tmp_path) == list_picks(own_run)
    for score in (*SCORES, "suspected_misses"):
        np.testing.assert_array_equal(read_scores(tmp_path, score), read_scores(own_run, score))


def test_our_own_files_for_lightly_rank_the_images_nearly_as_the_run_did(
    own_run: Path, frames: list[Path], tmp_path: Path
) -> None:
    """Their probabilities have no background, and that of a YOLO is not what the score leaves."""
    select_again(own_run, frames, (own_run / ".lightly/predictions", None), tmp_path)
    assert spearmanr(read_scores(tmp_path), read_scores(own_run)).statistic >= 0.9
    assert json.loads((tmp_path / "run.json").read_text())["detector"]["probabilities"] == "external"


@pytest.mark.parametrize("name", WITH_PROBABILITIES)
def test_class_probabilities_in_any_format_give_the_same_picks(
    own_run: Path, frames: list[Path], detections: list[Detected], classes: tuple[str, ...], tmp_path: Path, name: str
) -> None:
    written = WITH_PROBABILITIES[name](tmp_path / "given", detections, classes)
    select_again(own_run, frames, written, tmp_path / "out")
    assert list_picks(tmp_path / "out") == list_picks(own_run)
    for score in SCORES:
        np.testing.assert_allclose(read_scores(tmp_path / "out", score), read_scores(own_run, score), atol=2e-3, rtol=0)
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["detector"]["probabilities"] == ("softmax" if name == "output" else "external")


@pytest.mark.parametrize("name", [name for name, writer in WRITERS.items() if writer is not output])
def test_scores_alone_rank_the_images_nearly_as_class_probabilities_do(
    own_run: Path, frames: list[Path], detections: list[Detected], classes: tuple[str, ...], tmp_path: Path, name: str
) -> None:
    bare = [replace(image, probabilities=None) for image in detections]
    select_again(own_run, frames, WRITERS[name](tmp_path / "given", bare, classes), tmp_path / "out")
    scores = read_scores(tmp_path / "out")
    assert len(scores) == len(frames)
    assert spearmanr(scores, read_scores(own_run)).statistic >= 0.75
    assert (scores > 0.9).sum() == 0
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["detector"]["probabilities"] == "synthetic"
    again = json.loads((tmp_path / "out/predictions/coco.json").read_text())
    assert not any("probabilities" in annotation for annotation in again["annotations"])
    for pick in (json.loads(line) for line in (tmp_path / "out/selected.jsonl").read_text().splitlines()):
        own = {f"{box['class']} ({box['score']:.2f})" for box in pick["boxes"]}
        named = [part for part in pick["reason"].split("; ") if "(0." in part]
        assert all(part.removeprefix("most uncertain: ").removeprefix("a low-confidence ") in own for part in named)
        assert len(named) == min(1, len(own))
