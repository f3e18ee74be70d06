"""Each list that names images, in each of its formats, and each way in which its names can differ from the files'."""

import csv
import json
import threading
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from job import external
from job.embed import from_file
from job.errors import SettingsError
from job.external import InputImages, take_in
from job.inputs import labelled, list_names, metadata
from job.inputs.match import Match
from job.names import dump, parse
from tests.conftest import Job, settings
from tests.external.writers import WRITERS, Detected, write_json

FILES = ("a.jpg", "sub/ä.jpg", "sub/b.jpg", "z.jpg")
CLASSES = ("car", "dog")


@dataclass
class Met:
    """How a list met the images.

    Attributes:
        order: For each entry of the list that is an image's, the file and the position of the entry, from 0.
        unknown: Number of names without an image.
        without: Number of images without a name.
        said: What the job says.
    """

    order: dict[str, int]
    unknown: int
    without: int
    said: str


Meet = Callable[[Path, Sequence[str], Path], Met]


def describe(match: Match, *more: str) -> str:
    return " ".join([*more, match.describe_respelled() or "", match.describe_unknown() or ""])


def met(match: Match, names: Sequence[str], *more: str) -> Met:
    """The entries are in the order of the names."""
    order = {match.file_names[name]: position for position, name in enumerate(names) if name in match.file_names}
    return Met(order, len(match.unknown), len(match.without), describe(match, *more))


def as_predictions(format_name: str) -> Meet:
    """The entry at position n has n + 1 boxes."""

    def meet(folder: Path, names: Sequence[str], images: Path) -> Met:
        detected = []
        for position, name in enumerate(names):
            count = position + 1
            boxes = np.tile([1.0, 2, 30, 40], (count, 1))
            detected.append(Detected(name, 64, 64, boxes, np.full(count, 0.5), np.arange(count) % 2))
        uri, classes = WRITERS[format_name](folder, detected, CLASSES)
        stop, ours = threading.Event(), settings(input=str(images), predictions=uri)
        files = list_names(ours, stop)
        found = external.read(uri, classes, stop=stop, images=InputImages(ours, files, stop))
        match = take_in.compare_rows(ours, files, (row.file_name for row in found.rows))
        counts = {row.file_name: len(row.scores) for row in found.rows if row.scores is not None}
        order = {file: counts[name] - 1 for name, file in match.file_names.items() if counts[name]}
        return Met(order, len(match.unknown), len(match.without), describe(match, *found.warnings))

    return meet


def as_embeddings(suffix: str) -> Meet:
    """The entry at position n is the vector of n."""

    def meet(folder: Path, names: Sequence[str], images: Path) -> Met:
        vectors = np.repeat(np.arange(len(names), dtype=np.float32)[:, None], 3, axis=1)
        path = folder / f"embeddings{suffix}"
        if suffix == ".csv":
            with path.open("w", newline="") as file:
                csv.writer(file).writerows(
                    [["filenames", "embedding_0", "embedding_1"], *zip(names, *vectors.T[:2], strict=True)]
                )
        elif suffix == ".parquet":
            pq.write_table(pa.table({"file_name": list(names), "embedding": vectors.tolist()}), path)
        elif suffix == ".npz":
            np.savez(path, file_names=np.array(names), embeddings=vectors)
        else:
            np.save(path, vectors)
            path.with_suffix(".txt").write_text(dump(list(names)))
        found, values, _ = from_file.read(str(path))
        assert values[:, 0].tolist() == list(range(len(names)))
        match = from_file.match_names(
            str(path), found, list_names(settings(input=str(images)), threading.Event()), str(images)
        )
        match.require_any()
        return met(match, found)

    return meet


def as_labels(write: Callable[[Path, Sequence[str]], Path]) -> Meet:
    def meet(folder: Path, names: Sequence[str], images: Path) -> Met:
        uri = str(write(folder, names))
        match = labelled.match(uri, list_names(settings(input=str(images)), threading.Event()), str(images))
        match.require_any()
        return met(match, names)

    return meet


def write_text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def write_table(path: Path, names: Sequence[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["file_name", "order"], *([name, number] for number, name in enumerate(names))])
    return path


def write_lines(path: Path, names: Sequence[str]) -> Path:
    rows = [{"file_name": name, "order": number} for number, name in enumerate(names)]
    return write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def as_metadata(suffix: str) -> Meet:
    """The entry at position n has n in its column."""

    def meet(folder: Path, names: Sequence[str], images: Path) -> Met:
        path = folder / f"metadata{suffix}"
        if suffix == ".parquet":
            pq.write_table(pa.table({"file_name": list(names), "order": list(range(len(names)))}), path)
        else:
            (write_lines if suffix == ".jsonl" else write_table)(path, names)
        table = metadata.read(str(path))
        match = metadata.match(table, list_names(settings(input=str(images)), threading.Event()), str(images))
        match.require_any()
        renamed = table.rename(match)
        order = dict(zip(renamed.file_names, renamed.columns["order"].to_pylist(), strict=True))
        return Met(order, len(match.unknown), len(match.without), describe(match))

    return meet


