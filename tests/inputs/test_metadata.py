"""CORAL_METADATA: each format, each mismatch of names, each kind of column in each strategy."""

import datetime
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from job import choose
from job.errors import SettingsError
from job.inputs import metadata
from job.parts.pool import Pool
from job.preflight import inputs
from job.preflight.check import State, Warn
from job.publish import tables
from job.settings.strategy import parse_strategy
from job.shards import Shard
from job.stopping import Stop
from job.storage import Entry, Listing
from job.storage.local import LocalFolder
from tests.conftest import Job, settings
from tests.external import read_picks, write_own_data
from tests.publish.test_boxes import selected_from
from tests.settings.test_strategy import entry

WHEN = datetime.datetime(2024, 5, 17, 12, 30)
ROWS: list[dict[str, Any]] = [
    {"file_name": "a.jpg", "camera": "front", "speed": 1.5, "lane": 2, "night": True, "day": "2024-05-17"},
    {"file_name": "7", "camera": "NA", "speed": None, "lane": None, "night": None, "day": None},
    {"file_name": "sub/ä.jpg", "camera": None, "speed": 0.0, "lane": -1, "night": False, "day": "2024-05-18"},
]


def listing(*names: str) -> Listing:
    return Listing.from_entries(Entry(name, "", 1) for name in names)


def write(folder: Path, name: str, content: Any = None) -> str:
    path = folder / name
    columns = {column: [row[column] for row in ROWS] for column in ROWS[0]} if content is None else content
    if name.endswith(".parquet"):
        pq.write_table(pa.table(columns), path)
    elif isinstance(columns, str):
        path.write_text(columns)
    elif name.endswith(".jsonl"):
        lines = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        path.write_text("\ufeff" + "\n".join(map(json.dumps, lines)))
    else:
        lists = [[*columns], *zip(*columns.values(), strict=True)]
        path.write_text(
            "".join(",".join("" if cell is None else str(cell) for cell in cells) + "\n" for cells in lists)
        )
    return str(path)


@pytest.mark.parametrize("name", ["m.csv", "m.parquet", "m.jsonl"])
def test_every_format_gives_the_same_columns(tmp_path: Path, name: str) -> None:
    table = metadata.read(write(tmp_path, name))
    assert table.file_names == [row["file_name"] for row in ROWS]
    assert {name: column.to_pylist() for name, column in table.columns.items()} == {
        column: [row[column] for row in ROWS] for column in ROWS[0] if column != "file_name"
    }
    assert [str(column.type) for column in table.columns.values()] == ["string", "double", "int64", "bool", "string"]
    taken = table.take(["sub/ä.jpg", "nowhere.jpg", "a.jpg"])
    assert taken["lane"].to_pylist() == [-1, None, 2] and taken["camera"].to_pylist() == [None, None, "front"]


def test_types_of_parquet(tmp_path: Path) -> None:
    columns = {
        "image_path": pa.array(["a", "b"], pa.string_view()),
        "view": pa.array(["x", None], pa.string_view()),
        "coded": pa.array(["x", "y"], pa.dictionary(pa.int8(), pa.string())),
        "small": pa.array([1, 2], pa.uint8()),
        "half": pa.array([np.float16(0.5), np.float16("nan")], pa.float16()),
        "day": [WHEN.date(), None],
        "time": [WHEN, None],
        "empty": pa.nulls(2),
    }
    table = metadata.read(write(tmp_path, "m.parquet", columns))
    assert {name: column.to_pylist() for name, column in table.columns.items()} == {
        "view": ["x", None], "coded": ["x", "y"], "small": [1, 2], "half": [0.5, None], "day": ["2024-05-17", None],
        "time": ["2024-05-17 12:30:00.000000", None], "empty": [None, None],
    }  # fmt: skip


