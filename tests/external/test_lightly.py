"""Lightly's format: read back from the job's own writer, from a bucket, and with invalid content."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job import parts
from job.errors import SettingsError
from job.exports import lightly_files
from job.exports.lightly import task_name
from job.external.batch import IMAGES_PER_BATCH
from job.parts import Row, pool
from job.storage import Entry, open_folder
from job.storage.local import LocalFolder
from tests.conftest import S3
from tests.exports.test_lightly_files import AWKWARD
from tests.external import arrays, assert_same, coco, in_file, in_folder, of_image, problems, read
from tests.parts.test_part import MADE_WITH


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


def test_files_that_the_job_wrote_for_lightly_are_read_back(tmp_path: Path) -> None:
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
    with pytest.raises(SettingsError, match="is neither a file nor a folder of files"):
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


LIGHTLY_ERRORS: list[tuple[dict[str, Any], str, str]] = [
    ({"a.json": b"{"}, "/a.json", r"the content is not valid JSON \(.*\). Write the file again"),
    ({"sub/a.json": b"[" * 100_000}, "/sub/a.json", "the content is not valid JSON"),
    ({"a.json": []}, "/a.json", "its file_name is None. Give the name of the image, relative to CORAL_INPUT"),
    ({"a.json": {"predictions": []}}, "/a.json", "its file_name is None. Give"),
    ({"a.json": of_image(name=3)}, "/a.json", "its file_name is 3. Give"),
    ({"a.json": {"file_name": "a"}}, "/a.json", "the predictions of image 'a' are None. Give a list"),
    ({"a.json": of_image(1)}, "/a.json", "image 'a' has the prediction 1. Give an object"),
    ({"a.json": of_image({"category_id": 1, "score": 0.5})}, "/a.json", "image 'a' has the bbox None"),
    ({"a.json": of_image(), "b.json": of_image()}, "/b.json", "image 'a' is also in .*/a.json. Give each"),
    ({}, "", "contains no images"),
    ({"schema.json": b"?"}, "/schema.json", "the content is not valid JSON"),
    ({"schema.json": []}, "/schema.json", "its task_type is None. Give predictions of object-detection"),
    ({"schema.json": {"task_type": "classification"}}, "/schema.json", "its task_type is 'classification'. Give"),
    ({"schema.json": {"task_type": "object-detection"}}, "/schema.json", "there is no list of categories"),
]


@pytest.mark.parametrize(("files", "where", "expected"), LIGHTLY_ERRORS)
def test_invalid_lightly_files(tmp_path: Path, files: dict[str, Any], where: str, expected: str) -> None:
    folder = in_folder(tmp_path, files)
    assert f"{folder}{where}" in problems(folder)
    with pytest.raises(SettingsError, match=expected):
        read(folder)


@pytest.mark.parametrize("tasks", [[], ["task", "other"], {"task": 1}, [3]])
def test_several_tasks_or_none(tmp_path: Path, tasks: Any) -> None:
    in_folder(tmp_path, {})
    in_file(tmp_path, tasks, "tasks.json")
    problem = problems(tmp_path)
    assert f"{tmp_path}/tasks.json: its tasks are {tasks!r}, not exactly one. Give the folder" in problem


def test_a_task_without_its_schema(tmp_path: Path) -> None:
    in_file(tmp_path, ["gone"], "tasks.json")
    assert f"{tmp_path}/gone/schema.json: the file does not exist. Add it" in problems(tmp_path)
