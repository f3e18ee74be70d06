"""Embeddings made elsewhere: `select` as a process, and invalid files."""

import datetime
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from job.columns import NAME_COLUMNS, VECTOR_COLUMNS
from job.embed import from_file
from job.errors import SettingsError, Stopped
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


def test_embeddings_alone_are_compared_with_the_input(given: dict[str, Any], job: Job, tmp_path: Path) -> None:
    given |= {"CORAL_PREDICTIONS": "none", "CORAL_STRATEGY": "coreset"}
    assert job("select", **given).returncode == 0
    expected = (tmp_path / "out" / "selected.jsonl").read_bytes()
    table = pq.read_table(tmp_path / "embeddings.parquet")
    prefixed = pa.array([f"/data/frames/{name}" for name in table["file_name"].to_pylist()])
    pq.write_table(table.set_column(0, "file_name", prefixed), tmp_path / "embeddings.parquet")
    done = job("select", **given | {"CORAL_OUTPUT": tmp_path / "other"})
    assert done.returncode == 0 and done.stderr.count("12 names are spelled differently") == 1, done.stderr
    assert (tmp_path / "other" / "selected.jsonl").read_bytes() == expected
    pq.write_table(table.slice(2), tmp_path / "embeddings.parquet")  # without 11.jpg and 10.jpg
    done = job("select", **given | {"CORAL_OUTPUT": tmp_path / "fewer"})
    assert done.returncode == 0, done.stderr
    assert "2 of 12 images of CORAL_INPUT have no embedding in CORAL_EMBEDDING=" in done.stderr
    failures = [json.loads(line) for line in (tmp_path / "fewer" / "failures.jsonl").read_text().splitlines()]
    assert failures == [
        {"file_name": name, "reason": "no embedding in CORAL_EMBEDDING"} for name in ("10.jpg", "11.jpg")
    ]
    (tmp_path / "images.txt").write_text("x.jpg\n")
    for command in ("select", "check"):
        refused = job(command, **given)
        assert refused.returncode == 64 and "none of them is among the 1 of CORAL_INPUT" in refused.stderr


def test_wrong_classes_and_embeddings_are_refused_before_detection(few_frames: Path, job: Job, tmp_path: Path) -> None:
    variables = demo_variables(few_frames, tmp_path / "out")
    (tmp_path / "a.csv").write_text("file_name,x\nnone of them.jpg,1\n")
    for wrong, says in (
        ({"CORAL_CLASS_WEIGHTS": "bycicle=2"}, "names 'bycicle', which is not a class"),
        ({"CORAL_EMBEDDING": tmp_path / "a.csv"}, "names 1 image, and none of them is among the 12 of CORAL_INPUT"),
    ):
        done = job(**variables | wrong)
        assert done.returncode == 64 and says in done.stderr
        assert not list((tmp_path / "out").rglob("part-*"))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (pa.table({"key": ["a"], "embedding": [[1.0]]}), "has no column file_name, only key, embedding"),
        (pa.table({"file_name": ["a", "a"], "embedding": [[1.0], [2.0]]}), "has two rows of 'a'"),
        (pa.table({"file_name": ["a", "b"], "embedding": [[1.0], [2.0, 3.0]]}), "of different lengths"),
        (pa.table({"file_name": ["a", "b"], "embedding": [[1.0], None]}), "a null in its column 'embedding', row 2"),
        (pa.table({"file_name": ["a", "b"], "embedding": [[1.0], [float("nan")]]}), "not finite for 'b'"),
        (pa.table({"file_name": ["a"], "embedding": [["x"]]}), "not numbers"),
        (pa.table({"file_name": ["a"], "x": ["y"]}), "not numbers"),
        (pa.table({"file_name": ["a"], "embedding": [[1.0]]}), "has no embedding for 1 of 2 images: 'b'"),
    ],
)
def test_invalid_embeddings_are_refused(tmp_path: Path, table: Any, says: str) -> None:
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SettingsError, match=says):
        from_file.read_for_pool(str(tmp_path / "a.parquet"), ["a", "b"], [], "in")


NAMES = ["sub/b.jpg", "a.jpg", "7"]
VECTORS = np.array([[1.0, 2.0], [0.5, -3.0], [4.0, 0.25]])  # exact in 16 bits, too
WHEN = datetime.datetime(2024, 5, 17, 12)


