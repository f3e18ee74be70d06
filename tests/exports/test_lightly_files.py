"""The files of Lightly's prediction format, read back by labelformat, which is Lightly's own reader."""

import hashlib
import json
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelformat.formats.lightly import LightlyObjectDetectionInput

from job import parts
from job.exports import lightly_files
from job.exports.lightly import class_distributions, predictions, task_name
from job.parts import Row, boxes, pool
from job.parts.ledger import Ledger
from job.parts.pool import Pool
from job.storage import Entry
from job.storage.local import LocalFolder
from tests.conftest import picture
from tests.parts.test_part import MADE_WITH, row

TASK = task_name(MADE_WITH)
FOLDER = Path(".lightly/predictions") / TASK
# What two images must not share, what is no name for a file, and what a reader would take for the schema.
AWKWARD = [
    "a.jpg", "a.png", "a.png.jpg", "b", "schema.jpg", "sub/schema.png", "sub/a.jpg", "sub/a.tiff", ".hidden.jpg",
    "ä ö.jpg", "x.jpg", "x.json/y.jpg", "line\nbreak.jpg", "n" * 210 + ".jpg", "a//b.jpg", "../up.jpg",
    "comma,quote'\".jpg",
]  # fmt: skip
AWKWARD += [hashlib.sha256(b"../up.jpg").hexdigest() + ".jpg"]
PIECES = ["a", "b", ".jpg", ".json", "/", ".", "schema"]


def filled(folder: Path, names: list[str], per_part: int = 4) -> tuple[LocalFolder, Pool]:
    """An output with a row for each image: the first has no boxes, the second one, the third two, and so on."""
    output = LocalFolder(str(folder))
    rows = [row(name, boxes=number % 3, seed=number) for number, name in enumerate(names)]
    for each in rows:
        assert each.boxes is not None
        each.boxes[:] = np.sort(each.boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4) * 40
    for start in range(0, len(rows), per_part):
        parts.write(output, rows[start : start + per_part], MADE_WITH)
    return output, load(output, rows)


def load(output: LocalFolder, rows: list[Row]) -> Pool:
    return pool.load(output, [Entry(each.file_name, each.etag, each.byte_size) for each in rows])


def written(folder: Path) -> dict[str, list[dict[str, object]]]:
    """The predictions in the files, by the image they name."""
    found = {}
    for path in (folder / FOLDER).rglob("*.json"):
        if path.name != "schema.json":
            content = json.loads(path.read_text())
            assert content["file_name"] not in found
            found[content["file_name"]] = content["predictions"]
    return found


def test_labelformat_reads_what_was_detected(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "schema.jpg", "sub/deep/c.jpg", "sub/schema.jpg", "empty.jpg"]
    output, images = filled(tmp_path / "out", sorted(names, key=str.encode))
    lightly_files.write(output, images)
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture(0, 48, 64))

    reader = LightlyObjectDetectionInput(
        input_folder=tmp_path / "out" / FOLDER,
        images_rel_path="../../../../in",
    )
    assert [(each.id, each.name) for each in reader.get_categories()] == list(enumerate(MADE_WITH.class_names))
    labels = {each.image.filename: each.objects for each in reader.get_labels()}
    assert {name.split("/in/")[-1] for name in labels} == set(names)
    detections = boxes.detections(output, images, range(len(names)))
    for name, objects in labels.items():
        found = detections[name.split("/in/")[-1]]
        corners = [[each.box.xmin, each.box.ymin, each.box.xmax, each.box.ymax] for each in objects]
        np.testing.assert_allclose(np.array(corners).reshape(-1, 4), found.boxes, atol=2e-3)
        assert [each.category.id for each in objects] == found.classes.tolist()
        assert [each.confidence for each in objects] == pytest.approx(found.scores.tolist(), abs=1e-6)
    assert sorted(len(each) for each in labels.values()) == [0, 0, 1, 1, 2, 2]


def test_every_image_has_a_file_of_its_own_whatever_its_name(tmp_path: Path) -> None:
    output, images = filled(tmp_path, sorted(AWKWARD, key=str.encode))
    lightly_files.write(output, images)
    found = written(tmp_path)
    assert found.keys() == set(AWKWARD)
    assert {name: len(each) for name, each in found.items()} == dict(
        zip(images.file_names, images.num_boxes.tolist(), strict=True)
    )
    assert json.loads((tmp_path / ".lightly/predictions/tasks.json").read_text()) == [TASK]
    schema = json.loads((tmp_path / FOLDER / "schema.json").read_text())
    assert schema == {
        "task_type": "object-detection",
        "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}, {"id": 2, "name": "c"}],
    }
    # Where Lightly looks for them: the extension is replaced.
    where = lightly_files.paths(images.file_names)
    assert where["a.jpg"] == "a.json" and where["a.png.jpg"] == "a.png.json" and where["sub/a.jpg"] == "sub/a.json"
    assert where["b"] == "b.json" and where["x.jpg"] == "x.json"


@given(st.lists(st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join), unique=True, max_size=30))
def test_no_two_images_share_a_file_nor_a_file_and_a_folder(names: list[str]) -> None:
    names = sorted(names, key=str.encode)
    where = lightly_files.paths(names)
    assert where.keys() == set(names)
    files = set(where.values())
    assert len(files) == len(names)
    folders = {path.rsplit("/", count)[0] for path in files for count in range(1, path.count("/") + 1)}
    assert not any(each.endswith(".json") for each in folders)
    assert all(".." not in path.split("/") and not path.startswith("/") for path in files)


