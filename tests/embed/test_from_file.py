"""Embeddings made elsewhere: `select` as a process, and invalid files."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from job.embed import from_file
from job.errors import SettingsError
from tests.conftest import Job, demo_variables
from tests.external import read_picks, write_own_data


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    return write_own_data(tmp_path)


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
    assert len(read_picks(tmp_path)) == 4 and {each["score"] for each in read_picks(tmp_path)} == {None}
    assert "num_boxes" not in pq.read_table(tmp_path / "out" / "images.parquet").column_names
    assert "classes" not in json.loads((tmp_path / "out" / "run.json").read_text())["selection"]
    blind = job("select", **given | {"CORAL_PREDICTIONS": "none", "CORAL_OUTPUT": tmp_path / "other"})
    assert blind.returncode == 64 and "needs predictions" in blind.stderr


def test_wrong_classes_and_embeddings_are_refused_before_detection(few_frames: Path, job: Job, tmp_path: Path) -> None:
    variables = demo_variables(few_frames, tmp_path / "out")
    (tmp_path / "a.csv").write_text("file_name,x\nnone of them.jpg,1\n")
    for wrong, says in (
        ({"CORAL_CLASS_WEIGHTS": "bycicle=2"}, "names 'bycicle', which is not a class"),
        ({"CORAL_EMBEDDING": tmp_path / "a.csv"}, "has no embedding for 12 of 12 images"),
    ):
        done = job(**variables | wrong)
        assert done.returncode == 64 and says in done.stderr
        assert not list((tmp_path / "out").rglob("part-*"))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (pa.table({"name": ["a"], "embedding": [[1.0]]}), "has no column file_name, only name, embedding"),
        (pa.table({"file_name": ["a", "a"], "embedding": [[1.0], [2.0]]}), "has two embeddings of 'a'"),
        (pa.table({"file_name": ["a", "b"], "embedding": [[1.0], [2.0, 3.0]]}), "of different lengths"),
        (pa.table({"file_name": ["a", "b"], "embedding": [[1.0], None]}), "of different lengths"),
        (pa.table({"file_name": ["a", "b"], "embedding": [[1.0], [float("nan")]]}), "not finite for 'b'"),
        (pa.table({"file_name": ["a"], "embedding": [["x"]]}), "not numbers"),
        (pa.table({"file_name": ["a"], "x": ["y"]}), "not numbers"),
        (pa.table({"file_name": ["a"], "embedding": [[1.0]]}), "has no embedding for 1 of 2 images: 'b'"),
    ],
)
def test_invalid_embeddings_are_refused(tmp_path: Path, table: Any, says: str) -> None:
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SettingsError, match=says):
        from_file.read_for_pool(str(tmp_path / "a.parquet"), ["a", "b"])


def test_a_missing_or_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    for name in ("a.parquet", "b.csv"):
        with pytest.raises(SettingsError, match="cannot be read"):
            from_file.read(str(tmp_path / name))