INVALID: list[tuple[str, Any, str]] = [
    ("m.csv", "camera,lane\nfront,1\n", "has no column file_name, only camera, lane"),
    ("m.csv", "path,image\na,b\n", "columns 'path' and 'image'"),
    ("m.csv", "file_name\na\n", "has no column besides 'file_name'"),
    ("m.csv", "file_name,width\na,1\n", "'width', which images.parquet has already: rename it, .* 'my_width'"),
    ("m.csv", "file_name,reason\na,1\n", "'reason', which images.parquet has already"),
    ("m.csv", "file_name,uncertainty_entropy_weighted\na,1\n", "which images.parquet has already"),
    ("m.csv", "file_name,x,x\na,1,2\n", "two columns of the same name"),
    ("m.csv", "file_name,x\na,1\na,2\n", "has two rows of 'a'"),
    ("m.csv", "file_name,x\na,1\n,2\n", "has a null in 'file_name', row 2"),
    ("m.csv", "file_name,x\n", "has no rows"),
    ("m.csv", "", "cannot be read: Empty CSV file"),
    ("m.csv", "file_name,x\na,1,2\n", "cannot be read: .*Expected 2 columns, got 3"),
    ("m.parquet", {"file_name": [1], "x": [1]}, "has whole numbers in its column 'file_name'"),
    ("m.parquet", {"file_name": ["a"], "x": [[1]]}, "values of the type list.* in its column 'x': give text, numbers"),
    ("m.parquet", {"file_name": ["a"], "x": pa.array([2**64 - 1], pa.uint64())}, "cannot be read: .*not in range"),
    ("m.jsonl", '{"file_name": "a", "x": 1}\n[1]\n', "has a line 2 that is not an object"),
    ("m.jsonl", '{"file_name": "a", "x": 1}\n{"file_name"\n', "has a line 2 that is not JSON"),
    ("m.jsonl", '{"file_name": "a", "x": 1}\n{"file_name": "b", "x": "y"}\n', "of several types in its column 'x'"),
    ("m.jsonl", '{"file_name": "a", "x": {"y": 1}}\n', "values of the type struct"),
    ("m.jsonl", '{"file_name": "a", "x": 1}\n{"x": 2}\n', "has a null in 'file_name', row 2"),
]


@pytest.mark.parametrize(("name", "content", "says"), INVALID)
def test_invalid_files_are_refused_in_one_sentence(tmp_path: Path, name: str, content: Any, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        metadata.read(write(tmp_path, name, content))
    (problem,) = caught.value.problems
    assert problem.startswith("CORAL_METADATA=") and "\n" not in problem


def test_a_missing_or_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"no parquet")
    (tmp_path / "m.jsonl").write_bytes(b'{"file_name": "\xff"}')
    for name in ("m.parquet", "m.jsonl", "none.csv"):
        with pytest.raises(SettingsError, match=r"(cannot be read: |codec can't decode).*\. Give a file"):
            metadata.read(str(tmp_path / name))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a.jpg", "7", "sub/ä.jpg"], ""),
        (["a.jpg", "7"], "1 of 3 names are not in CORAL_INPUT and are left out: 'sub/ä.jpg'"),
        (["a.jpg", "7", "sub/ä.jpg", "new.jpg"], "has no row for 1 of 4 images, such as 'new.jpg': their values"),
        (["in/a.jpg", "in/7", "in/sub/ä.jpg"], "3 names are spelled differently from the files"),
        (["images/b.jpg", "A.JPG"], None),
    ],
)
def test_names_are_compared_with_the_images(tmp_path: Path, names: list[str], says: str | None) -> None:
    state = State(settings(metadata=write(tmp_path, "m.csv")), Stop(), {}, listing=listing(*names))
    if says is None:
        with pytest.raises(SettingsError, match=r"none of them .*the case of letters: 'a.jpg' and 'A.JPG'"):
            list(inputs.metadata(state))
        return
    first, *warnings = inputs.metadata(state)
    assert str(first).startswith("3 rows with camera, speed, lane, night, day in ")
    assert [type(warning) for warning in warnings] == ([Warn] if says else []) and says in "".join(map(str, warnings))


def test_a_shard_that_has_no_image_of_the_table_is_no_error(tmp_path: Path) -> None:
    chosen = settings(metadata=write(tmp_path, "m.csv"), strategy=strategy("WEIGHTS", "speed"))
    assert len(list(inputs.metadata(State(chosen, Stop(), {}, shard=Shard(0, 2), listing=listing("new.jpg"))))) == 1
    with pytest.raises(SettingsError, match="none of them is among the 1 of CORAL_INPUT"):
        list(inputs.metadata(State(chosen, Stop(), {}, listing=listing("new.jpg"))))


def strategy(way: str, column: str, **fields: Any) -> str:
    rank = [entry("EMBEDDINGS", "DIVERSITY")] if way == "THRESHOLD" else []
    return json.dumps([entry("METADATA", way, {"key": column}, **fields), *rank])


ABOVE = {"threshold": 0, "operation": "BIGGER_EQUAL"}
UNUSABLE: list[tuple[str, str, dict[str, Any], str]] = [
    ("WEIGHTS", "camera", {}, "'camera' of CORAL_METADATA as numbers, but it holds text: use BALANCE"),
    ("WEIGHTS", "night", {}, "it holds booleans: use BALANCE"),
    ("THRESHOLD", "day", ABOVE, "it holds text: use BALANCE"),
    ("WEIGHTS", "speed", {}, "'speed' of CORAL_METADATA, which has no value for 1 of 3 images: '7'. Add a number"),
    ("THRESHOLD", "lane", ABOVE, "'lane' of CORAL_METADATA, which has no value for 1 of 3 images: '7'"),
    ("BALANCE", "speed", {"distribution": "UNIFORM"}, "which holds numbers that are not whole: use WEIGHTS"),
    (
        "WEIGHTS",
        "nothing",
        {},
        "'nothing', which neither images.parquet nor CORAL_METADATA has: use camera, speed, lane",
    ),
]


