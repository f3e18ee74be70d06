"""Parquet files: compared with COCO, with and without class names, and with invalid content."""

import hashlib
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from job.errors import SettingsError
from job.external.batch import IMAGES_PER_BATCH
from tests.external import BY_NAME, NAMES, Json, arrays, assert_same, coco, in_file, in_parquet, parquet, problems, read


def typed(**kinds: pa.DataType) -> Json:
    return parquet() | {name: pa.array(parquet()[name], kind) for name, kind in kinds.items()}


@pytest.mark.parametrize(
    ("columns", "names", "classes"),
    [
        (parquet(), list(NAMES), None),
        (parquet(), None, NAMES),
        (parquet(), list(NAMES), NAMES),
        (parquet() | {"classes": BY_NAME}, list(NAMES), None),
        (parquet() | {"classes": BY_NAME}, None, NAMES),
        (parquet() | {"scores": [[0.25, 0.75], None, [1.0]], "classes": [[0, 2], None, [1]]}, None, NAMES),
        (parquet() | {"width": [640.0, None, 32.0], "more": [{"a": 1}, None, None]}, None, NAMES),
        (
            typed(
                file_name=pa.dictionary(pa.int32(), pa.large_string()),
                boxes=pa.large_list(pa.list_(pa.float32(), 4)),
                scores=pa.list_(pa.float16()),
                classes=pa.large_list(pa.uint8()),
            ),
            list(NAMES),
            None,
        ),
        (
            parquet() | {"classes": pa.array(BY_NAME, pa.list_(pa.dictionary(pa.int8(), pa.string())))},
            list(NAMES),
            None,
        ),
    ],
)
def test_parquet_gives_the_same_rows_as_coco(
    tmp_path: Path, columns: Json, names: list[str] | None, classes: tuple[str, ...] | None
) -> None:
    path = in_parquet(tmp_path, columns, names)
    found = read(path, classes)
    assert found.class_names == NAMES and found.probabilities == "synthetic"
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert_same(found.rows, read(in_file(tmp_path, coco())).rows)


def test_class_names_without_metadata_are_sorted(tmp_path: Path) -> None:
    found = read(in_parquet(tmp_path, parquet() | {"classes": BY_NAME}))
    assert found.class_names == ("bottle", "person", "toothbrush")
    assert arrays(found.rows[2])[2].tolist() == [2, 1]


def test_parquet_with_probabilities_and_without_sizes(tmp_path: Path) -> None:
    columns = parquet() | {"class_probabilities": [[[0.5, 0.25, 0.25], [0.25, 0, 0.5]], [], [[0, 1, 0]]]}
    del columns["width"]
    found = read(in_parquet(tmp_path, columns, list(NAMES)))
    assert found.probabilities == "external"
    assert arrays(found.rows[2])[3].tolist() == [[0.25, 0, 0.75, 0], [0.25, 0.125, 0.125, 0.5]]
    assert all((each.width, each.height) == (None, None) for each in found.rows)


def test_parquet_in_which_nothing_was_detected(tmp_path: Path) -> None:
    columns = {"file_name": ["b", "a"], "boxes": [[], []], "scores": [[], None], "classes": [[], []]}
    found = read(in_parquet(tmp_path, columns), ("a", "b"))
    assert [each.file_name for each in found.rows] == ["a", "b"] and found.probabilities == "synthetic"
    assert [each.shape for each in arrays(found.rows[0])] == [(0, 4), (0,), (0,), (0, 3)]


def test_many_rows_of_parquet(tmp_path: Path) -> None:
    count = 3 * IMAGES_PER_BATCH + 1
    columns = {
        "file_name": [f"{number:04}" for number in range(count)],
        "boxes": [[[0, 0, number, 1]] * (number % 3) for number in range(count)],
        "scores": [[number / count] * (number % 3) for number in range(count)],
        "classes": [["a"] * (number % 3) for number in range(count)],
    }
    for number, each in enumerate(read(in_parquet(tmp_path, columns)).rows):
        assert arrays(each)[0].tolist() == [[0, 0, number, 1]] * (number % 3)


def without(name: str) -> Json:
    return {each: values for each, values in parquet().items() if each != name}


TWO = [[1, 2, 3, 4]] * 2