def in_parquet(path: Path, columns: Any) -> None:
    pq.write_table(pa.table(columns), path.with_suffix(".parquet"))


def in_csv(path: Path, text: str) -> None:
    path.with_suffix(".csv").write_bytes(text.encode())


def in_npz(path: Path, arrays: Any) -> None:
    np.savez(path.with_suffix(".npz"), **arrays)


def in_npy(path: Path, given: tuple[Any, str]) -> None:
    np.save(path.with_suffix(".npy"), given[0], allow_pickle=True)
    path.with_suffix(".txt").write_text(given[1])


def lists(kind: pa.DataType) -> pa.Array:
    flat = np.float16 if kind.value_type == pa.float16() else np.float64
    return pa.array([list(map(flat, vector)) for vector in VECTORS], kind)


def rows(separator: str = ",", quote: str = "") -> str:
    return "".join(
        f"{name},{quote}{separator.join(map(str, vector))}{quote}\n"
        for name, vector in zip(NAMES, VECTORS, strict=True)
    )


READABLE: list[tuple[Callable[[Path, Any], None], str, Any]] = [
    *((in_parquet, ".parquet", {column: NAMES, "embedding": lists(pa.list_(pa.float64()))}) for column in NAME_COLUMNS),
    *((in_parquet, ".parquet", {"file_name": NAMES, column: VECTORS.tolist()}) for column in VECTOR_COLUMNS),
    *(
        (in_parquet, ".parquet", {"file_name": NAMES, "embedding": lists(kind)})
        for value in (pa.float16(), pa.float32(), pa.float64())
        for kind in (pa.list_(value), pa.list_(value, 2), pa.large_list(value), pa.list_view(value))
    ),
    *(
        (in_parquet, ".parquet", {"file_name": pa.array(NAMES, kind), "x": VECTORS[:, 0], "y": VECTORS[:, 1]})
        for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()))
    ),
    (in_parquet, ".parquet", {"file_name": NAMES, "embedding": VECTORS.tolist(), "taken": [WHEN, None, WHEN]}),
    *((in_csv, ".csv", f"{column},x,y\n{rows()}") for column in NAME_COLUMNS),
    (in_csv, ".csv", "\ufefffilenames,embedding_0,embedding_1\n" + rows()),
    (in_csv, ".csv", "file_name,embedding_0,embedding_1\n" + rows().replace("\n", "\r\n")),
    (in_csv, ".csv", "filename,vector\n" + rows(", ", '"').replace(',"', ',"[').replace('"\n', ']"\n')),
    (in_csv, ".csv", "filename,vector\n" + rows("\n ", '"').replace(',"', ',"[').replace('"\n', ' ]"\n')),
    *(
        (in_npz, ".npz", {column: np.array(NAMES), "embeddings": VECTORS})
        for column in NAME_COLUMNS
        if column != "file"
    ),
    *((in_npz, ".npz", {"names": np.array(NAMES), column: VECTORS}) for column in VECTOR_COLUMNS),
    *((in_npz, ".npz", {"paths": np.array(NAMES), "vectors": VECTORS.astype(kind)}) for kind in ("f2", "f4", ">f8")),
    (in_npz, ".npz", {"paths": np.array([name.encode() for name in NAMES]), "vectors": VECTORS, "more": np.ones(3)}),
    *((in_npy, ".npy", (VECTORS.astype(kind), "\n".join(NAMES))) for kind in ("f2", "f4", "f8")),
]


@pytest.mark.parametrize(("write", "suffix", "content"), READABLE)
def test_every_layout_gives_the_same_vectors(
    tmp_path: Path, write: Callable[[Path, Any], None], suffix: str, content: Any
) -> None:
    """Names that are numbers, such as "7", stay text."""
    write(tmp_path / "a", content)
    names, vectors, _ = from_file.read(str(tmp_path / f"a{suffix}"))
    assert names == NAMES and vectors.dtype == np.float32 and vectors.tolist() == VECTORS.tolist()


def test_slices_and_chunks_and_reordered_views(tmp_path: Path) -> None:
    """A list view may point into its values in any order, and a file may hold several row groups."""
    view = pa.ListViewArray.from_arrays(pa.array([2, 0], pa.int32()), pa.array([2, 2], pa.int32()), pa.array(range(4)))
    table = pa.table({"file_name": ["a", "b"], "embedding": view})
    pq.write_table(pa.concat_tables([table, table.set_column(0, "file_name", [["c", "d"]])]), tmp_path / "a.parquet",
                   row_group_size=1)  # fmt: skip
    names, vectors, _ = from_file.read(str(tmp_path / "a.parquet"))
    assert names == ["a", "b", "c", "d"] and vectors.tolist() == [[2, 3], [0, 1], [2, 3], [0, 1]]