@pytest.mark.parametrize(("way", "column", "fields", "says"), UNUSABLE)
def test_unusable_columns_are_refused_before_any_work(
    tmp_path: Path, way: str, column: str, fields: dict[str, Any], says: str
) -> None:
    chosen = settings(metadata=write(tmp_path, "m.csv"), strategy=strategy(way, column, **fields))
    names = [row["file_name"] for row in ROWS]
    with pytest.raises(SettingsError, match=says):
        list(inputs.metadata(State(chosen, Stop(), {}, listing=listing(*names))))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["007", "12"], ["007", "12"]),
        (["7", "", "12", "-3"], [7, None, 12, -3]),
        ([" 7", "12 "], [7, 12]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
        (["9223372036854775807", "1"], [9223372036854775807, 1]),
        (["1234567890123456", "1.5"], ["1234567890123456", "1.5"]),
        (["0.50", "1", "-2e3", "0"], [0.5, 1.0, -2000.0, 0.0]),
        (["00.5", "1.5"], ["00.5", "1.5"]),
        (["01", "1.5"], ["01", "1.5"]),
        (["nan", "1.5"], [None, 1.5]),
    ],
)
def test_codes_in_csv_stay_text(tmp_path: Path, values: list[str], expected: list[Any]) -> None:
    lines = ["file_name,lane,other", *(f"{row}.jpg,{value},1" for row, value in enumerate(values))]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    columns = metadata.read(str(tmp_path / "m.csv")).columns
    assert columns["lane"].to_pylist() == expected and columns["other"].to_pylist() == [1] * len(values)


def test_names_of_columns_are_cut_and_escaped(tmp_path: Path) -> None:
    name = "\x1b" + "n" * 300
    uri = write(tmp_path, "m.parquet", {"file_name": ["a.jpg"], name: [[1.0]]})
    with pytest.raises(SettingsError) as caught:
        metadata.read(uri)
    assert repr(name[:80]) in str(caught.value) and "n" * 80 not in str(caught.value)
    column = pa.array(["a"])
    for use in (lambda: metadata.to_numbers(name, column, ["a.jpg"]), lambda: metadata.to_texts(name, pa.array([0.5]))):
        with pytest.raises(SettingsError) as caught:
            use()
        assert repr(name[:80]) in str(caught.value) and "n" * 80 not in str(caught.value)


def test_columns_of_wide_tables_are_named_in_short(tmp_path: Path) -> None:
    columns = {"file_name": ["a.jpg"]} | {f"{number:03}{'x' * 200}": [1] for number in range(200)}
    name = f"2000{'x' * 199}"
    chosen = settings(metadata=write(tmp_path, "m.csv", columns), strategy=strategy("WEIGHTS", name))
    with pytest.raises(SettingsError, match=r"x [.]{3} [(]did you mean ") as caught:
        list(inputs.metadata(State(chosen, Stop(), {}, listing=listing("a.jpg"))))
    assert "x" * 81 not in str(caught.value) and len(str(caught.value)) < 1500


def test_as_many_images_may_lack_a_number_as_may_be_unusable(tmp_path: Path) -> None:
    chosen = settings(metadata=write(tmp_path, "m.csv"), strategy=strategy("WEIGHTS", "speed"), max_failed=0.5)
    state = State(chosen, Stop(), {}, listing=listing(*(row["file_name"] for row in ROWS)))
    findings = list(inputs.metadata(state))
    assert findings and not any(isinstance(finding, Warn | Exception) for finding in findings)


def test_own_columns_are_those_of_images_parquet(small: tuple[LocalFolder, Pool]) -> None:
    output, pool = small
    count = len(pool.file_names)
    tables.write_images(output, selected_from(pool, []), [], np.zeros(count), np.full(count, -1), None)
    written = pq.read_table(f"{output.uri}/images.parquet").column_names
    assert set(written) <= set(metadata.OWN_COLUMNS)


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """Twelve images: four by day and eight by night, with speeds from 0 to 11."""
    lines = "".join(f"{each}.jpg,{'day' if each < 4 else ''},{each},{each % 2 == 0}\n" for each in range(12))
    (tmp_path / "m.csv").write_text("file_name,light,speed,even\n" + lines + "elsewhere.jpg,day,1,true\n")
    return write_own_data(tmp_path) | {"CORAL_METADATA": tmp_path / "m.csv"}