PARQUET_ERRORS: list[tuple[Json, str]] = [
    ({"scores": [["a", "b"], [], ["c"]]}, "its column scores has the type list<.*string>. Give lists of numbers"),
    ({"scores": [0.5, 0.5, 0.5]}, "its column scores has the type double. Give lists of numbers"),
    ({"boxes": [[1.0], [], []]}, "its column boxes has the type list<.*double>. Give lists of 4 numbers"),
    ({"file_name": [1, 2, 3]}, "its column file_name has the type int64. Give text"),
    (
        {"classes": [[0.0, 2.0], [], [1.0]]},
        "its column classes has the type list<.*double>. Give lists of class indices",
    ),
    ({"width": ["640", "", ""]}, "its column width has the type string. Give whole numbers"),
    ({"file_name": ["a", None, "b"]}, r"row 1 \(counted from 0\) has the file_name None. Give the name of the image"),
    ({"file_name": ["a", "b", "a"]}, "image 'a' appears twice. Give each image once"),
    ({"width": [0, 1, 1]}, "image 'z.jpg' has the width 0, which is not a whole number of pixels"),
    ({"scores": [[0.5], [], [1]]}, "image 'z.jpg' has 2 boxes, 1 scores, 2 classes. Give the same number of each"),
    ({"scores": [[0.5, None], [], [1]]}, "image 'z.jpg' has the score nan, which is not a number"),
    ({"scores": [[0.5, 7], [], [1]]}, "image 'z.jpg' has the score 7, which is not a number"),
    (
        {"boxes": [[[1, 2, 3], [1, 2, 3, 4]], [], TWO[:1]]},
        r"image 'z.jpg' has a box of 3 numbers. Give 4: \[left, top, r",
    ),
    ({"boxes": [[None, [1, 2, 3, 4]], [], TWO[:1]]}, "image 'z.jpg' has a box of 0 numbers. Give 4"),
    (
        {"boxes": [[[1, 2, 0, 4], [1, 2, 3, 4]], [], TWO[:1]]},
        r"has the box \[1.0, 2.0, 0.0, 4.0\] .*\[left, top, right",
    ),
    ({"boxes": [[[1, 2, 3, None], [1, 2, 3, 4]], [], TWO[:1]]}, "image 'z.jpg' has the box .*nan.* not finite"),
    ({"classes": [[3, 0], [], [0]]}, "image 'z.jpg' has the class 3, which is not an index from 0 to 2"),
    ({"classes": [[-1, 0], [], [0]]}, "image 'z.jpg' has the class -1, which is not an index"),
    ({"classes": [[None, 0], [], [0]]}, "image 'z.jpg' has the class None, which is not an index"),
    ({"classes": [["car"] * 2, [], ["car"]]}, "image 'z.jpg' has the class 'car', which is not one of 'person, bottle"),
    (
        {"class_probabilities": [[[1.0] * 4] * 2, [], [[1.0] * 3]]},
        "has 4 class_probabilities for a box. Give 3 numbers",
    ),
    ({"class_probabilities": [[[1.0] * 3] * 2, [], None]}, "image 'sub/ä.jpg' has 1 boxes, .* 0 class_probabilities"),
]


@pytest.mark.parametrize(("columns", "expected"), PARQUET_ERRORS)
def test_invalid_parquet_files(tmp_path: Path, columns: Json, expected: str) -> None:
    path = in_parquet(tmp_path, parquet() | columns, list(NAMES))
    with pytest.raises(SettingsError, match=expected) as caught:
        read(path)
    assert str(path) in caught.value.problems[0]


@pytest.mark.parametrize("name", ["file_name", "boxes", "scores", "classes"])
def test_a_column_that_is_missing(tmp_path: Path, name: str) -> None:
    columns = {each: values for each, values in parquet().items() if each != name}
    assert f"there is no column {name}. Add it, with " in problems(in_parquet(tmp_path, columns, list(NAMES)))


NOTHING = {"file_name": ["a"], "boxes": [[]], "scores": [[]], "classes": pa.array([[]], pa.list_(pa.string()))}


NAME_ERRORS: list[tuple[Json, list[Any] | None, str]] = [
    (parquet(), None, "its classes are indices without names. Give the class names as a JSON list under class_names"),
    (parquet(), [], "its class_names are []. Give a list of names"),
    (parquet(), ["a", 1], "its class_names are ['a', 1]. Give a list of names"),
    (parquet(), ["a", "a", "b"], "two classes have the name 'a'. Give every class its own"),
    (
        parquet() | {"classes": [["a", None], [], ["a"]]},
        None,
        "image 'z.jpg' has the class None, which is not one of 'a'",
    ),
    (
        parquet() | {"classes": BY_NAME, "class_probabilities": [[[1.0]] * 2, [], [[1.0]]]},
        None,
        "the order of its class_probabilities is unknown",
    ),
    (
        NOTHING,
        None,
        "nothing was detected, so its classes have no names. Give the class names as a JSON list under class_names",
    ),
]


@pytest.mark.parametrize(("columns", "names", "expected"), NAME_ERRORS)
def test_invalid_class_names(tmp_path: Path, columns: Json, names: list[Any] | None, expected: str) -> None:
    path = in_parquet(tmp_path, columns, names)
    problem = problems(path)
    assert expected in problem and str(path) in problem


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    table = pa.table(parquet())
    table = table.append_column("scores", table["scores"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert "there are 2 columns scores. Keep one of them" in problems(tmp_path / "a.parquet", NAMES)


def test_a_parquet_file_damaged_anywhere_is_named(tmp_path: Path) -> None:
    whole = in_parquet(tmp_path, parquet(), list(NAMES)).read_bytes()
    for end in range(4, len(whole), 97):
        path = tmp_path / "cut.parquet"
        path.write_bytes(whole[:end])
        assert f"{path}: the file cannot be read as Parquet (" in problems(path)
    # A page of data rather than the end.
    buffer = io.BytesIO()
    pq.write_table(pa.table({**parquet(), "classes": BY_NAME}), buffer, compression="zstd")
    damaged = bytearray(buffer.getvalue())
    damaged[4:200] = bytes(196)
    path.write_bytes(bytes(damaged))
    assert f"{path}: the file cannot be read as Parquet (" in problems(path, NAMES)


def test_a_distribution_with_a_background_is_used_as_it_is(tmp_path: Path) -> None:
    rows = [[[0.5, 0.125, 0.25, 0.125], [0.25, 0, 0.5, 0.25]], [], [[0.0, 1, 0, 0]]]
    _, two, one = read(in_parquet(tmp_path, parquet() | {"class_probabilities": rows}, list(NAMES))).rows
    assert arrays(two)[3].tolist() == [[0, 1, 0, 0]]
    assert arrays(one)[3].tolist() == [[0.25, 0, 0.5, 0.25], [0.5, 0.125, 0.25, 0.125]]  # the highest score first
