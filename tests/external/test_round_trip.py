"""The demo's own detections out and in again: with class probabilities as the same run, without them nearly so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from job import names
from tests.conftest import Job, demo_variables, start_job

COUNT = 20


@pytest.fixture(scope="module")
def own_run(frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run on the frames of the demo."""
    output = tmp_path_factory.mktemp("run") / "out"
    process = start_job(**demo_variables(frames[0].parent, output, CORAL_N_SAMPLES=COUNT))
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return output


def select_again(job: Job, own_run: Path, frames: list[Path], predictions: Path, output: Path) -> None:
    done = job(
        "select",
        CORAL_INPUT=frames[0].parent,
        CORAL_OUTPUT=output,
        CORAL_PREDICTIONS=predictions,
        CORAL_EMBEDDING=own_run / "embeddings.parquet",
        CORAL_N_SAMPLES=COUNT,
    )
    assert done.returncode == 0, done.stderr


def list_picks(output: Path) -> list[str]:
    return names.parse((output / "selected.txt").read_text())


def read_scores(output: Path, score: str = "uncertainty_entropy") -> Any:
    return pq.read_table(output / "images.parquet")[score].to_numpy()


def test_our_own_coco_file_comes_back_as_the_same_run(
    own_run: Path, frames: list[Path], job: Job, tmp_path: Path
) -> None:
    select_again(job, own_run, frames, own_run / "predictions/coco.json", tmp_path / "out")
    assert list_picks(tmp_path / "out") == list_picks(own_run)
    for score in ("uncertainty_entropy", "uncertainty_margin", "entropy_sum"):
        np.testing.assert_array_equal(read_scores(tmp_path / "out", score), read_scores(own_run, score))
    one, other = (json.loads((folder / "predictions/coco.json").read_text()) for folder in (own_run, tmp_path / "out"))
    assert one["annotations"] == other["annotations"]


def test_the_output_itself_comes_back_as_the_same_run(
    own_run: Path, frames: list[Path], job: Job, tmp_path: Path
) -> None:
    select_again(job, own_run, frames, own_run, tmp_path / "out")
    assert list_picks(tmp_path / "out") == list_picks(own_run)
    for score in ("uncertainty_entropy", "suspected_misses"):
        np.testing.assert_array_equal(read_scores(tmp_path / "out", score), read_scores(own_run, score))


def test_scores_alone_rank_the_images_nearly_as_class_probabilities_do(
    own_run: Path, frames: list[Path], job: Job, tmp_path: Path
) -> None:
    content = json.loads((own_run / "predictions/coco.json").read_text())
    for annotation in content["annotations"]:
        del annotation["probabilities"]
    (tmp_path / "scores.json").write_text(json.dumps(content))
    select_again(job, own_run, frames, tmp_path / "scores.json", tmp_path / "out")
    scores = read_scores(tmp_path / "out")
    assert spearmanr(scores, read_scores(own_run)).statistic >= 0.75
    assert (scores > 0.9).sum() == 0
    again = json.loads((tmp_path / "out/predictions/coco.json").read_text())
    assert not any("probabilities" in annotation for annotation in again["annotations"])
    for pick in (json.loads(line) for line in (tmp_path / "out/selected.jsonl").read_text().splitlines()):
        own = {f"{box['class']} ({box['score']:.2f})" for box in pick["boxes"]}
        reason = pick["reason"].partition(";")[0].removeprefix("a low-confidence ").removeprefix("most uncertain: ")
        assert reason in own | {"nothing detected"}