TWO = {"file_name": ["a", "b"]}
# Built from its buffers: the bytes of a column of text are checked neither here nor by the writer.
NOT_UTF8 = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"a\xff")]
)
INVALID: list[tuple[Callable[[Path, Any], None], str, Any, str]] = [
    (in_parquet, ".parquet", {"file_name": ["a"], "path": ["b"], "x": [1]}, "columns 'file_name' and 'path'"),
    (in_parquet, ".parquet", {**TWO, "embedding": [[1]] * 2, "vector": [[1]] * 2}, "columns 'embedding' and 'vector'"),
    (in_parquet, ".parquet", {"file_name": ["a", None], "x": [1, 2]}, "a null in 'file_name', row 2"),
    (in_parquet, ".parquet", {"file_name": ["a", ""], "x": [1, 2]}, "an empty file name in 'file_name', row 2"),
    (in_parquet, ".parquet", {"file_name": pa.nulls(2), "x": [1, 2]}, "has nulls in its column 'file_name'"),
    (in_parquet, ".parquet", {"name": [1, 2], "x": [1, 2]}, "has whole numbers in its column 'name', from row 1 on"),
    (in_parquet, ".parquet", {"name": [1.5, 2], "x": [1, 2]}, "has numbers in its column 'name'"),
    (in_parquet, ".parquet", {"name": [True, False], "x": [1, 2]}, "has booleans in its column 'name'"),
    (in_parquet, ".parquet", {"name": [WHEN, WHEN], "x": [1, 2]}, "has times in its column 'name'"),
    (in_parquet, ".parquet", {"name": [WHEN.date(), WHEN.date()], "x": [1, 2]}, "has dates in its column 'name'"),
    (in_parquet, ".parquet", {"file": [b"a", b"b"], "x": [1, 2]}, "has values of the type binary in its column 'file'"),
    (in_parquet, ".parquet", {"file": NOT_UTF8, "x": [1, 2]}, r"file name that is not UTF-8 in 'file', row 2: b'.xff'"),
    (in_parquet, ".parquet", {**TWO, "vector": NOT_UTF8}, "cannot be read: .*Invalid UTF8"),
    (in_parquet, ".parquet", {**TWO, "x": pa.nulls(2)}, "a null in its column 'x', row 1"),
    (in_parquet, ".parquet", {**TWO, "vector": [[0.0] * 65_537] * 2}, "65,537 dimensions, more than the limit of 65,5"),
    (in_parquet, ".parquet", {"file_name": ["a"] * 3_000_000, "x": np.zeros(3_000_000)}, "has two rows of 'a'"),
    (in_parquet, ".parquet", TWO, "has no embeddings: name their column embedding"),
    (in_parquet, ".parquet", {**TWO, "x": [1, None]}, "a null in its column 'x', row 2"),
    (in_parquet, ".parquet", {**TWO, "x": [True, False]}, "booleans in its column 'x', row 1: True"),
    (in_parquet, ".parquet", {**TWO, "x": [1, 2], "at": [WHEN, WHEN]}, "times in its column 'at', row 1"),
    (in_parquet, ".parquet", {**TWO, "x": [1, 2], "at": [WHEN.date()] * 2}, "dates in its column 'at', row 1"),
    (in_parquet, ".parquet", {**TWO, "x": ["1", "y"]}, "text in its column 'x', row 2: 'y'"),
    (in_parquet, ".parquet", {**TWO, "x": [1, 2], "__index_level_0__": [0, 1]}, "an index of pandas"),
    (
        in_parquet,
        ".parquet",
        {**TWO, "embedding": [[1.0, 2.0], [3.0, None]]},
        "a null in its column 'embedding', row 2",
    ),
    (in_parquet, ".parquet", {**TWO, "embedding": [[True], [False]]}, "lists of booleans in its column 'embedding'"),
    (in_parquet, ".parquet", {**TWO, "embedding": [[WHEN], [WHEN]]}, "lists of times in its column 'embedding'"),
    (in_parquet, ".parquet", {**TWO, "embedding": [[[1.0]], [[2.0]]]}, "lists of values of the type list"),
    (in_parquet, ".parquet", {**TWO, "embedding": [WHEN, WHEN]}, "times in its column 'embedding', row 1"),
    (in_parquet, ".parquet", {**TWO, "embedding": [[1.0], [1.0, 2.0]]}, "1 numbers in row 1, 2 in row 2"),
    (in_parquet, ".parquet", {**TWO, "embedding": [[], []]}, "embeddings without numbers"),
    (in_parquet, ".parquet", {**TWO, "embedding": [[1.0], [1e300]]}, "not finite for 'b'"),
    (in_parquet, ".parquet", {"file_name": ["x" * 200] * 2, "x": [1, 2]}, "has two rows of 'x{80}'\\.\\.\\."),
    (in_csv, ".csv", "file_name,x\n", "has no rows"),
    (in_csv, ".csv", "file_name" + ",x" * 100_000 + "\na" + ",1" * 100_000, "100,000 dimensions, more than the limit"),
    (in_npz, ".npz", {"names": np.array([b"\xff"]), "vectors": [[1.0]]}, "holds text that is not UTF-8"),
    (in_npz, ".npz", {"names": np.array([]), "vectors": []}, "has no rows|float64 of the shape"),
    (in_parquet, ".parquet", {"file_name": pa.array([], pa.string()), "x": pa.array([], pa.int8())}, "has no rows"),
    (in_csv, ".csv", "file_name,name,x\na,b,1\n", "columns 'file_name' and 'name'"),
    (in_csv, ".csv", "file_name,x\na,1\nb,\n", "a null in its column 'x', row 2"),
    (in_csv, ".csv", "file_name,x,t\na,1,2024-05-17\n", "dates in its column 't', row 1: '2024-05-17'"),
    (in_csv, ".csv", "file_name,x,t\na,1,12:00:00\n", "times in its column 't', row 1"),
    (in_csv, ".csv", "file_name,x,b\na,1,true\n", "booleans in its column 'b', row 1: True"),
    (in_csv, ".csv", "file_name,x\na,1\n,2\n", "an empty file name in 'file_name', row 2"),
    (in_csv, ".csv", "file_name,x\na,1\nb,two\n", "text in its column 'x', row 2: 'two'"),
    (in_csv, ".csv", "file_name,embedding\na,[1 2]\nb,[1 ... 2]\n", "column 'embedding', row 2: '.1 ... 2.'"),
    (in_npz, ".npz", {"names": np.array(["a"]), "paths": np.array(["a"]), "vectors": [[1]]}, "'names' and 'paths'"),
    (in_npz, ".npz", {"names": np.array(["a"]), "vectors": [[1]], "features": [[1]]}, "'vectors' and 'features'"),
    (in_npz, ".npz", {"names": np.array(["a"], object), "vectors": [[1]]}, "holds Python objects"),
    (in_npz, ".npz", {"names": np.array(["a"]), "vectors": np.array([[1]], object)}, "holds Python objects"),
    (in_npz, ".npz", {"names": np.array([1]), "vectors": [[1]]}, "has int64 of the shape .* in 'names', from row 1 on"),
    (in_npz, ".npz", {"names": np.array(["a"]), "vectors": [[True]]}, "not numbers: bool in 'vectors'"),
    (in_npz, ".npz", {"names": np.array(["a"]), "vectors": np.array([[WHEN]], "M8[s]")}, "not numbers: datetime64"),
    (in_npz, ".npz", {"names": np.array(["a"]), "vectors": [1.0]}, "shape .1,. in 'vectors': give one row per image"),
    (in_npz, ".npz", {"names": np.array(["a", "b"]), "vectors": [[1.0]]}, "has 1 embedding for 2 file names"),
    (in_npz, ".npz", {"names": np.array(["a", ""]), "vectors": [[1.0]] * 2}, "an empty file name in 'names', row 2"),
    (in_npz, ".npz", {"keys": np.array(["a"]), "vectors": [[1.0]]}, "has no column file_name, only keys, vectors"),
    (in_npz, ".npz", {"names": np.array(["a"]), "data": [[1.0]]}, "has no array embedding, only names, data"),
    (in_npy, ".npy", (np.array([[1], [2]], object), "a\nb\n"), "holds Python objects"),
    (in_npy, ".npy", (np.array([[True], [False]]), "a\nb\n"), "not numbers: bool"),
    (in_npy, ".npy", (np.array([[1.0], [2.0]]), "a\n"), "has 2 embeddings for 1 file name"),
    (in_npy, ".npy", (np.array([[1.0], [2.0]]), "a\na\n"), "has two rows of 'a'"),
    (in_npy, ".npy", (np.array([[1.0], [np.nan]]), "a\nb\n"), "not finite for 'b'"),
]


