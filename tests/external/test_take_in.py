"""Imported predictions: `select` as a process, without a detector."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pyarrow.parquet as pq
import pytest

from job import names
from tests.conftest import ROOT, Job, clean_environment, picture
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
    named = re.search(rf"; most uncertain: {top['class']} \((0\.\d\d)\); ", picks[0]["reason"])
    assert named and float(named[1]) == pytest.approx(top["score"], abs=0.006)
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
    assert refused.returncode == 75 and "provides no embeddings" in refused.stderr
    assert "makes them from the images in `predict` or `run`" in refused.stderr
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


SPELLINGS: dict[str, Callable[[str], str]] = {
    "prefix": lambda name: f"images/{name}",
    "backslashes": lambda name: f".\\{name}",
    "container": lambda name: f"/in/{name}",
    "case": lambda name: name.replace(".jpg", ".JPG"),
    "extension": lambda name: name.replace(".jpg", ".png"),
    "missing": lambda name: name if name in ("0.jpg", "3.jpg", "7.jpg") else f"gone-{name}",
    "none": lambda name: f"gone-{name}",
}


def respell(given: dict[str, Any], spelling: str) -> list[str]:
    """Writes predictions of images that are spelled differently, and returns their names."""
    content = own_coco()
    for image in content["images"]:
        image["file_name"] = SPELLINGS[spelling](image["file_name"])
    Path(given["CORAL_PREDICTIONS"]).write_text(json.dumps(content))
    return [image["file_name"] for image in content["images"]]


def read_rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["file_name"]: row for row in pq.read_table(folder / "out" / "images.parquet").to_pylist()}


@pytest.mark.parametrize(
    ("spelling", "says"),
    [
        ("case", "12 of 12 such names differ from those of files in the case of letters: '0.JPG' and '0.jpg'"),
        ("extension", "12 of 12 such names differ from those of files in the extension: '0.png' and '0.jpg'"),
        ("none", "It names 'gone-0.jpg', 'gone-1.jpg', 'gone-10.jpg' and 9 more; CORAL_INPUT holds '0.jpg', "),
    ],
)
def test_predictions_of_no_image_are_refused_before_any_work(
    given: dict[str, Any], job: Job, tmp_path: Path, spelling: str, says: str
) -> None:
    respell(given, spelling)
    for command in ("select", "check"):
        refused = job(command, **given)
        assert refused.returncode == 64 and says in refused.stderr, refused.stderr
        assert "names 12 images, and none of them is among the 12 of CORAL_INPUT" in refused.stderr
        assert not list(tmp_path.glob("out/parts/*"))


def test_names_of_another_spelling_give_the_same_picks(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    assert job("select", **given).returncode == 0
    expected = (tmp_path / "out" / "selected.jsonl").read_bytes()
    for spelling in ("prefix", "backslashes", "container"):
        first = respell(given, spelling)[0]
        output = tmp_path / spelling
        done = job("select", **given | {"CORAL_OUTPUT": output})
        assert done.returncode == 0, done.stderr
        assert (output / "selected.jsonl").read_bytes() == expected
        (said,) = [line for line in done.stderr.splitlines() if "are spelled differently" in line]
        assert f"12 names are spelled differently from the files, and are matched: {first!r} is '0.jpg'" in said
        assert ("If these are other images, correct the names." in said) == (spelling != "backslashes")
        run = json.loads((output / "run.json").read_text())
        assert run["names"]["predictions"] == {"matched": 12, "unknown": 0, "without": 0}


def test_images_whose_names_are_respelled_can_be_read(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    respell(given, "prefix")
    content = json.loads((tmp_path / "predictions.json").read_text())
    for image in content["images"]:
        del image["width"], image["height"]
    (tmp_path / "predictions.json").write_text(json.dumps(content))
    (tmp_path / "in").mkdir()
    for number in range(12):
        cv2.imwrite(str(tmp_path / "in" / f"{number}.jpg"), picture(number, 48, 64))
    done = job("select", **given | {"CORAL_INPUT": tmp_path / "in", "CORAL_COPY_SELECTED": "1"})
    assert done.returncode == 0, done.stderr
    assert "cannot be read" not in done.stderr and "have unknown width" not in done.stderr
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 4


def test_images_without_predictions_are_rows_and_predictions_without_images_are_counted(
    given: dict[str, Any], job: Job, tmp_path: Path
) -> None:
    respell(given, "missing")
    checked = job("check", **given)
    assert checked.returncode == 0, checked.stderr
    done = job("select", **given)
    assert done.returncode == 0, "CORAL_MAX_FAILED is about files"
    for said in (
        "9 of 12 names are not in CORAL_INPUT and are left out: 'gone-1.jpg', 'gone-10.jpg', 'gone-11.jpg' and 6 more.",
        "9 of 12 images of CORAL_INPUT have no prediction in CORAL_PREDICTIONS=",
    ):
        assert said in done.stderr and said in checked.stderr
    assert "it would use 3 images" in checked.stderr
    assert {pick["file_name"] for pick in read_picks(tmp_path)} == {"0.jpg", "3.jpg", "7.jpg"}
    rows = read_rows(tmp_path)
    absent = {name for name, row in rows.items() if row["error"] == "no prediction in CORAL_PREDICTIONS"}
    assert (len(rows), len(absent)) == (12, 9) and {rows[name]["status"] for name in absent} == {"failed"}
    failures = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert {failure["file_name"] for failure in failures} == absent
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["names"]["predictions"] == {"matched": 3, "unknown": 9, "without": 9}
    assert run["names"]["embeddings"] == {"matched": 12, "unknown": 0, "without": 0}
    assert (run["counts"]["images"], run["counts"]["usable"], run["counts"]["failed"]) == (12, 3, 9)


def test_another_input_makes_other_rows_in_the_same_output(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    """The same predictions are those of a/0.jpg first, and then those of 0.jpg."""
    content = own_coco()
    for image in content["images"]:
        image["file_name"] = f"a/{image['file_name']}"
    Path(given["CORAL_PREDICTIONS"]).write_text(json.dumps(content))
    given |= {"CORAL_STRATEGY": "active_learning"}
    del given["CORAL_EMBEDDING"]
    shown = [box["image_id"] for box in content["annotations"] if box["score"] >= 0.05]
    files = tmp_path / "images.txt"
    files.write_text("1.jpg\na/1.jpg\na/3.jpg\n")
    assert job("select", **given).returncode == 0
    boxes = {name: row["num_boxes"] for name, row in read_rows(tmp_path).items()}
    assert boxes == {"1.jpg": None, "a/1.jpg": shown.count(1), "a/3.jpg": shown.count(3)}
    files.write_text("".join(f"{number}.jpg\n" for number in range(12)))
    assert job("select", **given).returncode == 0
    boxes = {name: row["num_boxes"] for name, row in read_rows(tmp_path).items()}
    assert boxes == {f"{number}.jpg": shown.count(number) for number in range(12)}


def test_the_input_says_which_images_there_are(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    refused = job("select", **given | {"CORAL_INPUT": tmp_path / "nowhere"})
    assert refused.returncode == 64 and "is not a folder" in refused.stderr
    assert "set it to their folder, or to a list of their names (.txt), whose files are not opened" in refused.stderr
    (tmp_path / "empty.txt").write_text("")
    refused = job("select", **given | {"CORAL_INPUT": tmp_path / "empty.txt"})
    assert refused.returncode == 64 and "is an empty list" in refused.stderr
    (tmp_path / "in").mkdir()
    for name in ("0.jpg", "3.jpg"):
        (tmp_path / "in" / name).write_bytes(b"is not decoded")
    done = job("select", **given | {"CORAL_INPUT": tmp_path / "in"})
    assert done.returncode == 0, done.stderr
    assert {pick["file_name"] for pick in read_picks(tmp_path)} == {"0.jpg", "3.jpg"}


def test_labelled_images_without_predictions_are_in_the_input(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    respell(given, "missing")
    (tmp_path / "labelled.txt").write_text("1.jpg\n3.jpg\nold.jpg\n")
    done = job("select", **given, CORAL_LABELLED=tmp_path / "labelled.txt")
    assert done.returncode == 0, done.stderr
    assert "1 of 3 names are not in CORAL_INPUT and are left out: 'old.jpg'." in done.stderr
    assert {pick["file_name"] for pick in read_picks(tmp_path)} == {"0.jpg", "7.jpg"}
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["names"]["labelled"] == {"matched": 2, "unknown": 1, "without": 10} and run["counts"]["labelled"] == 2


def test_results_of_entirely_other_images_are_replaced_with_a_warning(
    given: dict[str, Any], job: Job, tmp_path: Path
) -> None:
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text("0.jpg\n3.jpg\n")
    other.write_text("5.jpg\n7.jpg\n")
    assert job("select", **given | {"CORAL_INPUT": one}).returncode == 0
    says = "CORAL_OUTPUT holds results of 2 other images, such as '0.jpg', and none of them is in CORAL_INPUT."
    checked = job("check", **given | {"CORAL_INPUT": other})
    assert checked.returncode == 0 and says in checked.stderr + checked.stdout
    assert "holds results" not in job("select", **given | {"CORAL_INPUT": one}).stderr
    done = job("select", **given | {"CORAL_INPUT": other})
    assert done.returncode == 0 and says in done.stderr
    changed = own_coco()
    changed["annotations"][0]["score"] = 0.5
    (tmp_path / "predictions.json").write_text(json.dumps(changed))
    for command in ("check", "select"):
        refused = job(command, **given)
        assert refused.returncode == 64 and "holds results of other settings" in refused.stderr + refused.stdout


def test_run_and_predict_refuse_predictions(given: dict[str, Any], job: Job) -> None:
    for command in ("run", "predict"):
        refused = job(command, **given)
        assert refused.returncode == 64 and "use `select`" in refused.stderr


def test_check_warns_that_class_probabilities_are_missing(given: dict[str, Any], job: Job) -> None:
    done = job("check", **given)
    assert "12 images with boxes of 2 classes" in done.stderr + done.stdout
    assert (done.stderr + done.stdout).count("have no class probabilities, so uncertainty_least_confidence, ") == 1
