"""Predictions made elsewhere: formats by hand-worked examples, beside other readers and writers, and with faults."""

import hashlib
import io
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from detectron2.structures import Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from job import external, parts, scores
from job.detect import probabilities
from job.errors import AccessDenied, JobError, ServiceUnavailable, SettingsError, Stopped
from job.exports import lightly_files
from job.exports.lightly import task_name
from job.external import Predictions, distributions
from job.external.batch import IMAGES_PER_BATCH
from job.parts import Row, pool
from job.storage import Entry, open_folder
from job.storage.local import LocalFolder
from tests.conftest import ROOT, S3
from tests.exports.test_lightly_files import AWKWARD
from tests.parts.test_part import MADE_WITH

Json = dict[str, Any]
Change = Callable[[Json], object]

CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 44, "name": "bottle"}]
NAMES = ("person", "bottle", "toothbrush")  # by rising id


def read(uri: Path | str, classes: tuple[str, ...] | None = None, **options: Any) -> Predictions:
    return external.read(str(uri), classes, **{"stop": threading.Event(), **options})


def coco() -> Json:
    """Three images: one with two boxes, one with one, one with none."""
    return {
        "images": [
            {"id": 7, "file_name": "z.jpg", "width": 640, "height": 480},
            {"id": 8, "file_name": "empty.jpg"},
            {"id": "x", "file_name": "sub/ä.jpg", "width": 32, "height": 16.0},
        ],
        "categories": CATEGORIES,
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40.5], "score": 0.25, "id": 1},
            {"image_id": "x", "category_id": 44, "bbox": [-1, 0, 0, 5], "score": 1.0},
            {"image_id": 7, "category_id": 90, "bbox": [0, 0, 1, 1], "score": 0.75, "iscrowd": 0},
        ],
    }


