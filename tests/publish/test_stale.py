"""Files of an earlier run that a later run does not write: they go, and what the job did not write stays."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from job import names
from job.publish import ALL_IMAGES, COPIES, DETECTIONS, EDITED, EXPORTS, LIGHTLY, PARTS, SELECTED, stale
from job.storage.local import LocalFolder
from tests.conftest import Job, settings
from tests.external import write_own_data


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """Predictions of twelve images, whose files are there."""
    variables = write_own_data(tmp_path)
    (tmp_path / "in").mkdir()
    for number in range(12):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(b"is only copied")
    return variables | {"CORAL_INPUT": tmp_path / "in"}


def list_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_files_that_a_later_run_does_not_write_are_removed(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert job("select", **given, CORAL_COPY_SELECTED="1").returncode == 0
    picks = names.parse((output / "selected.txt").read_text())
    assert {ALL_IMAGES, COPIES, *(SELECTED + pick for pick in picks)} <= list_files(output)
    (output / LIGHTLY).write_text("{}")  # as an upload leaves it
    mine = {f"{SELECTED}mine.txt", f"{EXPORTS}mine.txt", "predictions/mine.json", "mine.txt"}
    for name in mine:
        (output / name).write_text("an annotator's work")
    assert job("select", **given, CORAL_EXPORTS="none").returncode == 0
    left = list_files(output)
    assert mine <= left and DETECTIONS in left
    assert not {ALL_IMAGES, COPIES, LIGHTLY} & left
    assert {name for name in left if name.startswith((SELECTED, EXPORTS))} == {
        f"{SELECTED}mine.txt",
        f"{EXPORTS}mine.txt",
    }


def test_a_run_without_detections_removes_the_pre_labels(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert job("select", **given).returncode == 0
    (output / EXPORTS / "mine.txt").write_text("an annotator's work")
    shutil.rmtree(output / PARTS)  # as the message about other settings advises
    done = job("select", **given | {"CORAL_PREDICTIONS": "none", "CORAL_STRATEGY": "coreset"})
    assert done.returncode == 0, done.stderr
    left = list_files(output)
    assert {name for name in left if name.startswith(EXPORTS)} == {f"{EXPORTS}mine.txt"}
    assert not {ALL_IMAGES, DETECTIONS} & left and not any(name.startswith(EDITED) for name in left)


def test_files_of_these_names_in_a_folder_without_results_are_the_users(
    given: dict[str, Any], job: Job, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    (output / ALL_IMAGES).parent.mkdir(parents=True)
    (output / ALL_IMAGES).write_text("mine")
    assert job("select", **given, CORAL_EXPORTS="none").returncode == 0
    assert (output / ALL_IMAGES).read_text() == "mine"


def test_a_file_that_the_run_reads_is_kept(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    for name in stale.OPTIONAL:
        output.write(name, b"")
    stale.remove(output, settings(predictions=f"{tmp_path}/{ALL_IMAGES}"), {DETECTIONS})
    assert list_files(tmp_path) == {ALL_IMAGES, DETECTIONS}
