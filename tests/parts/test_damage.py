"""Damaged, foreign and hostile files of the parts: found by every reader, and mended where the job can."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from job import parts
from job.detect import agreement, described
from job.embed import table as embeddings
from job.errors import DamagedFileError, JobError, SettingsError
from job.parts import checked, ledger, listings, values
from job.parts.part import _PROVENANCE
from job.select.points import ArrayPoints
from job.shards import Shard
from job.storage import Listing
from job.storage.local import LocalFolder
from job.texts import Texts
from tests.conftest import DEMO_YAML, settings
from tests.parts.test_part import MADE_WITH, entries, failed, row

ROWS = [*(row(f"{number}.jpg", boxes=number % 9, seed=number) for number in range(30)), failed("x.jpg")]


@pytest.fixture
def output(tmp_path: Path) -> LocalFolder:
    """An output with one file of each kind that the job itself reads again."""
    folder = LocalFolder(str(tmp_path))
    parts.write(folder, ROWS, MADE_WITH)
    listings.finish(folder, Shard(), Listing.from_entries(entries(ROWS)))
    ledger.Ledger(folder, "upload").add("piece", ["a.jpg", "b.jpg"])
    described.leave(settings(model=str(DEMO_YAML), weights="w"), folder)
    agreement.agree_on_batch_size(folder, torch.device("cuda"), lambda: 64)
    agreement.agree_on_precision(settings(device="cpu"), folder)
    embeddings.write(folder, Texts.of(["a", "b"]), ArrayPoints(np.eye(2, 7, dtype=np.float32)), "digest")
    return folder


def read_part(output: LocalFolder) -> Any:
    (part,) = parts.read(output)
    return part.provenance, part.table.to_pydict()


def read_listing(output: LocalFolder) -> Any:
    return listings.read(output).table.to_pydict()


def read_embeddings(output: LocalFolder) -> Any:
    values = embeddings.read(output, "digest")
    return None if values is None else values.read(0, len(values)).tolist()


def read_ledger(output: LocalFolder) -> Any:
    return ledger.Ledger(output, "upload").all_names()


def read_described(output: LocalFolder) -> Any:
    (name,) = (entry.key for entry in output.list("parts/") if "detector-" in entry.key)
    return described._read(output, name)


@pytest.mark.parametrize(
    ("pattern", "read"),
    [
        ("parts/done-upload-*", read_ledger),
        ("parts/detector-*", read_described),
        ("parts/batch-size.json", agreement._read_batch_size),
        ("parts/precision.json", agreement._read_precision),
        ("parts/part-*", read_part),
        ("parts/listing-*", read_listing),
        ("embeddings.parquet", read_embeddings),
    ],
)
def test_no_flipped_bit_is_read_as_another_value(
    output: LocalFolder, tmp_path: Path, pattern: str, read: Callable[[LocalFolder], Any]
) -> None:
    (path,) = tmp_path.glob(pattern)
    content, expected = path.read_bytes(), read(output)
    rng, outcomes = random.Random(1), Counter[str]()  # no secret
    for _ in range(400):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            value = read(output)
        except DamagedFileError as error:
            assert path.name in str(error) and error.exit_code == 65
            outcomes["refused"] += 1
        else:
            assert value in (expected, None)
            outcomes["refused" if value is None else "same"] += 1
    assert outcomes["refused"] > 200


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\0" * 5000])
def test_a_file_that_is_no_table(output: LocalFolder, tmp_path: Path, content: bytes) -> None:
    for path in [*tmp_path.glob("parts/*.parquet"), tmp_path / "embeddings.parquet"]:
        path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"parts/part-\w+\.parquet is damaged"):
        list(parts.read(output))
    with pytest.raises(DamagedFileError, match="run `predict` again, which writes it again"):
        listings.read(output)
    next(tmp_path.glob("parts/done-upload-*")).write_bytes(content)
    with pytest.raises(DamagedFileError, match="parts/done-upload-piece is damaged") as error:
        read_ledger(output)
    assert error.value.exit_code == 65
    assert embeddings.read(output, "digest") is None


def test_the_map_step_sets_a_damaged_part_aside(output: LocalFolder, tmp_path: Path) -> None:
    parts.write(output, [row("other.jpg")], MADE_WITH)
    name = next(part.name for part in parts.read(output) if len(part.table) > 1)
    content = bytearray((tmp_path / name).read_bytes())
    content[100] ^= 1
    (tmp_path / name).write_bytes(content)
    assert parts.find_done(output, MADE_WITH) == {("other.jpg", "e")}
    assert (tmp_path / "parts/damaged" / Path(name).name).read_bytes() == content
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(("version", "age"), [(0, "an older"), (1, "an older"), (99, "a newer"), (None, "an older")])
def test_a_part_of_another_version_is_refused(tmp_path: Path, version: int | None, age: str) -> None:
    output = LocalFolder(str(tmp_path))
    parts.write(output, [row("a.jpg")], MADE_WITH)
    (path,) = tmp_path.glob("parts/part-*")
    table = pq.read_table(path)
    provenance = MADE_WITH.to_json().replace('"schema_version": 2', f'"schema_version": {version or "null"}, "new": 1')
    pq.write_table(table.replace_schema_metadata({_PROVENANCE: provenance}), path)
    with pytest.raises(SettingsError, match=f"was written by {age} version of coralpick"):
        list(parts.read(output))


def change(column: str, values: Any) -> Callable[[pa.Table], pa.Table]:
    def replace(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(column)
        return table.set_column(index, table.schema.field(column), [pa.array(values, table.schema.field(column).type)])

    return replace


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (change("classes", [[0, 3]]), "a class does not exist"),
        (change("classes", [[-1, 0]]), "a class does not exist"),
        (change("classes", [[0]]), "different numbers of boxes, scores and classes"),
        (change("classes", [None]), "different numbers of boxes, scores and classes"),
        (change("scores", [[float("nan"), 0.5]]), "scores has a value that is negative or not finite"),
        (change("scores", [[1.5, 0.5]]), "scores has a value above 1"),
        (change("boxes", [[[0, 0, float("inf"), 1], [0, 0, 1, 1]]]), "a box is not finite"),
        (change("class_probabilities", [[[0, 0, 0, 2], [0, 0, 0, 1]]]), "class_probabilities has a value above 1"),
        (change("num_boxes", [-1]), "num_boxes has a value that is negative or not finite"),
        (change("num_boxes", [None]), "a usable image has no num_boxes"),
        (change("score_entropy_sum", [float("inf")]), "score_entropy_sum has a value that is negative or not finite"),
        (change("score_entropy_sum", [None]), "a usable image has no score_entropy_sum"),
        (change("class_counts", [[[0, 1, 0], [3, 1, 0]]]), "a class does not exist"),
        (change("class_counts", [[]]), "different numbers of counts and sums of classes"),
        (change("class_sums", [[[float("nan"), 0]] * 2]), "class_sums has a value that is negative or not finite"),
        (change("feature", [[float("nan")] * 6]), "a feature is not finite"),
        (change("box_features", [[[float("inf")] * 3] * 2]), "a feature of a box is not finite"),
        (change("box_features", [[[1.0] * 3]]), "different numbers of boxes and of their features"),
        (change("thumbnail", [b"<script>"]), "a thumbnail is not a JPEG file"),
        (lambda table: table.drop_columns(["scores"]), "its columns are not those of a part"),
        (lambda table: table.append_column("more", [pa.array([1])]), "its columns are not those of a part"),
    ],
)
def test_impossible_values_are_refused(tmp_path: Path, hostile: Callable[[pa.Table], pa.Table], reason: str) -> None:
    output = LocalFolder(str(tmp_path))
    parts.write(output, [row("a.jpg", boxes=2)], MADE_WITH)
    (path,) = tmp_path.glob("parts/part-*")
    table = hostile(checked.load(pa.BufferReader(path.read_bytes())))
    path.write_bytes(checked.dump(table, {_PROVENANCE: MADE_WITH.to_json()}))
    with pytest.raises(DamagedFileError, match=reason):
        list(parts.read(output))


def test_values_in_half_precision_are_judged_as_numpy_does() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    for highest in (1, values._LARGEST):
        good = [values._are_between(halves[bits : bits + 1], highest) for bits in range(1 << 16)]
        assert good == ((halves >= 0) & np.isfinite(halves) & (halves <= highest)).tolist()


def test_missing_memory_is_no_damage(output: LocalFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **keywords: Any) -> None:
        raise pa.ArrowMemoryError("realloc of size 11712 failed")

    monkeypatch.setattr(pq.ParquetFile, "read", fail)
    with pytest.raises(MemoryError):
        list(parts.read(output))
    assert not issubclass(JobError, MemoryError)


@hypothesis.settings(deadline=None)  # the first file takes longer
@given(st.integers(0, 20), st.integers(1, 3), st.integers(1, 7))
def test_vectors_in_blocks_are_the_column_of_a_table(count: int, width: int, group_rows: int) -> None:
    vectors = np.random.default_rng(count).normal(size=(count, width)).astype(np.float32)
    names = pa.array([f"{number}.jpg" for number in range(count)], pa.string())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checked, "_GROUP_ROWS", group_rows)
        made = checked.dump_vectors(names, ArrayPoints(vectors), {b"k": "v"})
    found, metadata = checked.load_vectors(made.open())
    np.testing.assert_array_equal(found.read(0, count), vectors)
    table = checked.load(made.open())
    assert metadata == table.schema.metadata == {b"k": b"v"} and table["file_name"].to_pylist() == names.to_pylist()
    np.testing.assert_array_equal(table["embedding"].combine_chunks().flatten(), vectors.ravel())