def in_file(folder: Path, content: Any, name: str = "predictions.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def in_parquet(folder: Path, columns: dict[str, Any], names: list[str] | None = None) -> Path:
    table = pa.table(columns)
    if names is not None:
        table = table.replace_schema_metadata({"class_names": json.dumps(names)})
    path = folder / "predictions.parquet"
    pq.write_table(table, path)
    return path


def in_folder(folder: Path, files: dict[str, Any]) -> Path:
    """A task of Lightly's format."""
    schema = {"task_type": "object-detection", "categories": CATEGORIES}
    for name, content in {"schema.json": schema, **files}.items():
        path = folder / "task" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder / "task"


def of_image(*predictions: Any, name: Any = "a") -> dict[str, Any]:
    return {"file_name": name, "predictions": list(predictions)}


def problems(uri: Path | str, classes: tuple[str, ...] | None = None) -> str:
    """The one problem that there is."""
    with pytest.raises(SettingsError) as caught:
        read(uri, classes)
    assert caught.value.exit_code == 64
    (problem,) = caught.value.problems
    assert problem.startswith("CORAL_PREDICTIONS") and problem.endswith((".", ".json")) and "\n" not in problem
    return problem


def arrays(row: Row) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    assert row.boxes is not None and row.scores is not None
    assert row.classes is not None and row.class_probabilities is not None
    return row.boxes, row.scores, row.classes, row.class_probabilities


def assert_same(one: list[Row], other: list[Row]) -> None:
    assert [(each.file_name, each.width, each.height) for each in one] == [
        (each.file_name, each.width, each.height) for each in other
    ]
    for left, right in zip(one, other, strict=True):
        for a, b in zip(arrays(left), arrays(right), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


def test_a_hand_worked_coco_file(tmp_path: Path) -> None:
    path = in_file(tmp_path, coco())
    found = read(path)
    assert found.class_names == NAMES and found.probabilities == "synthetic"
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [each.file_name for each in found.rows] == ["empty.jpg", "sub/ä.jpg", "z.jpg"]
    empty, two, one = found.rows
    for each in found.rows:
        assert (each.etag, each.byte_size, each.status, each.error, each.thumbnail, each.feature) == (
            *("", 0, "ok", None, b"", None),
        )
    assert [(each.width, each.height) for each in found.rows] == [(None, None), (32, 16), (640, 480)]

    assert [each.shape for each in arrays(empty)] == [(0, 4), (0,), (0,), (0, 4)]
    assert [each.dtype for each in arrays(empty)] == [np.float32, np.float32, np.int32, np.float16]
    assert [each.tolist() for each in arrays(two)] == [[[-1, 0, -1, 5]], [1], [1], [[0, 1, 0, 0]]]
    boxes, box_scores, classes, rows = arrays(one)
    assert boxes.tolist() == [[0, 0, 1, 1], [10, 20, 40, 60.5]] and boxes.dtype == np.float32
    assert box_scores.tolist() == [0.75, 0.25] and box_scores.dtype == np.float32
    assert classes.tolist() == [2, 0] and classes.dtype == np.int32
    twelfth = float(np.float16(0.25 / 3))
    assert rows.tolist() == [[twelfth, twelfth, 0.75, twelfth], [0.25, 0.25, 0.25, 0.25]] and rows.dtype == np.float16


def test_given_probabilities_follow_the_order_of_the_categories_in_the_file(tmp_path: Path) -> None:
    content = coco()
    # toothbrush, person, bottle. The first box is something with probability 0.5, and then a person to a half.
    for each, given_row in zip(content["annotations"], ([0.25, 0.5, 0.25], [0, 0, 1], [0.5, 0.25, 0]), strict=True):
        each["probabilities"] = given_row
    found = read(in_file(tmp_path, content))
    assert found.probabilities == "external"
    _, two, one = found.rows
    # person, bottle, toothbrush, background. Of the box with score 0.75, the rest goes to the person alone.
    assert arrays(one)[3].tolist() == [[0.25, 0, 0.75, 0], [0.25, 0.125, 0.125, 0.5]]
    assert arrays(two)[3].tolist() == [[0, 1, 0, 0]]


def test_pycocotools_agrees_on_the_boxes_of_each_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = [1, 3, 4, 17, 90]
    count = IMAGES_PER_BATCH * 2 + 5
    content = {
        "images": [{"id": 1000 - number, "file_name": f"{number}.jpg"} for number in range(count)],
        "categories": [{"id": each, "name": f"class {each}"} for each in ids],
        "annotations": [
            {
                "id": number + 1,
                "image_id": 1000 - int(rng.integers(count)),
                "category_id": int(rng.choice(ids)),
                "bbox": rng.random(4).tolist(),
                "score": float(rng.random()),
            }
            for number in range(600)
        ],
    }
    path = in_file(tmp_path, content)
    theirs = COCO(str(path))
    found = read(path)
    assert [each.file_name for each in found.rows] == sorted(
        (f"{number}.jpg" for number in range(count)), key=str.encode
    )
    name_of = {each["id"]: each["file_name"] for each in theirs.dataset["images"]}
    class_of = {each["id"]: each["name"] for each in theirs.loadCats(theirs.getCatIds())}
    expected = Counter((name_of[each["image_id"]], class_of[each["category_id"]]) for each in theirs.anns.values())
    assert expected == Counter(
        (each.file_name, found.class_names[index]) for each in found.rows for index in arrays(each)[2].tolist()
    )
    for each in found.rows:
        assert (np.diff(arrays(each)[1]) <= 0).all()


def of_our_own(folder: Path, names: list[str]) -> tuple[LocalFolder, list[Row]]:
    """An output of the job, in which scores are the entries of the predicted classes, with Lightly's files."""
    rng = np.random.default_rng(0)
    rows = []
    for number, name in enumerate(sorted(names, key=str.encode)):
        distribution = rng.dirichlet(np.ones(4), number % 4).astype(np.float16)
        distribution = distribution[np.argsort(-distribution[:, :3].max(axis=1), kind="stable")]
        rows.append(
            Row(
                *(name, "e", 10, "ok", None, 64, 48),
                boxes=np.sort(rng.random((number % 4, 2, 2), np.float32) * 40, axis=1).reshape(-1, 4),
                scores=distribution[:, :3].max(axis=1, initial=0).astype(np.float32),
                classes=distribution[:, :3].argmax(axis=1).astype(np.int32),
                class_probabilities=distribution,
                thumbnail=b"\xff\xd8",
            )
        )
    output = LocalFolder(str(folder))
    parts.write(output, rows, MADE_WITH)
    lightly_files.write(output, pool.load(output, [Entry(each.file_name, "e", 10) for each in rows]))
    return output, rows


def assert_nearly_same(found: list[Row], rows: list[Row]) -> None:
    assert [each.file_name for each in found] == [each.file_name for each in rows]
    for each, original in zip(found, rows, strict=True):
        assert (each.width, each.height) == (None, None)
        limits = (1.5e-3, 1e-6, 0, 1e-3)  # three decimals, six, and half precision
        for a, b, limit in zip(arrays(each), arrays(original), limits, strict=True):
            np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), atol=limit, rtol=0)


def test_what_the_job_writes_for_lightly_becomes_again_what_it_was(tmp_path: Path) -> None:
    output, rows = of_our_own(tmp_path, AWKWARD)
    folder = f"{output.uri}/.lightly/predictions"
    found = read(folder)
    assert found.class_names == MADE_WITH.class_names and found.probabilities == "external"
    assert_nearly_same(found.rows, rows)
    task = read(f"{folder}/{task_name(MADE_WITH)}/")
    assert_same(task.rows, found.rows)
    assert task.sha256 == found.sha256

    changed = (
        f".lightly/predictions/{task_name(MADE_WITH)}/" + lightly_files.paths([each.file_name for each in rows])["b"]
    )
    output.write(changed, json.dumps({"file_name": "b", "predictions": []}).encode())
    assert read(folder).sha256 != found.sha256


def test_lightlys_files_in_a_bucket(tmp_path: Path, moto: S3) -> None:
    _, rows = of_our_own(tmp_path, ["a.jpg", "sub/b.jpg", "sub/deep/c.jpg"])
    bucket = open_folder(moto.uri("of-others"))
    for path in (tmp_path / ".lightly").rglob("*.json"):
        bucket.write(path.relative_to(tmp_path).as_posix(), path.read_bytes())
    found = read(moto.uri("of-others/.lightly/predictions"))
    assert_nearly_same(found.rows, rows)
    assert found.sha256 == read(tmp_path / ".lightly/predictions").sha256
    bucket.write("coco.json", json.dumps(coco()).encode())
    assert_same(read(moto.uri("of-others/coco.json")).rows, read(in_file(tmp_path, coco())).rows)
    with pytest.raises(SettingsError, match="is no file, nor a folder of files"):
        read(moto.uri("of-others/nothing"))