def test_distributions_need_no_matrix_of_all_pairs_of_classes() -> None:
    classes = np.array([7, 19_999], np.int32)
    tracemalloc.start()
    result = class_distributions(np.zeros((2, 20_001), np.float16), classes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.sum() == 2 and result[[0, 1], classes].tolist() == [1, 1]
    assert peak < 10 * result.nbytes  # 3.2 MB; 20,000 x 20,000 would be 3.2 GB


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 90))
def test_distributions_over_the_classes_sum_to_one(seed: int, boxes: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    whole = rng.dirichlet(np.full(classes + 1, 0.1), boxes).astype(np.float16)
    whole[0, :-1] = 0
    predicted = rng.integers(0, classes, boxes)
    result = class_distributions(whole, predicted)
    assert result.shape == (boxes, classes) and (result >= 0).all() and (result <= 1).all()
    np.testing.assert_allclose(result.sum(axis=1), 1, atol=1e-9)
    assert result[0, predicted[0]] == 1
    for one, given_row in zip(result[1:], whole[1:].astype(float), strict=True):
        known = given_row[:-1]
        if known.sum() > 0:
            np.testing.assert_allclose(one, known / known.sum(), atol=1e-6 * classes)


def test_a_hand_worked_prediction() -> None:
    one = boxes.Detections(
        boxes=np.array([[-0.5, 2, 10.25, 22.5]], np.float32),
        scores=np.array([0.5], np.float32),
        classes=np.array([1], np.int32),
        class_probabilities=np.array([[0.125, 0.5, 0.375]], np.float16),
    )
    assert predictions(one) == [
        {"category_id": 1, "bbox": [0.0, 2.0, 10.25, 20.5], "score": 0.5, "probabilities": [0.2, 0.8]}
    ]


def test_only_what_has_changed_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number:02}.jpg" for number in range(12)]
    output, images = filled(tmp_path, names)
    writes: list[str] = []
    real = LocalFolder.write

    def write(self: LocalFolder, key: str, data: bytes) -> None:
        writes.append(key)
        real(self, key, data)

    monkeypatch.setattr(LocalFolder, "write", write)
    lightly_files.write(output, images)
    before = written(tmp_path)
    assert len([each for each in writes if each.endswith("1.json")]) == 2
    writes.clear()
    lightly_files.write(output, images)
    assert writes == []

    # Three images are gone: their files go, and no part but theirs is written again.
    rows = [row(name, boxes=number % 3, seed=number) for number, name in enumerate(names)]
    lightly_files.write(output, load(output, rows[3:]))
    assert written(tmp_path).keys() == set(names[3:])
    assert {each.rsplit("/", 1)[-1] for each in writes if each.startswith(".lightly")} == {
        "schema.json", "03.json",
    }  # fmt: skip
    # And they come back.
    lightly_files.write(output, load(output, rows))
    assert written(tmp_path) == before


def test_predictions_of_others_stay(tmp_path: Path) -> None:
    output, images = filled(tmp_path, ["a.jpg"])
    theirs = {".lightly/predictions/theirs/a.json": b"{}", ".lightly/predictions/tasks.json": b'["theirs"]'}
    for key, data in theirs.items():
        output.write(key, data)
    lightly_files.write(output, images)
    assert output.read(".lightly/predictions/theirs/a.json") == b"{}"
    assert json.loads(output.read(".lightly/predictions/tasks.json")) == ["theirs", TASK]


@pytest.mark.parametrize("broken", [b"", b"[", b"{}", b"\xff"])
def test_a_list_of_tasks_that_cannot_be_read_ends_nothing(tmp_path: Path, broken: bytes) -> None:
    output, images = filled(tmp_path, ["a.jpg"])
    output.write(".lightly/predictions/tasks.json", broken)
    lightly_files.write(output, images)
    assert json.loads(output.read(".lightly/predictions/tasks.json")) == [TASK]


def test_names_in_any_script_are_found_where_lightly_looks(tmp_path: Path) -> None:
    names = ["Screenshot 9.41\u202fAM.jpg", "a\u00a0b.jpg", "\u3000.jpg", "\U0001f468\u200d\U0001f4bb.jpg"]
    assert all(where == name[:-4] + ".json" for name, where in lightly_files.paths(sorted(names)).items())


def test_killed_anywhere_the_next_start_completes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number:02}.jpg" for number in range(12)]
    output, images = filled(tmp_path / "killed", names)
    whole, same = filled(tmp_path / "whole", names)
    lightly_files.write(whole, same)
    real = LocalFolder.write
    for survives in range(0, 20, 3):
        left = [survives]

        def write(self: LocalFolder, key: str, data: bytes, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            real(self, key, data)

        monkeypatch.setattr(LocalFolder, "write", write)
        try:
            lightly_files.write(output, images)
        except KeyboardInterrupt:
            continue
    monkeypatch.setattr(LocalFolder, "write", real)
    lightly_files.write(output, images)
    assert written(tmp_path / "killed") == written(tmp_path / "whole")


def test_a_ledger_forgets_what_is_no_longer_asked_for(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    first = Ledger(output, "kind", ["a", "b"])
    first.add("a")
    assert "a" in Ledger(output, "kind", ["a", "c"])
    assert "a" not in Ledger(output, "other", ["a"])
    assert "a" not in Ledger(output, "kind", ["c"])
    assert "a" not in Ledger(output, "kind", ["a", "b"])
