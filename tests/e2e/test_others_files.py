"""Files of others in the output, and two runs in one output; through entrypoint.py, with the demo's model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Job, demo_variables, start_job
from tests.exports.test_paths import tree


@pytest.fixture(scope="module")
def variables(frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The settings of a finished run on seven frames."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "in").mkdir()
    for frame in frames[::40]:
        shutil.copyfile(frame, folder / "in" / frame.name)
    settings = demo_variables(folder / "in", folder / "out", CORAL_N_SAMPLES=4, CORAL_COPY_SELECTED=1)
    settings["CORAL_LIGHTLY_PREDICTIONS"] = 1
    process = start_job(**settings)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return settings


@pytest.fixture
def again(variables: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The same settings for a copy of that output."""
    shutil.copytree(variables["CORAL_OUTPUT"], tmp_path / "out")
    return variables | {"CORAL_OUTPUT": tmp_path / "out"}


@pytest.mark.parametrize("picks", [4, 2])
def test_nothing_of_others_is_touched(again: dict[str, Any], tmp_path: Path, job: Job, picks: int) -> None:
    output = again["CORAL_OUTPUT"]
    elsewhere = tmp_path / "data"
    elsewhere.mkdir()
    for name in ("mine.txt", "precious.dat", "x.xml", "x.json"):
        (elsewhere / name).write_text("mine")
    labels = sorted((output / "exports/yolo/labels").iterdir())
    (output / "exports/yolo/labels/link").symlink_to(elsewhere)
    (output / "exports/yolo/labels/own.txt").write_text("own")
    labels[0].write_text("CORRECTED")
    shutil.rmtree(output / "exports/voc")
    (output / "exports/voc").symlink_to(elsewhere)
    task = next((output / ".lightly/predictions").glob("coralpick-*"))
    (task / "link").symlink_to(elsewhere)
    for record in (output / "parts").glob("done-predictions-*"):
        record.unlink()
    copy = sorted((output / "selected").iterdir())[0]
    copy.write_bytes(b"cropped")
    (output / "selected.csv").write_text("my table")
    finished = job("select", **again | {"CORAL_N_SAMPLES": picks})
    assert finished.returncode == 0, finished.stderr
    assert tree(elsewhere) == dict.fromkeys(("mine.txt", "precious.dat", "x.xml", "x.json"), b"mine")
    assert labels[0].read_text() == "CORRECTED" and copy.read_bytes() == b"cropped"
    assert (output / "exports/yolo/labels/own.txt").read_text() == "own"
    assert len((output / "selected.txt").read_text().splitlines()) == picks
    assert (output / "selected.csv").read_text().count("\n") == picks + 1
    assert next((output / "edited").rglob("selected.csv")).read_text() == "my table"
    assert "were changed by someone else and stay as they are" in finished.stderr


def test_two_runs_with_other_settings_leave_no_mixture(again: dict[str, Any]) -> None:
    output = again["CORAL_OUTPUT"]
    first = start_job("select", **again)
    second = start_job("select", **again | {"CORAL_N_SAMPLES": 2})
    texts = {process: process.communicate(timeout=300)[0] for process in (first, second)}
    codes = {process.returncode for process in texts}
    assert codes <= {0, 75} and 0 in codes, texts
    picks = (output / "selected.txt").read_text().splitlines()
    run = json.loads((output / "run.json").read_text())
    assert run["counts"]["selected"] == len(picks) == len(list((output / "exports/voc").iterdir()))
    assert len(picks) == len(list((output / "exports/yolo/labels").iterdir())) == len(tree(output / "selected"))
    assert (output / "_SUCCESS").read_text() == run["run_id"] + "\n"
    assert not (output / "parts/owner.json").exists()
