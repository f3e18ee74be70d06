"""rounds/: numbers that do not depend on kills, and what the report says has changed."""

import json
from pathlib import Path
from typing import Any

import pytest

from job.context import Selected
from job.publish import rounds
from job.report import changes
from job.storage.local import LocalFolder


def make_run(run_id: str, classes: dict[str, int], labelled: int = 0, **selection: Any) -> dict[str, Any]:
    counted = {name: {"pool": 100, "picks": count} for name, count in classes.items()}
    return {
        "run_id": run_id,
        "counts": {"usable": 50, "labelled": labelled, "selected": 2, "failed": 0},
        "selection": {"expected_cost": 0.0, "classes": counted, **selection},
    }


def pick(*names: str) -> list[Selected]:
    return [Selected(rank, name, 0.5, 0.5, None, None, "", {}, []) for rank, name in enumerate(names, start=1)]


def read_numbers(folder: Path) -> dict[str, int]:
    return {path.stem: json.loads(path.read_text())["round"] for path in (folder / "rounds").iterdir()}


def test_rounds_are_counted_whatever_is_repeated(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    first, second = make_run("aaaa", {"car": 3, "bus": 1}), make_run("bbbb", {"car": 1, "bus": 3}, labelled=2)
    assert rounds.write(output, first, pick("1", "2")) is None
    assert rounds.write(output, first, pick("1", "2")) is None  # the same run again
    (last,) = [rounds.write(output, second, pick("2", "3"))]
    assert last is not None and last["run_id"] == "aaaa" and read_numbers(tmp_path) == {"aaaa": 1, "bbbb": 2}
    before = (tmp_path / "rounds" / "bbbb.json").read_bytes()
    assert rounds.write(output, second, pick("2", "3")) == last  # after a kill
    assert (tmp_path / "rounds" / "bbbb.json").read_bytes() == before
    rounds.write(output, first, pick("1", "2"))  # back to the first settings
    assert read_numbers(tmp_path) == {"aaaa": 3, "bbbb": 2}


def test_changes_are_those_of_the_figures_and_the_classes(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    rounds.write(output, make_run("aaaa", {"car": 3, "bus": 1, "dog": 4}, expected_boxes=8.0), pick("1", "2"))
    run = make_run("bbbb", {"car": 2, "cat": 2, "dog": 4}, labelled=2, expected_boxes=6.5)
    previous = rounds.write(output, run, pick("2", "3"))
    assert previous is not None
    made = changes.compare(previous, run, ["2", "3"])
    assert (made.run_id, made.num_same) == ("aaaa", 1)
    assert made.rows == [
        ("images in the pool", 50, 50),
        ("labelled images", 0, 2),
        ("picks", 2, 2),
        ("boxes to label, expected", 8.0, 6.5),
    ]
    # Of 8 boxes each: cat from 0 to 2, car from 3 to 2, bus from 1 to 0; dog stays.
    assert made.classes == [("cat", 0, 0.25), ("bus", 0.125, 0), ("car", 0.375, 0.25)]


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"round": "x"}', b"\xff", b'{"round": 1, "counts": 3, "figures": {}}']
)
def test_a_strange_file_is_ignored_with_a_warning(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "rounds").mkdir()
    (tmp_path / "rounds" / "notes.json").write_bytes(content)
    assert rounds.write(LocalFolder(str(tmp_path)), make_run("aaaa", {}), pick("1")) is None
    assert "rounds/notes.json is ignored" in caplog.text.replace("'", "")
