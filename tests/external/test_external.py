"""Reading predictions of any format: which one it is, what cannot be read, and stopping."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from job.errors import AccessDenied, JobError, ServiceUnavailable, SettingsError, Stopped
from job.external.batch import IMAGES_PER_BATCH
from job.storage.local import LocalFolder
from tests.conftest import ROOT
from tests.external import CATEGORIES, arrays, assert_same, coco, in_file, in_folder, of_image, problems, read


def test_neither_torch_nor_detectron2_is_loaded() -> None:
    code = "import sys, job.external; print({'torch', 'detectron2', 'lightly'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_boxes_with_probabilities_and_without_them_in_different_batches(tmp_path: Path) -> None:
    prediction = {"category_id": 44, "bbox": [1, 2, 3, 4], "score": 0.5}
    files = {f"{number:03}.json": of_image(name=str(number)) for number in range(IMAGES_PER_BATCH)}
    files["000.json"] = of_image(prediction | {"probabilities": [0, 0, 1]})
    files["900.json"] = of_image(prediction, name="last")
    assert problems(in_folder(tmp_path, files)).endswith("Give them for all boxes, or for none.")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", r"is neither Parquet nor JSON \("),
        (b"\xff\xd8\xff\xe0", r"is neither Parquet nor JSON \("),
        (b"[" * 100_000, r"is neither Parquet nor JSON \("),
        (b"a.jpg,0,0,10,10,person,0.9\n", "looks like CSV. Write the predictions as Parquet"),
        (b"3", "is JSON with other content: 3"),
        (b'{"a": 1}', "is JSON with other content: {'a': 1}"),
        (b'["task"]', "is JSON with other content"),
        (b'{"file_name": "a", "predictions": []}', "looks like one file of Lightly's format. Give the folder"),
        (b'{"task_type": "object-detection", "categories": []}', "looks like one file of Lightly's format"),
    ],
)
def test_an_unsupported_format_is_refused_with_the_supported_ones(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    path = tmp_path / "predictions"
    path.write_bytes(content)
    problem = problems(path)
    assert problem.startswith(f"CORAL_PREDICTIONS='{path}' ")
    with pytest.raises(SettingsError, match=expected):
        read(path)
    assert all(each in problem for each in ("COCO JSON file", "schema.json", "tasks.json", "Parquet file"))


@pytest.mark.parametrize("results", [[], [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]])
def test_a_list_of_coco_results_is_refused_with_advice(tmp_path: Path, results: Any) -> None:
    problem = problems(in_file(tmp_path, results))
    assert (
        "this is a list of COCO results, whose image_ids" in problem and "do not name images. Give the COCO" in problem
    )
    # And that is how it is done.
    data_set = {"images": [{"id": 1, "file_name": "a.jpg"}], "categories": CATEGORIES}
    both = f"{in_file(tmp_path, results)},{in_file(tmp_path, data_set, 'set.json')}"
    assert [len(arrays(each)[1]) for each in read(both).rows] == [len(results)]


def test_json_in_other_encodings(tmp_path: Path) -> None:
    expected = read(in_file(tmp_path, coco())).rows
    for encoding in ("utf-8-sig", "utf-16"):
        path = tmp_path / encoding
        path.write_bytes(json.dumps(coco(), ensure_ascii=False).encode(encoding))
        assert_same(read(path).rows, expected)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    assert f"'{tmp_path}/x.json' does not exist: {tmp_path}/x.json is not a folder." in problems(tmp_path / "x.json")
    assert "is neither a file nor a folder of files. The supported formats are" in problems(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"")
    assert "is a folder with neither schema.json nor tasks.json, without parts and without .txt" in problems(tmp_path)
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
        with pytest.raises(expected, match=r"/predictions.json: not today"):
            read(path)
        with pytest.raises(expected, match=r"/task/a.json: not today"):
            read(folder)


def test_a_request_to_stop_ends_the_reading(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    for uri in (in_file(tmp_path, coco()), in_folder(tmp_path, {"a.json": of_image()})):
        with pytest.raises(Stopped):
            read(uri, stop=stop)