def test_many_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = [f"{number:03}" for number in range(IMAGES_PER_BATCH + 40)]
    prediction = {"category_id": 44, "bbox": [1, 2, 3, 4], "score": 0.5}
    folder = in_folder(tmp_path, {f"{name[:2]}/{name}.json": of_image(prediction, name=name) for name in names})
    found = read(folder)
    assert [each.file_name for each in found.rows] == names and found.probabilities == "synthetic"
    assert all(arrays(each)[0].tolist() == [[1, 2, 4, 6]] and arrays(each)[2] == [1] for each in found.rows)
    files = ["schema.json", *(f"{name[:2]}/{name}.json" for name in names)]
    lines = "".join(f"{hashlib.sha256((folder / each).read_bytes()).hexdigest()}  {each}\n" for each in files)
    assert found.sha256 == hashlib.sha256(lines.encode()).hexdigest()


def parquet() -> Json:
    """The images of `coco`."""
    return {
        "file_name": ["z.jpg", "empty.jpg", "sub/ä.jpg"],
        "width": pa.array([640, None, 32]),
        "height": pa.array([480, None, 16]),
        "boxes": [[[10, 20, 40, 60.5], [0.0, 0, 1, 1]], [], [[-1, 0, -1, 5]]],
        "scores": [[0.25, 0.75], [], [1]],
        "classes": [[0, 2], [], [1]],
    }


def typed(**kinds: pa.DataType) -> Json:
    return parquet() | {name: pa.array(parquet()[name], kind) for name, kind in kinds.items()}


BY_NAME = [["person", "toothbrush"], [], ["bottle"]]


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
def test_parquet_says_the_same_as_coco(
    tmp_path: Path, columns: Json, names: list[str] | None, classes: tuple[str, ...] | None
) -> None:
    path = in_parquet(tmp_path, columns, names)
    found = read(path, classes)
    assert found.class_names == NAMES and found.probabilities == "synthetic"
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert_same(found.rows, read(in_file(tmp_path, coco())).rows)


def test_class_names_that_are_nowhere_else_are_sorted(tmp_path: Path) -> None:
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


def test_boxes_below_a_score_are_left_out_and_names_stay_as_they_are(tmp_path: Path) -> None:
    content = coco()
    for each, name in zip(content["images"], ["/abs/z.jpg", "../up.jpg", "a\nb"], strict=True):
        each["file_name"] = name
    found = read(in_file(tmp_path, content), min_score=0.75)
    assert [each.file_name for each in found.rows] == ["../up.jpg", "/abs/z.jpg", "a\nb"]
    assert [len(arrays(each)[1]) for each in found.rows] == [0, 1, 1]
    assert arrays(found.rows[1])[0].tolist() == [[0, 0, 1, 1]] and arrays(found.rows[1])[3].shape == (1, 4)


def test_a_score_that_was_rounded_above_1_is_1(tmp_path: Path) -> None:
    content = coco()
    content["annotations"][1]["score"] = 1 + 2**-23
    (box_score,), (row,) = arrays(read(in_file(tmp_path, content)).rows[1])[1::2]
    assert box_score == 1 and row.tolist() == [0, 1, 0, 0]


def test_the_rows_make_parts_and_scores(tmp_path: Path) -> None:
    content = coco()
    content["images"][1] |= {"width": 1, "height": 1}
    found = read(in_file(tmp_path, content))
    output = LocalFolder(str(tmp_path / "out"))
    parts.write(output, found.rows, MADE_WITH)
    loaded = pool.load(output, [Entry(each.file_name, "", 0) for each in found.rows])
    assert loaded.file_names == [each.file_name for each in found.rows] and loaded.num_boxes.tolist() == [0, 1, 2]
    assert loaded.scores["uncertainty_entropy"].tolist() == [0, 0, 1]
    assert loaded.size.tolist() == [[1, 1], [32, 16], [640, 480]] and loaded.features is None


def test_sizes_that_are_not_known_are_null_in_parts(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path / "out"))
    parts.write(output, read(in_file(tmp_path, coco())).rows, MADE_WITH)
    (part,) = parts.read(output)
    assert part.table["width"].to_pylist() == [None, 32, 640] and part.table["thumbnail"].to_pylist() == [b""] * 3


def test_neither_torch_nor_detectron2_is_loaded() -> None:
    code = "import sys, job.external; print({'torch', 'detectron2', 'lightly'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def boxes_of(seed: int, count: int, classes: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Scores, classes and probabilities of all kinds: in two scales, with zeros, with scores of 0 and 1."""
    rng = np.random.default_rng(seed)
    box_scores = np.where(rng.random(count) < 0.3, rng.integers(0, 2, count), rng.random(count))
    rows = rng.dirichlet(np.full(classes, 0.1), count) * rng.choice([1, 1e-3], (count, 1))
    return box_scores, rng.integers(0, classes, count), np.where(rng.random(rows.shape) < 0.2, 0, rows)


