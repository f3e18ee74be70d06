"""The table of output files: it covers what runs leave, and agrees with the rooms that write the files."""

import ast
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from job import exports, parts, publish
from job.embed import table
from job.exports import copies, lightly_files, writing
from job.lightly import upload
from job.parts import owned
from tests.conftest import ROOT, Job, demo_variables
from tests.standins.lightly_server import TOKEN, LightlyServer
from tests.test_imports import loaded


def find_record(path: str) -> publish.OutputFile | None:
    """The most specific record of a file in the output."""
    matches = []
    for file in publish.FILES:
        pattern = r"\d+".join(re.escape(piece) for piece in re.split(r"{\w+}", file.name))
        if re.fullmatch(pattern + (".+" if file.name.endswith("/") else ""), path):
            matches.append(file)
    return max(matches, key=lambda file: len(file.name), default=None)


def check_output(output: Path, missing: Iterable[str] = ()) -> None:
    """Checks that every file of an output has a record, and every record but those missing has a file."""
    paths = [path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()]
    records = {path: find_record(path) for path in paths}
    assert [path for path, record in records.items() if record is None] == []
    names = {record.name for record in records.values() if record}
    assert {file.name for file in publish.FILES} - names == set(missing)


def test_a_run_with_everything_leaves_what_is_in_the_table(
    few_frames: Path, tmp_path: Path, job: Job, server: LightlyServer
) -> None:
    variables = demo_variables(few_frames, tmp_path / "out", CORAL_COPY_SELECTED=1)
    lightly = {"LIGHTLY_TOKEN": TOKEN, "LIGHTLY_SERVER_LOCATION": server.url, "CORAL_LIGHTLY_DATASET": "demo"}
    finished = job(**variables, **lightly, NO_PROXY="127.0.0.1")
    assert finished.returncode == 0, finished.stderr
    check_output(tmp_path / "out", missing=[publish.EDITED, publish.STATUS_OF_SHARD])


def test_names_are_those_of_the_rooms_below() -> None:
    assert publish.PARTS == parts.FOLDER
    assert publish.EMBEDDINGS == table.NAME
    assert (publish.EXPORTS, publish.ALL_IMAGES) == (writing.FOLDER, exports.ALL_IMAGES)
    assert (publish.SELECTED, publish.COPIES) == (copies.FOLDER, copies.LIST)
    assert publish.LIGHTLY_PREDICTIONS == lightly_files.FOLDER
    assert publish.LIGHTLY == upload.REPORT
    assert (publish.EDITED, publish.LEDGER) == (owned.EDITED, owned.LEDGER_FOLDER)


def test_records_are_complete() -> None:
    names = [file.name for file in publish.FILES]
    assert len(set(names)) == len(names)
    constants = {value for name, value in vars(publish).items() if name.isupper() and isinstance(value, str)}
    assert set(names) == constants
    for file in publish.FILES:
        assert importlib.util.find_spec(file.writer), file.writer
        assert all((file.written, file.content))
        assert "|" not in file.content + file.written


def test_a_file_is_found_by_its_most_specific_record() -> None:
    assert find_record("status-3-of-16.json") == find_record("status-0-of-2.json") != find_record("status.json")
    assert (record := find_record("exports/copies.jsonl")) and record.name == publish.COPIES
    assert (record := find_record("exports/voc/sub/a.xml")) and record.name == publish.EXPORTS
    assert find_record("other.json") is None and find_record("exports/") is None


def test_no_writer_above_repeats_a_name() -> None:
    names = {file.name for file in publish.FILES}
    for path in [*(ROOT / "job" / "publish").glob("*.py"), ROOT / "job" / "pipeline.py"]:
        if path.name == "__init__.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert not names & texts, path


def test_the_table_loads_no_library() -> None:
    assert loaded("import job.publish").isdisjoint({"numpy", "pyarrow", "torch"})