def write_picks(folder: Path, names: Sequence[str]) -> Path:
    (folder / "out").mkdir()
    write_text(folder / "out/selected.txt", dump(list(names)))
    return folder / "out"


def write_labels_as_coco(folder: Path, names: Sequence[str]) -> Path:
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    return Path(write_json(folder / "labels.json", {"images": images, "annotations": [], "categories": []}))


PREDICTIONS = {f"predictions, {name}": as_predictions(name) for name in WRITERS}
TABLES = {f"embeddings, {suffix}": as_embeddings(suffix) for suffix in (".csv", ".parquet", ".npz", ".npy")} | {
    f"metadata, {suffix}": as_metadata(suffix) for suffix in (".csv", ".parquet", ".jsonl")
}
LABELS = {
    "labels, txt": as_labels(lambda folder, names: write_text(folder / "labels.txt", dump(list(names)))),
    "labels, csv": as_labels(lambda folder, names: write_table(folder / "labels.csv", names)),
    "labels, jsonl": as_labels(lambda folder, names: write_lines(folder / "labels.jsonl", names)),
    "labels, JSON list": as_labels(lambda folder, names: Path(write_json(folder / "labels.json", list(names)))),
    "labels, COCO": as_labels(write_labels_as_coco),
    "labels, output": as_labels(write_picks),
}
FORMATS = PREDICTIONS | TABLES | LABELS
# These do not list the images without boxes, so all images in CORAL_INPUT are theirs; they may give stems.
OF_ALL_IMAGES = ("predictions, named results", "predictions, ultralytics", "predictions, yolo")
YOLO = "predictions, yolo"  # its names are those of its own files


PIXELS = cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes()

# Spellings in which every name is an image's.
SPELLINGS: dict[str, Callable[[str, Path], str]] = {
    "the same": lambda name, images: name,
    "a folder in front": lambda name, images: f"images/{name}",
    "a container's path": lambda name, images: f"/in/{name}",
    "absolute below CORAL_INPUT": lambda name, images: f"{images}/{name}",
    "a URI below CORAL_INPUT": lambda name, images: f"file://{images}/{name}",
    "backslashes": lambda name, images: name.replace("/", "\\"),
    "a path of Windows": lambda name, images: f"C:\\data\\{name}".replace("/", "\\"),
    "another form of Unicode": lambda name, images: unicodedata.normalize("NFD", name),
    "a dot": lambda name, images: f"./{name}",
}
# Spellings that no image has, and the likely cause.
MISTAKES: dict[str, tuple[Callable[[str], str], str]] = {
    "case": (str.upper, "the case of letters: "),
    "extension": (
        lambda name: name.replace(".jpg", ".png"),
        "differ from those of files in the extension: 'a.png' and",
    ),
    "another folder": (
        lambda name: f"other/{name.replace('a.jpg', 'x.jpg')}",
        "differ from those of files in the fold",
    ),
    "nothing in common": (lambda name: f"gone-{name}", "Names are relative to CORAL_INPUT: correct them"),
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PIXELS)
    return tmp_path / "in"


every_format = pytest.mark.parametrize("name", FORMATS)


@pytest.mark.parametrize("spelling", SPELLINGS)
@every_format
def test_names_that_are_spelled_differently(images: Path, tmp_path: Path, name: str, spelling: str) -> None:
    if name == YOLO and spelling in ("a container's path", "absolute below CORAL_INPUT", "a URI below CORAL_INPUT"):
        pytest.skip("the names of labels are those of files in a folder")
    found = FORMATS[name](tmp_path, [SPELLINGS[spelling](file, images) for file in FILES], images)
    assert found.order == {file: position for position, file in enumerate(FILES)}
    assert (found.unknown, found.without) == (0, 0)
    in_doubt = spelling in ("a folder in front", "a container's path", "a path of Windows")
    assert ("If these are other images, correct the names" in found.said) == in_doubt


@pytest.mark.parametrize("mistake", MISTAKES)
@every_format
def test_names_of_no_image(images: Path, tmp_path: Path, name: str, mistake: str) -> None:
    change, says = MISTAKES[mistake]
    names = [change(file) for file in FILES]
    if name == YOLO and mistake == "extension":
        assert len(FORMATS[name](tmp_path, names, images).order) == 4, "labels have no extension of images"
        return
    with pytest.raises(SettingsError) as caught:
        FORMATS[name](tmp_path, names, images)
    assert caught.value.exit_code == 64
    (said,) = caught.value.problems
    assert says in said and "names 4 images, and none of them is among the 4 of CORAL_INPUT. It names '" in said
    assert "; CORAL_INPUT holds 'a.jpg', " in said