CHOICES: list[tuple[list[Any], Callable[[list[int]], bool]]] = [
    (
        [entry("METADATA", "BALANCE", {"key": "light"}, target={"day": 0.5, "unknown": 0.5})],
        lambda picks: sum(pick < 4 for pick in picks) == 2,
    ),
    (
        [entry("METADATA", "BALANCE", {"key": "even"}, target={"false": 1.0})],
        lambda picks: all(pick % 2 for pick in picks),
    ),
    (
        [entry("METADATA", "BALANCE", {"key": "speed"}, target={"3": 0.5, "10": 0.5})],
        lambda picks: {3, 10} == set(picks[:2]),
    ),
    ([entry("METADATA", "WEIGHTS", {"key": "speed"})], lambda picks: picks == [11, 10, 9, 8]),
    (
        [
            entry("METADATA", "THRESHOLD", {"key": "speed"}, threshold=8, operation="BIGGER_EQUAL"),
            entry("EMBEDDINGS", "DIVERSITY"),
        ],
        lambda picks: set(picks) == {8, 9, 10, 11},
    ),
]


@pytest.mark.parametrize(("entries", "is_right"), CHOICES)
def test_strategies_use_the_columns(
    given: dict[str, Any], job: Job, tmp_path: Path, entries: list[Any], is_right: Callable[[list[int]], bool]
) -> None:
    done = job("select", CORAL_STRATEGY=json.dumps(entries), **given)
    assert done.returncode == 0, done.stderr
    picks = [int(pick["file_name"].removesuffix(".jpg")) for pick in read_picks(tmp_path)]
    assert len(picks) == 4 and is_right(picks), picks
    assert done.stderr.count("1 of 13 names are not in CORAL_INPUT and are left out: 'elsewhere.jpg'") == 1


def test_rows_are_matched_with_files_of_another_spelling(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("file_name,light\nin\\1.jpg,day\nin\\2.jpg,dusk\n")
    done = job("select", **given)
    assert done.returncode == 0 and "is '1.jpg'. If these are other images, correct the names" in done.stderr
    assert "has no row for 10 of 12 images, such as '0.jpg': their values are unknown" in done.stderr
    rows = pq.read_table(tmp_path / "out" / "images.parquet").to_pylist()
    assert {row["file_name"]: row["light"] for row in rows if row["light"]} == {"1.jpg": "day", "2.jpg": "dusk"}
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["names"]["metadata"] == {"matched": 2, "unknown": 0, "without": 10}


def test_images_without_predictions_need_no_metadata(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    with (tmp_path / "images.txt").open("a") as file:
        file.write("more.jpg\nmost.jpg\n")
    for command in ("check", "select"):
        done = job(command, CORAL_STRATEGY=json.dumps([entry("METADATA", "WEIGHTS", {"key": "speed"})]), **given)
        assert done.returncode == 0, done.stderr
        assert "has no row for" not in done.stderr


def test_images_parquet_and_run_json_have_the_metadata(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    assert job("select", **given).returncode == 0
    rows = pq.read_table(tmp_path / "out" / "images.parquet").to_pylist()
    by_name = {row["file_name"]: (row["light"], row["speed"], row["even"]) for row in rows}
    assert by_name["2.jpg"] == ("day", 2, True) and by_name["11.jpg"] == (None, 11, False)
    first = json.loads((tmp_path / "out" / "run.json").read_text())
    picks = (tmp_path / "out" / "selected.txt").read_bytes()
    del given["CORAL_METADATA"]
    assert job("select", **given).returncode == 0
    second = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (tmp_path / "out" / "selected.txt").read_bytes() == picks
    assert "metadata_sha256" not in second["inputs"] and first["run_id"] != second["run_id"]
    assert len(first["inputs"]["metadata_sha256"]) == 64


def test_metadata_of_other_images_ends_with_64_before_any_work(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("file_name,light\nimages/gone.jpg,day\n")
    done = job("select", **given)
    assert done.returncode == 64
    assert "names 1 image, and none of them is among the 12 of CORAL_INPUT. It names 'images/gone.jpg'" in done.stderr
    assert not (tmp_path / "out" / "selected.txt").exists()


def test_values_of_a_target_must_exist(small: tuple[LocalFolder, Pool]) -> None:
    output, pool = small
    known = replace(pool, metadata={"light": pa.array(["day", None] * 4)})
    chosen = settings(strategy=strategy("BALANCE", "light", target={"nigth": 1.0}), n_samples=2)
    with pytest.raises(SettingsError, match="nigth"):
        choose.choose_among(chosen, output, known, np.eye(8, dtype=np.float32), [])
    assert parse_strategy(chosen.strategy.text) == chosen.strategy
