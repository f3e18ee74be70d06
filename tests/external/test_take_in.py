"""Imported predictions: `select` as a process, without a detector."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from job import names
from tests.conftest import ROOT, Job, clean_environment
from tests.external import own_coco, read_picks, write_own_data

# Fails the process if a selection imports what it can do without.
WATCHED = """
import runpy, sys
sys.argv = ["entrypoint.py", "select"]
try:
    runpy.run_path("entrypoint.py", run_name="__main__")
finally:
    loaded = {"torch", "detectron2", "lightly", "torchvision"} & sys.modules.keys()
    assert not loaded, loaded
"""


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    return write_own_data(tmp_path)


def test_selects_without_a_detector_and_without_torch(given: dict[str, Any], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED], cwd=ROOT, env=clean_environment(**given), capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    picks = read_picks(tmp_path)
    assert names.parse((tmp_path / "out" / "selected.txt").read_text()) == [each["file_name"] for each in picks]
    assert len(picks) == 4 and all(each["boxes"] for each in picks[:1])
    top = picks[0]["boxes"][0]  # no class that was not predicted, and the box's own confidence
    assert picks[0]["reason"].startswith(f"most uncertain: {top['class']} ({top['score']:.2f}); ")
    assert done.stderr.count("have no class probabilities, so uncertainty_least_confidence, ") == 1
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["detector"]["probabilities"] == "synthetic" and run["embedding"]["method"] == "own"
    assert run["detector"]["class_names"] == ["car", "dog"] and run["device"] is None
    table = pq.read_table(tmp_path / "out" / "images.parquet").to_pylist()
    assert [each["num_boxes"] for each in table if each["file_name"] in ("3.jpg", "5.jpg")] == [3, 1]
    assert {each["width"] for each in table} == {64}


def test_a_second_run_gives_the_same_and_other_predictions_are_refused(
    given: dict[str, Any], job: Job, tmp_path: Path
) -> None:
    files = ("selected.txt", "selected.jsonl", "images.parquet", "embeddings.parquet", "exports/coco.json")
    found = []
    for _ in range(2):
        assert job("select", **given).returncode == 0
        found.append([(tmp_path / "out" / name).read_bytes() for name in files])
    assert found[0] == found[1]
    other = own_coco()
    other["annotations"][0]["score"] = 0.5
    (tmp_path / "other.json").write_text(json.dumps(other))
    refused = job("select", **given | {"CORAL_PREDICTIONS": tmp_path / "other.json"})
    assert refused.returncode == 64 and "holds results of other settings" in refused.stderr


def test_predictions_alone(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    del given["CORAL_EMBEDDING"]
    refused = job("select", **given)
    assert refused.returncode == 64 and "provides no embeddings" in refused.stderr
    done = job("select", CORAL_STRATEGY="active_learning", **given)
    assert done.returncode == 0, done.stderr
    assert all(each["distance"] is None and "from the nearest" not in each["reason"] for each in read_picks(tmp_path))
    assert "covering_radius" not in json.loads((tmp_path / "out" / "run.json").read_text())["selection"]


def test_thresholds_on_unknown_sizes_are_refused(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    sized = own_coco()
    del sized["images"][4]["width"], sized["images"][4]["height"]
    (tmp_path / "predictions.json").write_text(json.dumps(sized))
    wanted = [
        {"input": {"type": "EMBEDDINGS"}, "strategy": {"type": "DIVERSITY"}},
        {
            "input": {"type": "METADATA", "key": "height"},
            "strategy": {"type": "THRESHOLD", "threshold": 10, "operation": "BIGGER"},
        },
    ]
    done = job("select", CORAL_STRATEGY=json.dumps(wanted), **given)
    assert done.returncode == 64 and "uses 'height', which is unknown for '4.jpg'" in done.stderr


def test_run_and_predict_refuse_predictions(given: dict[str, Any], job: Job) -> None:
    for command in ("run", "predict"):
        refused = job(command, **given)
        assert refused.returncode == 64 and "use `select`" in refused.stderr


def test_check_warns_that_class_probabilities_are_missing(given: dict[str, Any], job: Job) -> None:
    done = job("check", **given)
    assert "12 images with boxes of 2 classes" in done.stderr + done.stdout
    assert (done.stderr + done.stdout).count("have no class probabilities, so uncertainty_least_confidence, ") == 1