@given(st.integers(0, 2**32), st.integers(0, 8), st.integers(1, 90))
def test_distributions_sum_to_1_and_have_the_score_at_the_predicted_class(seed: int, count: int, classes: int) -> None:
    box_scores, predicted, given_rows = boxes_of(seed, count, classes)
    before = given_rows.copy()
    for rows in (
        distributions.synthetic(box_scores, predicted, classes),
        distributions.external(box_scores, predicted, given_rows),
    ):
        assert rows.shape == (count, classes + 1)
        assert (rows >= 0).all() and (rows <= 1).all()
        np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-12)
        np.testing.assert_array_equal(rows[np.arange(count), predicted], box_scores)
        in_half = rows.astype(np.float16)
        np.testing.assert_allclose(in_half.astype(np.float64).sum(axis=1), 1, atol=1e-3)
        assert np.isfinite(scores.normalize(in_half)).all()
    np.testing.assert_array_equal(given_rows, before)


@given(st.integers(0, 2**32), st.integers(0, 8), st.integers(1, 90), st.floats(1e-3, 1))
def test_the_scale_of_given_probabilities_does_not_matter(seed: int, count: int, classes: int, scale: float) -> None:
    one = distributions.external(*boxes_of(seed, count, classes))
    box_scores, predicted, rows = boxes_of(seed, count, classes)
    np.testing.assert_allclose(distributions.external(box_scores, predicted, rows * scale), one, atol=1e-12)


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 90))
def test_the_detectors_own_distributions_come_back(seed: int, count: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    whole = rng.dirichlet(np.ones(classes + 1), count)
    predicted = rng.integers(0, classes, count)
    box_scores = whole[np.arange(count), predicted]
    for known in (whole[:, :-1], whole[:, :-1] / whole[:, :-1].sum(axis=1, keepdims=True)):
        np.testing.assert_allclose(distributions.external(box_scores, predicted, known), whole, atol=1e-9)


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 90))
def test_they_are_those_of_the_job(seed: int, count: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    ratings = rng.random((count, classes)) ** 4
    predicted = ratings.argmax(axis=1)
    best = ratings[np.arange(count), predicted]
    torches = torch.tensor(ratings), torch.tensor(predicted)
    for power, box_scores in ((1, best), (2, np.sqrt(best * rng.uniform(0.1, 1, count)))):
        # FCOS rates each class by the root of its sigmoid and the centerness, which is what its best score squared and
        # divided by its best sigmoid is.
        rated = ratings if power == 1 else np.sqrt(ratings * (box_scores**2 / best)[:, None])
        theirs = probabilities.make_exclusive(torch.tensor(rated), torches[1], torch.tensor(box_scores), power=power)
        ours = distributions.external(box_scores, predicted, ratings)
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
    without = Instances((1, 1), scores=torch.tensor(best), pred_classes=torches[1])
    ours = distributions.synthetic(best, predicted, classes)
    np.testing.assert_allclose(ours, probabilities.of_instances(without, classes).numpy(), atol=1e-12)


def more(kind: str, value: Any) -> Change:
    return lambda content: content[kind].append(value)


def first(kind: str, **values: Any) -> Change:
    return lambda content: content[kind][0].update(values)


def box(**values: Any) -> Change:
    return first("annotations", **values)


COCO_ERRORS: list[tuple[Change, str]] = [
    (lambda each: each.pop("annotations"), "it has no list of annotations: add the predictions"),
    (lambda each: each.pop("images"), "it has no list of images: add those"),
    (lambda each: each.update(images=[], annotations=[]), "has no images in it"),
    (lambda each: each.pop("categories"), "it has no list of categories: add one"),
    (lambda each: each.update(categories=[]), "it has no list of categories: add one"),
    (more("categories", "car"), "the category 'car' has no whole number for its id, or no name: give it both"),
    (more("categories", {"id": "2", "name": "car"}), "the category .*'2'.* has no whole number for its id"),
    (more("categories", {"id": 2, "name": ""}), "the category .* has no whole number for its id, or no name"),
    (more("categories", {"id": 1, "name": "car"}), "two categories have the id 1: give each one of its own"),
    (more("categories", {"id": 2, "name": "person"}), "two classes have the name 'person': give each one of its own"),
    (more("images", "a.jpg"), "the image 'a.jpg' has no id or no file_name: give it both"),
    (more("images", {"id": 5}), "the image .* has no id or no file_name: give it both"),
    (more("images", {"id": 5, "file_name": "\ud800"}), "the image .* has no id or no file_name"),
    (more("images", {"id": [], "file_name": "a"}), "the image .* has no id or no file_name"),
    (more("images", {"id": 7, "file_name": "a"}), "image 'a' has the id 7, as image 'z.jpg' has: give each one of"),
    (more("images", {"id": 9, "file_name": "z.jpg"}), "it has image 'z.jpg', twice: give each image once"),
    (first("images", width=0), "image 'z.jpg' has the width 0, which is no number of pixels: correct it, or"),
    (first("images", height=1.5), "image 'z.jpg' has the height 1.5, which is no number of pixels"),
    (first("images", height=float("nan")), "image 'z.jpg' has the height nan, which is no number of pixels"),
    (first("images", height="480"), "image 'z.jpg' has the height '480', which is no number of pixels"),
    (first("images", height=2**31), "image 'z.jpg' has the height 2147483648, which is no number of pixels"),
    (more("annotations", 3), r"annotation 3 \(from 0\) has the image_id None, which none of the images has"),
    (box(image_id="7"), r"annotation 0 \(from 0\) has the image_id '7', which none of the images has: correct it"),
    (box(image_id=[7]), r"annotation 0 \(from 0\) has the image_id \[7\], which none of the images has"),
    (box(category_id=2), "image 'z.jpg' has the category_id 2, which is not among the categories '1, 44, 90': add"),
    (box(category_id=True), "image 'z.jpg' has the category_id True, which is not among"),
    (box(category_id=None), "image 'z.jpg' has the category_id None, which is not among"),
    (box(score=None), "image 'z.jpg' has a box without a score: give predictions, .* labels have none"),
    (box(score="0.5"), "image 'z.jpg' has the score '0.5', which is no number from 0 to 1"),
    (box(score=True), "image 'z.jpg' has the score True, which is no number from 0 to 1"),
    (box(score=1.5), "image 'z.jpg' has the score 1.5, which is no number from 0 to 1: give the probability"),
    (box(score=-0.5), "image 'z.jpg' has the score -0.5, which is no number"),
    (box(score=float("nan")), "image 'z.jpg' has the score nan, which is no number"),
    (box(score=10**400), "image 'z.jpg' has the score inf, which is no number"),
    (box(bbox=[1, 2, 3]), r"image 'z.jpg' has the bbox \[1, 2, 3\]: give it as four numbers, \[left, top, width"),
    (box(bbox=None), "image 'z.jpg' has the bbox None: give it as four numbers"),
    (box(bbox=[1, 2, 3, "4"]), "image 'z.jpg' has the bbox .*'4'.*: give it as four numbers"),
    (box(bbox=[1, 2, 3, False]), "image 'z.jpg' has the bbox .*False.*: give it as four numbers"),
    (box(bbox=[10, 2, -3, 4]), r"image 'z.jpg' has the box \[10.0, 2.0, 7.0, 6.0\] .*: write a box as \[left, top"),
    (box(bbox=[1, 2, 3, -4]), "image 'z.jpg' has the box .* whose sides are interchanged"),
    (box(bbox=[1, 2, 3, float("inf")]), "image 'z.jpg' has the box .*inf.* not finite"),
    (box(bbox=[float("nan"), 2, 3, 4]), "image 'z.jpg' has the box .*nan.* not finite"),
    (box(bbox=[1, 2, 1e39, 4]), r"image 'z.jpg' has the box .*1e\+39.* not finite"),
    (box(bbox=[1, 2, 10**400, 4]), "image 'z.jpg' has the box .*inf.* not finite"),
]


@pytest.mark.parametrize(("change", "expected"), COCO_ERRORS)
def test_what_is_wrong_with_a_coco_file(tmp_path: Path, change: Change, expected: str) -> None:
    content = json.loads(json.dumps(coco()))
    change(content)
    path = in_file(tmp_path, content)
    problem = problems(path)
    assert str(path) in problem
    with pytest.raises(SettingsError, match=expected):
        read(path)


GIVEN_ERRORS: list[tuple[Any, str]] = [
    ([0.5, 0.5], r"has the probabilities \[0.5, 0.5\] \(2 values\): give 3 numbers, .* none for the background"),
    ([0.25, 0.25, 0.25, 0.25], r"has the probabilities .* \(4 values\): give 3 numbers"),
    ([0.25, "a", 0.25], r"has the probabilities .*'a'.*: give 3 numbers"),
    ("abc", r"has the probabilities 'abc' \(no list\): give 3 numbers"),
    (None, "has a box without class probabilities: .* give them for all boxes, or for none"),
    ([-0.25, 0.75, 0.5], "has the class probability -0.25, which is no number from 0 to 1: give what the softmax"),
    ([0.25, 50, 0.5], "has the class probability 50, which is no number from 0 to 1"),
    ([0.25, 0.5, float("nan")], "has the class probability nan, which is no number from 0 to 1"),
    ([0.25, 0, 0.5], "has a box of score 0.25 whose class has the probability 0: .* in the order of the classes"),
    ([0, 0, 0], "has a box of score 0.25 whose class has the probability 0"),
]


@pytest.mark.parametrize(("values", "expected"), GIVEN_ERRORS)
def test_what_is_wrong_with_probabilities(tmp_path: Path, values: Any, expected: str) -> None:
    content = coco()
    for each, row in zip(content["annotations"], (values, [0.2, 0.2, 0.6], [0.5, 0.5, 0]), strict=True):
        each["probabilities"] = row
    path = in_file(tmp_path, content)
    assert str(path) in problems(path)
    with pytest.raises(SettingsError, match=f"image 'z.jpg' {expected}"):
        read(path)


def test_boxes_with_probabilities_and_without_them_in_different_batches(tmp_path: Path) -> None:
    prediction = {"category_id": 44, "bbox": [1, 2, 3, 4], "score": 0.5}
    files = {f"{number:03}.json": of_image(name=str(number)) for number in range(IMAGES_PER_BATCH)}
    files["000.json"] = of_image(prediction | {"probabilities": [0, 0, 1]})
    files["900.json"] = of_image(prediction, name="last")
    assert problems(in_folder(tmp_path, files)).endswith("give them for all boxes, or for none.")


def test_a_probability_that_was_rounded_to_0_is_no_fault(tmp_path: Path) -> None:
    content = coco()
    for each in content["annotations"]:
        each |= {"score": 0.005, "probabilities": [0.25, 0, 0.25] if each["category_id"] == 1 else [0.5, 0, 0.5]}
    rows = arrays(read(in_file(tmp_path, content)).rows[2])[3].astype(np.float64)
    np.testing.assert_allclose(rows[0], [0.005, 0.4975, 0.4975, 0], atol=1e-3)
    np.testing.assert_allclose(rows[1], [0, 0.005, 0.005, 0.99], atol=1e-3)


def test_of_many_problems_the_first_few_are_told(tmp_path: Path) -> None:
    content = coco()
    content["annotations"] = [content["annotations"][0] | {"score": number} for number in range(2, 12)]
    with pytest.raises(SettingsError) as caught:
        read(in_file(tmp_path, content))
    *told, rest = caught.value.problems
    where = f"CORAL_PREDICTIONS, {tmp_path}/predictions.json: image 'z.jpg' has the score"
    assert [each.partition(", which")[0] for each in told] == [f"{where} {score}" for score in (2, 3, 4)]
    assert rest == "CORAL_PREDICTIONS: more such problems, found so far: 7."


JUNK: list[Any] = [
    None,
    True,
    0,
    -1,
    2.5,
    "",
    "x",
    "\ud800",
    [],
    {},
    [[]],
    [1, 2, 3, 4],
    10**400,
    float("nan"),
    2**63,
    [1e308] * 4,
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield (*path, key)
        yield from places(each, (*path, key))


@settings(max_examples=300, deadline=None)
@given(st.data(), st.booleans())
def test_whatever_is_in_a_file_is_read_or_told(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, with_probabilities: bool
) -> None:
    content = json.loads(json.dumps(coco()))
    for each in content["annotations"]:
        each |= {"probabilities": [0.25, 0.25, 0.5]} if with_probabilities else {}
    *above, last = data.draw(st.sampled_from(list(places(content))))
    parent = content
    for key in above:
        parent = parent[key]
    parent[last] = data.draw(st.sampled_from(JUNK))
    path = in_file(tmp_path_factory.getbasetemp(), content, "junk.json")
    try:
        assert all(np.isfinite(each).all() for row in read(path).rows for each in arrays(row))
    except SettingsError as error:
        assert str(path) in error.problems[0] and all(each.startswith("CORAL_PREDICTIONS") for each in error.problems)


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    content = coco()
    content["annotations"][0]["bbox"] = ["x" * 1000]
    assert len(problems(in_file(tmp_path, content))) < 400


def test_coral_classes_must_not_say_otherwise(tmp_path: Path) -> None:
    path = in_file(tmp_path, coco())
    assert read(path, NAMES).class_names == NAMES
    assert "its classes are 'person, bottle, toothbrush', and CORAL_CLASSES is 'a, b': leave" in problems(
        path, ("a", "b")
    )
    assert "leave CORAL_CLASSES out" in problems(in_parquet(tmp_path, parquet(), list(NAMES)), NAMES[::-1])
    assert "leave CORAL_CLASSES out" in problems(in_folder(tmp_path, {}), NAMES[:2])


LIGHTLY_ERRORS: list[tuple[dict[str, Any], str, str]] = [
    ({"a.json": b"{"}, "/a.json", r"it is not JSON \(.*\): write it again"),
    ({"sub/a.json": b"[" * 100_000}, "/sub/a.json", "it is not JSON"),
    ({"a.json": []}, "/a.json", "its file_name is None: give the name of the image, relative to CORAL_INPUT"),
    ({"a.json": {"predictions": []}}, "/a.json", "its file_name is None: give"),
    ({"a.json": of_image(name=3)}, "/a.json", "its file_name is 3: give"),
    ({"a.json": {"file_name": "a"}}, "/a.json", "image 'a' has None for its predictions: give a list"),
    ({"a.json": of_image(1)}, "/a.json", "image 'a' has 1 for a prediction: give an object"),
    ({"a.json": of_image({"category_id": 1, "score": 0.5})}, "/a.json", "image 'a' has the bbox None"),
    ({"a.json": of_image(), "b.json": of_image()}, "/b.json", "it has image 'a', and so does .*/a.json: give each"),
    ({}, "", "has no images in it"),
    ({"schema.json": b"?"}, "/schema.json", "it is not JSON"),
    ({"schema.json": []}, "/schema.json", "its task_type is None: give predictions of object-detection"),
    ({"schema.json": {"task_type": "classification"}}, "/schema.json", "its task_type is 'classification': give"),
    ({"schema.json": {"task_type": "object-detection"}}, "/schema.json", "it has no list of categories"),
]


@pytest.mark.parametrize(("files", "where", "expected"), LIGHTLY_ERRORS)
def test_what_is_wrong_with_lightlys_files(tmp_path: Path, files: dict[str, Any], where: str, expected: str) -> None:
    folder = in_folder(tmp_path, files)
    assert f"{folder}{where}" in problems(folder)
    with pytest.raises(SettingsError, match=expected):
        read(folder)


@pytest.mark.parametrize("tasks", [[], ["task", "other"], {"task": 1}, [3]])
def test_several_tasks_or_none(tmp_path: Path, tasks: Any) -> None:
    in_folder(tmp_path, {})
    in_file(tmp_path, tasks, "tasks.json")
    problem = problems(tmp_path)
    assert f"{tmp_path}/tasks.json: its tasks are {tasks!r}, and not exactly one: name the folder" in problem


def test_a_task_without_its_schema(tmp_path: Path) -> None:
    in_file(tmp_path, ["gone"], "tasks.json")
    assert f"{tmp_path}/gone/schema.json: there is no such file: add it" in problems(tmp_path)


def without(name: str) -> Json:
    return {each: values for each, values in parquet().items() if each != name}


TWO = [[1, 2, 3, 4]] * 2
PARQUET_ERRORS: list[tuple[Json, str]] = [
    ({"scores": [["a", "b"], [], ["c"]]}, "its column scores is list<.*string>: make it lists of numbers"),
    ({"scores": [0.5, 0.5, 0.5]}, "its column scores is double: make it lists of numbers"),
    ({"boxes": [[1.0], [], []]}, "its column boxes is list<.*double>: make it lists of 4 numbers"),
    ({"file_name": [1, 2, 3]}, "its column file_name is int64: make it text"),
    ({"classes": [[0.0, 2.0], [], [1.0]]}, "its column classes is list<.*double>: make it lists of class indices"),
    ({"width": ["640", "", ""]}, "its column width is string: make it whole numbers"),
    ({"file_name": ["a", None, "b"]}, r"row 1 \(from 0\) has the file_name None: give the name of the image"),
    ({"file_name": ["a", "b", "a"]}, "it has image 'a', twice: give each image once"),
    ({"width": [0, 1, 1]}, "image 'z.jpg' has the width 0, which is no number of pixels"),
    ({"scores": [[0.5], [], [1]]}, "image 'z.jpg' has 2 boxes, 1 scores, 2 classes: give as many of each"),
    ({"scores": [[0.5, None], [], [1]]}, "image 'z.jpg' has the score nan, which is no number"),
    ({"scores": [[0.5, 7], [], [1]]}, "image 'z.jpg' has the score 7, which is no number"),
    (
        {"boxes": [[[1, 2, 3], [1, 2, 3, 4]], [], TWO[:1]]},
        r"image 'z.jpg' has a box of 3 numbers: give 4, \[left, top, r",
    ),
    ({"boxes": [[None, [1, 2, 3, 4]], [], TWO[:1]]}, "image 'z.jpg' has a box of 0 numbers: give 4"),
    (
        {"boxes": [[[1, 2, 0, 4], [1, 2, 3, 4]], [], TWO[:1]]},
        r"has the box \[1.0, 2.0, 0.0, 4.0\] .*\[left, top, right",
    ),
    ({"boxes": [[[1, 2, 3, None], [1, 2, 3, 4]], [], TWO[:1]]}, "image 'z.jpg' has the box .*nan.* not finite"),
    ({"classes": [[3, 0], [], [0]]}, "image 'z.jpg' has the class 3, which is not an index into the 3 class names"),
    ({"classes": [[-1, 0], [], [0]]}, "image 'z.jpg' has the class -1, which is not an index"),
    ({"classes": [[None, 0], [], [0]]}, "image 'z.jpg' has the class None, which is not an index"),
    ({"classes": [["car"] * 2, [], ["car"]]}, "image 'z.jpg' has the class 'car', which is not 'person, bottle, tooth"),
    (
        {"class_probabilities": [[[1.0] * 4] * 2, [], [[1.0] * 3]]},
        "has 4 class_probabilities for a box: give 3 numbers",
    ),
    ({"class_probabilities": [[[1.0] * 3] * 2, [], None]}, "image 'sub/ä.jpg' has 1 boxes, .* 0 class_probabilities"),
]


@pytest.mark.parametrize(("columns", "expected"), PARQUET_ERRORS)
def test_what_is_wrong_with_a_parquet_file(tmp_path: Path, columns: Json, expected: str) -> None:
    path = in_parquet(tmp_path, parquet() | columns, list(NAMES))
    with pytest.raises(SettingsError, match=expected) as caught:
        read(path)
    assert str(path) in caught.value.problems[0]


@pytest.mark.parametrize("name", ["file_name", "boxes", "scores", "classes"])
def test_a_column_that_is_missing(tmp_path: Path, name: str) -> None:
    columns = {each: values for each, values in parquet().items() if each != name}
    assert f"it has no column {name}: add it, with " in problems(in_parquet(tmp_path, columns, list(NAMES)))


NOTHING = {"file_name": ["a"], "boxes": [[]], "scores": [[]], "classes": pa.array([[]], pa.list_(pa.string()))}
NAME_ERRORS: list[tuple[Json, list[Any] | None, str]] = [
    (parquet(), None, "its classes are numbers without names: give them as a JSON list under class_names"),
    (parquet(), [], "its class_names are []: give a list of names"),
    (parquet(), ["a", 1], "its class_names are ['a', 1]: give a list of names"),
    (parquet(), ["a", "a", "b"], "two classes have the name 'a': give each one of its own"),
    (parquet() | {"classes": [["a", None], [], ["a"]]}, None, "image 'z.jpg' has the class None, which is not 'a'"),
    (
        parquet() | {"classes": BY_NAME, "class_probabilities": [[[1.0]] * 2, [], [[1.0]]]},
        None,
        "is whose, is not said",
    ),
    (NOTHING, None, "nothing was detected, so classes have no names: give them as a JSON list under class_names"),
]


@pytest.mark.parametrize(("columns", "names", "expected"), NAME_ERRORS)
def test_what_is_wrong_with_class_names(tmp_path: Path, columns: Json, names: list[Any] | None, expected: str) -> None:
    path = in_parquet(tmp_path, columns, names)
    problem = problems(path)
    assert expected in problem and str(path) in problem


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    table = pa.table(parquet())
    table = table.append_column("scores", table["scores"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert "it has 2 columns scores: leave one of them" in problems(tmp_path / "a.parquet", NAMES)


def test_a_parquet_file_damaged_anywhere_is_named(tmp_path: Path) -> None:
    whole = in_parquet(tmp_path, parquet(), list(NAMES)).read_bytes()
    for end in range(4, len(whole), 97):
        path = tmp_path / "cut.parquet"
        path.write_bytes(whole[:end])
        assert f"{path}: it cannot be read as Parquet (" in problems(path)
    # A page of data rather than the end.
    buffer = io.BytesIO()
    pq.write_table(pa.table({**parquet(), "classes": BY_NAME}), buffer, compression="zstd")
    damaged = bytearray(buffer.getvalue())
    damaged[4:200] = bytes(196)
    path.write_bytes(bytes(damaged))
    assert f"{path}: it cannot be read as Parquet (" in problems(path, NAMES)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", r"is neither Parquet nor JSON \("),
        (b"\xff\xd8\xff\xe0", r"is neither Parquet nor JSON \("),
        (b"[" * 100_000, r"is neither Parquet nor JSON \("),
        (b"a.jpg,0,0,10,10,person,0.9\n", r"is neither Parquet nor JSON \("),
        (b"3", "is JSON of another kind, 3"),
        (b'{"a": 1}', "is JSON of another kind, {'a': 1}"),
        (b'["task"]', "is JSON of another kind"),
        (b'{"file_name": "a", "predictions": []}', "looks like one file of Lightly's predictions: name the folder"),
        (b'{"task_type": "object-detection", "categories": []}', "looks like one file of Lightly's predictions"),
    ],
)
def test_another_format_is_told_which_are_known(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "predictions"
    path.write_bytes(content)
    problem = problems(path)
    assert problem.startswith(f"CORAL_PREDICTIONS='{path}' ")
    with pytest.raises(SettingsError, match=expected):
        read(path)
    assert all(each in problem for each in ("COCO JSON file", "schema.json", "tasks.json", "Parquet file"))


@pytest.mark.parametrize("results", [[], [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]])
def test_a_list_of_coco_results_is_told_what_it_lacks(tmp_path: Path, results: Any) -> None:
    problem = problems(in_file(tmp_path, results))
    assert "is a list of COCO results, in which images have no names: make one file" in problem
    assert all(f'"{each}": ' in problem for each in ("images", "categories", "annotations"))
    # And that is how it is done.
    whole = {"images": [{"id": 1, "file_name": "a.jpg"}], "categories": CATEGORIES, "annotations": results}
    assert [len(arrays(each)[1]) for each in read(in_file(tmp_path, whole)).rows] == [len(results)]


def test_json_in_other_encodings(tmp_path: Path) -> None:
    expected = read(in_file(tmp_path, coco())).rows
    for encoding in ("utf-8-sig", "utf-16"):
        path = tmp_path / encoding
        path.write_bytes(json.dumps(coco(), ensure_ascii=False).encode(encoding))
        assert_same(read(path).rows, expected)


def test_places_where_nothing_is(tmp_path: Path) -> None:
    assert f"'{tmp_path}/x.json' is not there: {tmp_path}/x.json is not a folder." in problems(tmp_path / "x.json")
    assert "is no file, nor a folder of files. Known are" in problems(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"")
    assert "is a folder with neither schema.json nor tasks.json. Known are" in problems(tmp_path)
    assert "must be a path, or begin with s3://" in problems("ftp://host/a.json")
    assert "must name a bucket" in problems("s3://")


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = in_file(tmp_path, coco())
    folder = in_folder(tmp_path, {"a.json": of_image()})
    real = LocalFolder.read
    cases: list[tuple[type[OSError], type[JobError]]] = [(PermissionError, AccessDenied), (OSError, ServiceUnavailable)]
    for error, expected in cases:

        def refused(self: LocalFolder, key: str, etag: str | None = None, error: type[OSError] = error) -> bytes:
            if key in ("a.json", "predictions.json"):
                raise error(5, "not today")
            return real(self, key, etag)

        monkeypatch.setattr(LocalFolder, "read", refused)
        with pytest.raises(expected, match=r"/predictions.json .*: not today"):
            read(path)
        with pytest.raises(expected, match=r"/task/a.json .*: not today"):
            read(folder)


def test_a_request_to_stop_ends_the_reading(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    for uri in (in_file(tmp_path, coco()), in_folder(tmp_path, {"a.json": of_image()})):
        with pytest.raises(Stopped):
            read(uri, stop=stop)
