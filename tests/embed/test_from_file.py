"""Own predictions and own embeddings: `select` as a process, without a detector."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from job import names
from job.embed import from_file
from job.errors import SettingsError
from tests.conftest import ROOT, Job, clean_environment, demo_variables

# Fails the process if a selection brings in what it can do without.
WATCHED = """
import runpy, sys
sys.argv = ["entrypoint.py", "select"]
try:
    runpy.run_path("entrypoint.py", run_name="__main__")
finally:
    loaded = {"torch", "detectron2", "lightly", "torchvision"} & sys.modules.keys()
    assert not loaded, loaded
"""


def coco(count: int = 12) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    annotations = [
        {"image_id": image, "category_id": int(rng.integers(1, 3)), "bbox": [1, 2, 30, 40], "score": round(score, 3)}
        for image in range(count)
        for score in rng.random(image % 4).tolist()
    ]
    return {
        "images": [{"id": each, "file_name": f"{each}.jpg", "width": 64, "height": 48} for each in range(count)],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "dog"}],
        "annotations": annotations,
    }


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """Predictions and embeddings of twelve images, and the variables that name them."""
    (tmp_path / "predictions.json").write_text(json.dumps(coco()))
    vectors = np.random.default_rng(1).normal(size=(12, 3)).astype(np.float32)
    keys = [f"{each}.jpg" for each in reversed(range(12))]
    table = pa.table({"file_name": keys, "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 3)})
    pq.write_table(table, tmp_path / "embeddings.parquet")
    return {
        "CORAL_INPUT": tmp_path / "not there",
        "CORAL_OUTPUT": tmp_path / "out",
        "CORAL_PREDICTIONS": tmp_path / "predictions.json",
        "CORAL_EMBEDDING": tmp_path / "embeddings.parquet",
        "CORAL_N_SAMPLES": 4,
    }


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(each) for each in (folder / "out" / "selected.jsonl").read_text().splitlines()]


def test_selects_without_a_detector_and_without_torch(given: dict[str, Any], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED], cwd=ROOT, env=clean_environment(**given), capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    picks = lines(tmp_path)
    assert names.parse((tmp_path / "out" / "selected.txt").read_text()) == [each["file_name"] for each in picks]
    assert len(picks) == 4 and all(each["boxes"] for each in picks[:1]) and "uncertain between" in picks[0]["reason"]
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["detector"]["probabilities"] == "synthetic" and run["embedding"]["method"] == "own"
    assert run["detector"]["class_names"] == ["car", "dog"] and run["device"] is None
    table = pq.read_table(tmp_path / "out" / "images.parquet").to_pylist()
    assert [each["num_boxes"] for each in table if each["file_name"] in ("3.jpg", "5.jpg")] == [3, 1]
    assert {each["width"] for each in table} == {64}


def test_again_gives_the_same_and_other_predictions_are_refused(
    given: dict[str, Any], job: Job, tmp_path: Path
) -> None:
    files = ("selected.txt", "selected.jsonl", "images.parquet", "embeddings.parquet", "exports/coco.json")
    found = []
    for _ in range(2):
        assert job("select", **given).returncode == 0
        found.append([(tmp_path / "out" / name).read_bytes() for name in files])
    assert found[0] == found[1]
    other = coco()
    other["annotations"][0]["score"] = 0.5
    (tmp_path / "other.json").write_text(json.dumps(other))
    refused = job("select", **given | {"CORAL_PREDICTIONS": tmp_path / "other.json"})
    assert refused.returncode == 64 and "holds results of other settings" in refused.stderr


@pytest.mark.parametrize("name", ["embeddings.csv", "lightlys.csv"])
def test_csv_embeddings(given: dict[str, Any], job: Job, tmp_path: Path, name: str) -> None:
    table = pq.read_table(tmp_path / "embeddings.parquet").to_pylist()
    first, more = ("filenames", ",labels") if name == "lightlys.csv" else ("file_name", "")
    text = f"{first},embedding_0,embedding_1,embedding_2{more}\n"
    for each in table:
        text += ",".join([each["file_name"], *(repr(number) for number in each["embedding"]), *(["0"] if more else [])])
        text += "\n"
    (tmp_path / name).write_text(text)
    assert job("select", **given).returncode == 0
    expected = (tmp_path / "out" / "selected.txt").read_bytes()
    given |= {"CORAL_EMBEDDING": tmp_path / name, "CORAL_OUTPUT": tmp_path / "other"}
    assert job("select", **given).returncode == 0
    assert (tmp_path / "other" / "selected.txt").read_bytes() == expected


def test_embeddings_alone(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    done = job("select", **given | {"CORAL_PREDICTIONS": "none", "CORAL_STRATEGY": "coreset"})
    assert done.returncode == 0, done.stderr
    assert len(lines(tmp_path)) == 4 and {each["score"] for each in lines(tmp_path)} == {None}
    assert "num_boxes" not in pq.read_table(tmp_path / "out" / "images.parquet").column_names
    assert "classes" not in json.loads((tmp_path / "out" / "run.json").read_text())["selection"]
    blind = job("select", **given | {"CORAL_PREDICTIONS": "none", "CORAL_OUTPUT": tmp_path / "other"})
    assert blind.returncode == 64 and "needs predictions" in blind.stderr


def test_predictions_alone(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    del given["CORAL_EMBEDDING"]
    refused = job("select", **given)
    assert refused.returncode == 64 and "provides no embeddings" in refused.stderr
    done = job("select", CORAL_STRATEGY="active_learning", **given)
    assert done.returncode == 0, done.stderr
    assert all(each["distance"] is None and "from the nearest" not in each["reason"] for each in lines(tmp_path))
    assert "covering_radius" not in json.loads((tmp_path / "out" / "run.json").read_text())["selection"]


def test_thresholds_on_sizes_that_are_not_known_are_an_error(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    sized = coco()
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


def test_wrong_classes_and_embeddings_are_told_before_detection(few_frames: Path, job: Job, tmp_path: Path) -> None:
    variables = demo_variables(few_frames, tmp_path / "out")
    (tmp_path / "a.csv").write_text("file_name,x\nnone of them.jpg,1\n")
    for wrong, says in (
        ({"CORAL_CLASS_WEIGHTS": "bycicle=2"}, "names 'bycicle', which is not a class"),
        ({"CORAL_EMBEDDING": tmp_path / "a.csv"}, "has none for 12 of 12 images"),
    ):
        done = job(**variables | wrong)
        assert done.returncode == 64 and says in done.stderr
        assert not list((tmp_path / "out").rglob("part-*"))


def test_run_and_predict_refuse_predictions(given: dict[str, Any], job: Job) -> None:
    for command in ("run", "predict"):
        refused = job(command, **given)
        assert refused.returncode == 64 and "use `select`" in refused.stderr


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (pa.table({"name": ["a"], "embedding": [[1.0]]}), "has no column file_name, but name, embedding"),
        (pa.table({"file_name": ["a", "a"], "embedding": [[1.0], [2.0]]}), "has two embeddings of 'a'"),
        (pa.table({"file_name": ["a", "b"], "embedding": [[1.0], [2.0, 3.0]]}), "of different lengths"),
        (pa.table({"file_name": ["a", "b"], "embedding": [[1.0], None]}), "of different lengths"),
        (pa.table({"file_name": ["a", "b"], "embedding": [[1.0], [float("nan")]]}), "not finite for 'b'"),
        (pa.table({"file_name": ["a"], "embedding": [["x"]]}), "no numbers"),
        (pa.table({"file_name": ["a"], "x": ["y"]}), "no numbers"),
        (pa.table({"file_name": ["a"], "embedding": [[1.0]]}), "has none for 1 of 2 images: 'b'"),
    ],
)
def test_what_is_wrong_with_embeddings_is_said(tmp_path: Path, table: Any, says: str) -> None:
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SettingsError, match=says):
        from_file.of_pool(str(tmp_path / "a.parquet"), ["a", "b"])


def test_a_file_that_is_not_there_or_none(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    for name in ("a.parquet", "b.csv"):
        with pytest.raises(SettingsError, match="cannot be read"):
            from_file.read(str(tmp_path / name))