@pytest.mark.parametrize(("write", "suffix", "content", "says"), INVALID)
def test_nothing_else_becomes_a_vector_or_a_name(
    tmp_path: Path, write: Callable[[Path, Any], None], suffix: str, content: Any, says: str
) -> None:
    write(tmp_path / "a", content)
    with pytest.raises(SettingsError, match=says) as caught:
        from_file.read(str(tmp_path / f"a{suffix}"))
    (problem,) = caught.value.problems
    assert problem.startswith("CORAL_EMBEDDING=") and "\n" not in problem and len(problem) < 500


def test_many_columns_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 columns took 34 s and 1 GB to read."""
    monkeypatch.setattr("job.embed.size.MAX_DIMENSIONS", 5)
    monkeypatch.setattr(pq.ParquetFile, "read", None)
    pq.write_table(
        pa.table({"file_name": ["a"]} | {f"x{number}": [1.0] for number in range(6)}), tmp_path / "a.parquet"
    )
    with pytest.raises(SettingsError, match="has embeddings of 6 dimensions, more than the limit of 5: reduce them"):
        from_file.read(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_what_does_not_fit_into_memory_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """A small compressed file, and a process that may use less than its content needs."""
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        np.savez_compressed(path, names=np.array(["a"]), vectors=np.zeros((1, 60_000)))
    else:
        pq.write_table(pa.table({"file_name": ["a"], "vector": [[0.0] * 60_000]}), path)
    assert path.stat().st_size < 5000 and from_file.read(str(path))[1].shape == (1, 60_000)
    monkeypatch.setattr("job.embed.size.memory_limit", lambda: 400_000)
    with pytest.raises(SettingsError, match=r"needs 0\.0 GiB of memory, but the job may use 0\.0 GiB"):
        from_file.read(str(path))


def test_an_array_needs_its_names(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VECTORS)
    with pytest.raises(SettingsError, match=r"needs '.*a.txt' with the file names, .*: No such file or directory"):
        from_file.read(str(tmp_path / "a.npy"))


def test_the_digest_covers_the_names(tmp_path: Path) -> None:
    digests = set()
    for names in ("a\nb\nc\n", "b\na\nc\n"):
        in_npy(tmp_path / "a", (VECTORS, names))
        digests.add(from_file.read(str(tmp_path / "a.npy"))[2])
    assert len(digests) == 2


def test_a_damaged_array_is_an_error_in_one_sentence(tmp_path: Path) -> None:
    """Cut at every length, and with each byte of its first 300 changed."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, names=np.array(NAMES), vectors=VECTORS)
    plain = io.BytesIO()
    np.save(plain, VECTORS)
    (tmp_path / "a.txt").write_text("a\nb\nc\n")
    refused = 0
    for suffix, whole in ((".npz", buffer.getvalue()), (".npy", plain.getvalue())):
        path = tmp_path / f"a{suffix}"
        flipped = (whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :] for at in range(min(300, len(whole))))
        for content in (*(whole[:length] for length in range(len(whole))), *flipped):
            path.write_bytes(content)
            try:
                from_file.read(str(path))
            except SettingsError:
                refused += 1
    assert refused >= len(buffer.getvalue()) + len(plain.getvalue())


def test_a_missing_or_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    for name in ("a.parquet", "b.csv"):
        with pytest.raises(SettingsError, match="cannot be read"):
            from_file.read(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_a_stop_while_an_array_is_unpacked_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise Stopped("as asked")  # as the handler of the signal does, anywhere

    vectors = np.ones((2, 3), np.float32)
    if name == "a.npz":
        np.savez_compressed(tmp_path / name, file_names=np.array(["a.jpg", "b.jpg"]), embeddings=vectors)
    else:
        np.save(tmp_path / name, vectors)
        (tmp_path / "a.txt").write_text("a.jpg\nb.jpg\n")
    monkeypatch.setattr("numpy.lib.npyio.NpzFile.__getitem__" if name == "a.npz" else "numpy.load", stop)
    with pytest.raises(Stopped):
        from_file.read(str(tmp_path / name))