@every_format
def test_some_names_are_missing(images: Path, tmp_path: Path, name: str) -> None:
    found = FORMATS[name](tmp_path, FILES[:2], images)
    assert found.order == {FILES[0]: 0, FILES[1]: 1}
    assert (found.unknown, found.without) == (0, 0 if name in OF_ALL_IMAGES else 2)


@pytest.mark.parametrize(
    ("surplus", "says"),
    [
        ("gone.jpg", ""),
        ("Z.JPG", "the case of letters: 'Z"),
        ("old/z.jpg", "1 of 1 such names differ from those of files in the folder: 'old/z"),
    ],
)
@every_format
def test_some_names_are_of_no_image(images: Path, tmp_path: Path, name: str, surplus: str, says: str) -> None:
    found = FORMATS[name](tmp_path, [*FILES, surplus], images)
    assert found.order == {file: position for position, file in enumerate(FILES)}
    assert found.without == 0 and says in found.said
    if name == YOLO:
        label = f"labels/{surplus.rpartition('.')[0]}.txt"
        assert (
            f"1 of 5 YOLO labels, such as '{label}', belong to no image in CORAL_INPUT and are left out." in found.said
        )
    else:
        assert found.unknown == 1
        assert f"1 of 5 names are not in CORAL_INPUT and are left out: '{surplus}'." in found.said


@every_format
def test_names_without_their_folder(images: Path, tmp_path: Path, name: str) -> None:
    found = FORMATS[name](tmp_path, [file.rpartition("/")[2] for file in FILES], images)
    if name in OF_ALL_IMAGES:
        assert found.order == {file: position for position, file in enumerate(FILES)}
    else:
        assert (found.order, found.unknown, found.without) == ({"a.jpg": 0, "z.jpg": 3}, 2, 2)
        assert "2 of 2 such names differ from those of files in the folder: '" in found.said


@pytest.mark.parametrize("again", ["a.jpg", "./a.jpg"])
@every_format
def test_an_image_that_is_named_twice(images: Path, tmp_path: Path, name: str, again: str) -> None:
    names = [*FILES, again]
    if name in LABELS or (name == "predictions, output" and again == "a.jpg"):
        assert FORMATS[name](tmp_path, names, images).order.keys() == set(FILES)
    elif name == YOLO:
        assert FORMATS[name](tmp_path, names, images).order["a.jpg"] == 4, "the second file replaced the first"
    elif name in OF_ALL_IMAGES:  # an entry is a box, and an image may have many: 1 and 5 of them
        assert FORMATS[name](tmp_path, names, images).order["a.jpg"] == 1 + 5 - 1
    else:
        with pytest.raises(SettingsError, match=r"twice|two rows of 'a.jpg'|is also in .*/0\.json") as caught:
            FORMATS[name](tmp_path, names, images)
        assert caught.value.exit_code == 64


def test_four_lists_in_four_spellings_meet_in_one_run(images: Path, job: Job, tmp_path: Path) -> None:
    detected = [
        Detected(f"images/{name}", 64, 64, np.array([[1.0, 2, 30, 40]]), np.array([0.5]), np.array([0]))
        for name in FILES
    ]
    labels, _ = WRITERS["yolo"](tmp_path / "yolo", detected, CLASSES)
    np.savez(tmp_path / "e.npz", file_names=[f"{images}/{name}" for name in FILES], embeddings=np.eye(4))
    done = job(
        "select",
        CORAL_INPUT=images,
        CORAL_OUTPUT=tmp_path / "out",
        CORAL_PREDICTIONS=labels,
        CORAL_CLASSES=",".join(CLASSES),
        CORAL_EMBEDDING=tmp_path / "e.npz",
        CORAL_LABELLED=write_labels_as_coco(tmp_path, ["sub\\b.jpg"]),
        CORAL_METADATA=write_lines(tmp_path / "m.jsonl", [unicodedata.normalize("NFD", name) for name in FILES]),
        CORAL_N_SAMPLES=3,
    )
    assert done.returncode == 0, done.stderr
    assert set(parse((tmp_path / "out/selected.txt").read_text())) == set(FILES) - {"sub/b.jpg"}
    every, one = {"matched": 4, "unknown": 0, "without": 0}, {"matched": 1, "unknown": 0, "without": 3}
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["names"] == {"predictions": every, "embeddings": every, "labelled": one, "metadata": every}
    table = pq.read_table(tmp_path / "out/images.parquet")
    assert dict(zip(table["file_name"].to_pylist(), table["order"].to_pylist(), strict=True)) == {
        name: order for order, name in enumerate(FILES)
    }
    assert table["num_boxes"].to_pylist() == [1] * 4
