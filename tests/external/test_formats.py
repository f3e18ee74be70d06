"""The same predictions in the formats of other tools, with the file names in each form that these tools give them."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest

from job import parts
from job.errors import SettingsError
from job.external import InputImages, Predictions
from job.external.results import _COCO_IDS
from job.inputs import list_names
from job.parts import listings
from job.shards import Shard
from job.storage import Entry, Listing
from job.storage.local import LocalFolder
from tests.conftest import picture, settings
from tests.external import arrays, in_file, in_parquet, parquet, read
from tests.parts.test_part import MADE_WITH, row

CLASSES = ("car", "dog", "bus")
SIZES = {"a.jpg": (40, 20), "sub/b.png": (16, 32), "sub/0012.jpg": (64, 64)}
# File name, class, left, top, width, height, score.
BOXES = [("a.jpg", 0, 4, 2, 10, 8, 0.9), ("a.jpg", 2, 0, 0, 40, 20, 0.25), ("sub/b.png", 1, 4, 8, 8, 16, 0.5)]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Three images."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for name, (width, height) in SIZES.items():
        cv2.imwrite(str(folder / name), picture(0, height, width))
    return folder


def read_with(pool: Path, uri: Path | str, classes: tuple[str, ...] | None = CLASSES) -> Predictions:
    stop, given = threading.Event(), settings(input=str(pool))
    return read(uri, classes, images=InputImages(given, list_names(given, stop), stop))


def results(name: Callable[[str], dict[str, Any]], number: Callable[[int], int]) -> list[dict[str, Any]]:
    return [
        name(file_name) | {"category_id": number(kind), "bbox": [left, top, width, height], "score": score}
        for file_name, kind, left, top, width, height, score in BOXES
    ]


def write_yolo(folder: Path, name: Callable[[str], str], line: str = "{kind} {x} {y} {width} {height} {score}") -> Path:
    for file_name, kind, left, top, width, height, score in BOXES:
        image_width, image_height = SIZES[file_name]
        path = folder / f"{name(file_name)}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(
                line.format(
                    kind=kind,
                    x=(left + width / 2) / image_width,
                    y=(top + height / 2) / image_height,
                    width=width / image_width,
                    height=height / image_height,
                    score=score,
                )
                + "\n"
            )
    return folder


def check(found: Predictions, sizes: dict[str, tuple[int, int]] | None = None) -> None:
    """All images are there, those without boxes, too; and each has its boxes."""
    assert found.class_names == CLASSES
    assert [each.file_name for each in found.rows] == sorted(SIZES)
    for each in found.rows:
        expected = [box for box in BOXES if box[0] == each.file_name]
        boxes, scores, classes, _ = arrays(each)
        corners = np.array([box[2:6] for box in expected], np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        np.testing.assert_allclose(boxes, corners, atol=1e-5)
        np.testing.assert_allclose(scores, [box[6] for box in expected])
        assert classes.tolist() == [box[1] for box in expected]
        if sizes is not None:
            assert (each.width, each.height) == sizes.get(each.file_name, (None, None))


def stem(name: str) -> str:
    return name.rpartition(".")[0]


def last(name: str) -> str:
    return name.rpartition("/")[2]


IMAGE_IDS: list[Callable[[str], dict[str, Any]]] = [
    lambda name: {"image_id": name},
    lambda name: {"image_id": stem(name)},
    lambda name: {"image_id": last(name)},
    lambda name: {"image_id": stem(last(name))},
    lambda name: {"image_id": 1, "file_name": last(name)},
    lambda name: {"image_id": 1, "file_name": f".\\{name}".replace("/", "\\")},
    lambda name: {"image_id": 1, "file_name": f"/in/{name}"},
]


@pytest.mark.parametrize("name", IMAGE_IDS)
def test_results_that_name_their_images(pool: Path, tmp_path: Path, name: Callable[[str], dict[str, Any]]) -> None:
    check(read_with(pool, in_file(tmp_path, results(name, lambda kind: kind))), {})


def test_results_that_match_without_their_folder_say_so(pool: Path, tmp_path: Path) -> None:
    found = read_with(pool, in_file(tmp_path, results(lambda name: {"image_id": f"/in/{name}"}, lambda kind: kind)))
    assert "'/in/a.jpg' is 'a.jpg'. If these are other images, correct the names." in found.warnings[0]


def test_results_with_class_probabilities(pool: Path, tmp_path: Path) -> None:
    box = {"image_id": "a.jpg", "category_id": 0, "bbox": [1, 2, 3, 4], "score": 0.5}
    found = read_with(pool, in_file(tmp_path, [box | {"probabilities": [0.5, 0.125, 0.25, 0.125]}]))
    assert found.probabilities == "external" and found.warnings == ()
    assert arrays(found.rows[0])[3].tolist() == [[0.5, 0.125, 0.25, 0.125]]


def test_the_ids_of_ultralytics_count_from_1(pool: Path, tmp_path: Path) -> None:
    # As in its pred_to_json: an image_id from the stem, which is a number if it looks like one, and ids from 1.
    boxes = [
        {"image_id": 12, "file_name": "0012.jpg", "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5},
        {"image_id": "a", "file_name": "a.jpg", "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5},
    ]
    found = read_with(pool, in_file(tmp_path, boxes))
    assert {each.file_name: arrays(each)[2].tolist() for each in found.rows} == {
        "a.jpg": [0], "sub/0012.jpg": [1], "sub/b.png": []
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([0, 1, 2], [0, 1, 2]),
        ([1, 2, 3], [0, 1, 2]),
        ([1, 2], [1, 2]),  # indices, with a warning
        ([0, 3], "its category_ids go from 0 to 3, but CORAL_CLASSES has 3 names"),
        ([7], "its category_ids go from 7 to 7, but CORAL_CLASSES has 3 names"),
    ],
)
def test_category_ids_without_categories(pool: Path, tmp_path: Path, ids: list[int], expected: Any) -> None:
    boxes = [{"image_id": "a.jpg", "category_id": number, "bbox": [1, 2, 3, 4], "score": 0.5} for number in ids]
    path = in_file(tmp_path, boxes)
    if isinstance(expected, str):
        with pytest.raises(SettingsError, match=expected):
            read_with(pool, path)
        return
    found = read_with(pool, path)
    assert arrays(found.rows[0])[2].tolist() == expected
    assert any("has the category_id 0" in each for each in found.warnings) == (ids == [1, 2])


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1, 90], [0, 79]),  # only COCO's
        ([1, 12], [0, 11]),  # not COCO's, which has no 12
        ([1, 11], [0, 10]),  # the same in both
        ([1, 13], "its category_ids may be COCO's 91 ids or numbers from 1 to 80"),
    ],
)
def test_the_ids_of_ultralytics_for_the_classes_of_coco(
    pool: Path, tmp_path: Path, ids: list[int], expected: Any
) -> None:
    assert len(_COCO_IDS) == 80 and _COCO_IDS[79] == 90 and _COCO_IDS[11] == 13
    classes = tuple(f"class {number}" for number in range(80))
    boxes = [
        {"image_id": "a", "file_name": "a.jpg", "category_id": number, "bbox": [1, 2, 3, 4], "score": 0.5}
        for number in ids
    ]
    path = in_file(tmp_path, boxes)
    if isinstance(expected, str):
        with pytest.raises(SettingsError, match=expected):
            read_with(pool, path, classes)
    else:
        assert arrays(read_with(pool, path, classes).rows[0])[2].tolist() == expected


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    "spell", [None, last, lambda name: f"images/{name}", lambda name: f".\\{name}".replace("/", "\\")]
)
def test_results_with_the_coco_file_of_their_data_set(
    pool: Path, tmp_path: Path, swapped: bool, spell: Callable[[str], str] | None
) -> None:
    numbers = {name: number for number, name in enumerate(SIZES, start=40)}
    data_set = {
        "images": [
            {"id": numbers[name], "file_name": name, "width": width, "height": height}
            for name, (width, height) in SIZES.items()
        ],
        "categories": [{"id": 10 * number + 3, "name": name} for number, name in enumerate(CLASSES)],
        "annotations": [{"image_id": 40, "category_id": 3, "bbox": [0, 0, 1, 1]}],  # labels, which do not count
    }
    rows = results(
        (lambda name: {"image_id": 7, "file_name": spell(name)}) if spell else lambda name: {"image_id": numbers[name]},
        lambda kind: 10 * kind + 3,
    )
    uris = [str(in_file(tmp_path, rows, "results.json")), str(in_file(tmp_path, data_set, "set.json"))]
    check(read_with(pool, ",".join(reversed(uris) if swapped else uris), None), SIZES)


def test_a_file_with_a_comma_in_its_name(pool: Path, tmp_path: Path) -> None:
    check(read_with(pool, in_file(tmp_path, results(IMAGE_IDS[0], lambda kind: kind), "a,b.json")), {})


@pytest.mark.parametrize(
    ("rows", "classes", "expected"),
    [
        (
            [{"image_id": 7}],
            CLASSES,
            r"a list of COCO results, whose image_ids, such as 7, do not name images. Give the",
        ),
        ([{"image_id": "a.jpg"}], None, "a list of COCO results, which does not name its classes. Set CORAL_CLASSES"),
        ([{"image_id": 1, "file_name": None}], CLASSES, "whose file_names, such as None, do not name images"),
        ([{"image_id": "x"}], CLASSES, "the image_id 'x' may mean 'p/x.jpg' or 'q/x.jpg'"),
        ([{"image_id": "A.JPG"}], CLASSES, "none of them is among .*in the case of letters: 'A.JPG' and 'a.jpg'"),
        ([{"image_id": "a.jpg", "category_id": 1}], CLASSES, "has a box without a score"),
    ],
)
def test_results_that_cannot_be_read(
    pool: Path, tmp_path: Path, rows: Any, classes: tuple[str, ...] | None, expected: str
) -> None:
    for folder in ("p", "q"):
        (pool / folder).mkdir()
        cv2.imwrite(str(pool / folder / "x.jpg"), picture(0, 8, 8))
    with pytest.raises(SettingsError, match=expected):
        read_with(pool, in_file(tmp_path, rows), classes)


@pytest.mark.parametrize(
    "data_set",
    [
        "s3://b/i.json?X-Amz-Signature=SECRET",
        "az://c/i.json?sig=SECRET",
        "s3://user:SECRET@b/i.json",
        "https://user:SECRET@host/i.json?token=SECRET",
    ],
)
def test_a_secret_in_the_second_of_two_files_is_not_shown(tmp_path: Path, data_set: str) -> None:
    with pytest.raises(SettingsError, match=r"CORAL_PREDICTIONS=.*results\.json,.* must ") as caught:
        read(f"{tmp_path}/results.json,{data_set}", CLASSES)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("folder", ["labels", "predict/labels", "predict"])
@pytest.mark.parametrize("name", [stem, lambda name: stem(last(name))])
def test_yolo_labels(pool: Path, tmp_path: Path, folder: str, name: Callable[[str], str]) -> None:
    write_yolo(tmp_path / folder, name)
    (tmp_path / folder / "classes.txt").write_text("car\ndog\nbus\n")
    given = tmp_path / folder.partition("/")[0]
    found = read_with(pool, given)
    check(found, {key: size for key, size in SIZES.items() if key != "sub/0012.jpg"})
    assert found.probabilities == "synthetic"


def test_boxes_of_yolo_labels_refer_to_the_image_after_its_exif_orientation(pool: Path, tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (20, 40)).save(pool / "a.jpg", exif=exif)
    check(read_with(pool, write_yolo(tmp_path / "labels", stem)))


def test_yolo_labels_of_images_that_are_gone_or_damaged(pool: Path, tmp_path: Path) -> None:
    labels = write_yolo(tmp_path / "labels", stem)
    (labels / "gone.txt").write_text("0 0.5 0.5 0.1 0.1 0.5\n")
    (pool / "a.jpg").write_bytes(b"no image")
    found = read_with(pool, labels)
    assert "1 of 3 YOLO labels, such as 'gone.txt', belong to no image in CORAL_INPUT" in found.warnings[0]
    assert [(each.file_name, each.status) for each in found.rows] == [
        ("a.jpg", "failed"), ("sub/0012.jpg", "ok"), ("sub/b.png", "ok")
    ]  # fmt: skip
    assert found.rows[0].error is not None and found.rows[0].error.startswith("not an image that can be read")


def test_shards_that_embed_the_images_read_their_own_and_agree_on_the_digest(pool: Path, tmp_path: Path) -> None:
    labels = write_yolo(tmp_path / "labels", stem)
    stop, given = threading.Event(), settings(input=str(pool))
    owners: list[Callable[[str], bool]] = [lambda _: True, lambda name: name == "a.jpg", lambda _: False]
    found = [read(labels, CLASSES, images=InputImages(given, list_names(given, stop), stop, owns)) for owns in owners]
    assert len({each.sha256 for each in found}) == 1
    assert [{row.file_name for row in each.rows} for each in found] == [SIZES.keys()] * 3
    check(found[0])
    statuses = [{row.file_name: row.status for row in each.rows} for each in found]
    assert statuses[1] == {"a.jpg": "ok", "sub/0012.jpg": "ok", "sub/b.png": "failed"}
    assert statuses[2] == {"a.jpg": "failed", "sub/0012.jpg": "ok", "sub/b.png": "failed"}
    (labels / "a.txt").write_text("0 0.5 0.5 0.1 0.1 0.5\n")
    changed = read(labels, CLASSES, images=InputImages(given, list_names(given, stop), stop, owners[2]))
    assert changed.sha256 != found[0].sha256


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 0.5 0.5 0.1 0.1", r"labels/a.txt: line 1 of these YOLO labels has no confidence. .* save_conf=True"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.9", "has 8 values, as for outlines or keypoints"),
        ("3 0.5 0.5 0.1 0.1 0.5", "has the class 3, but CORAL_CLASSES has 3 names"),
        ("0 20 10 5 5 0.5", "has the box '20 10 5 5'. Give it as fractions"),
        ("car 0.5 0.5 0.1 0.1 0.5", "has the values 'car 0.5 0.5 0.1 0.1 0.5'. Give six numbers"),
        ("0 0.5 0.5 0.1 0.1 50", "has the score 50, which is not a number from 0 to 1"),
    ],
)
def test_yolo_labels_that_cannot_be_read(pool: Path, tmp_path: Path, line: str, expected: str) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(line + "\n")
    with pytest.raises(SettingsError, match=expected):
        read_with(pool, tmp_path / "labels")


def test_yolo_labels_of_other_images_or_without_classes(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "x.txt").write_text("0 0.5 0.5 0.1 0.1 0.5\n")
    with pytest.raises(
        SettingsError, match=r"names 1 image, and none of them is among the 3 .* It names 'x'; .* holds 'a.jpg', 'sub"
    ):
        read_with(pool, tmp_path / "labels")
    with pytest.raises(SettingsError, match="these are YOLO labels, which do not name their classes"):
        read_with(pool, tmp_path / "labels", None)


def test_an_earlier_output(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path / "earlier"))
    rows = [row(name, boxes=count, seed=count) for name, count in (("a", 0), ("b", 3), ("c", 5))]
    failed = parts.Row("d", "7", 8, "failed", "it is damaged")
    old = row("b", boxes=1, seed=9)
    parts.write(output, [*rows, failed], MADE_WITH)
    parts.write(output, [parts.Row(**{**old.__dict__, "etag": "of an older file"})], MADE_WITH)
    parts.write(output, [row("not listed", boxes=2, seed=4)], MADE_WITH)
    listed = [Entry(each.file_name, each.etag, each.byte_size) for each in (*rows, failed)]
    listings.finish(output, Shard(0, 1), Listing.from_entries(listed))
    found = read(tmp_path / "earlier")
    assert found.class_names == MADE_WITH.class_names and found.probabilities == MADE_WITH.probabilities
    assert [(each.file_name, each.status, each.error) for each in found.rows] == [
        ("a", "ok", None), ("b", "ok", None), ("c", "ok", None), ("d", "failed", "it is damaged")
    ]  # fmt: skip
    for before, after in zip(rows, found.rows[:3], strict=True):
        for one, other in zip(arrays(before), arrays(after), strict=True):
            np.testing.assert_array_equal(one.reshape(other.shape), other)
            assert one.dtype == other.dtype
        assert after.thumbnail == before.thumbnail and after.etag == "" and after.feature is None
    assert any("no class probabilities" in each for each in found.warnings) == (found.probabilities == "synthetic")
    fewer = read(tmp_path / "earlier", min_score=0.5)
    assert [len(arrays(each)[1]) for each in fewer.rows[:3]] == [int((arrays(each)[1] >= 0.5).sum()) for each in rows]


def test_class_names_of_an_earlier_output_may_be_corrected(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    rows = [row("a", boxes=2, seed=1), parts.Row("b", "absent", 0, "absent", "no prediction in CORAL_PREDICTIONS")]
    parts.write(output, rows, MADE_WITH)
    listed = [Entry(each.file_name, each.etag, each.byte_size) for each in rows]
    listings.finish(output, Shard(0, 1), Listing.from_entries(listed))
    given = read(tmp_path)
    assert [each.file_name for each in given.rows] == ["a"], "the run had no predictions of b"
    corrected = ("new", *MADE_WITH.class_names[1:])
    found = read(tmp_path, corrected)
    assert found.class_names == corrected and found.sha256 == given.sha256
    assert f"such as 'new' instead of {MADE_WITH.class_names[0]!r}" in found.warnings[-1]
    with pytest.raises(SettingsError, match="but CORAL_CLASSES is"):
        read(tmp_path, ("more", *corrected))
    listings.finish(output, Shard(0, 1), Listing.from_entries(listed[1:]))
    with pytest.raises(SettingsError, match="contains no images"):
        read(tmp_path)


def test_an_earlier_output_without_detections(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    made_with = parts.Provenance("", "", "", parts.NO_DETECTOR, ())
    parts.write(output, [parts.Row.undetected("a")], made_with)
    listings.finish(output, Shard(0, 1), Listing.from_entries([Entry("a", "", 0)]))
    with pytest.raises(SettingsError, match="is the output of a run without detections"):
        read(tmp_path)


def test_parquet_with_views(tmp_path: Path) -> None:
    columns = parquet()
    expected = read(in_parquet(tmp_path, columns, ["car", "dog", "bus"])).rows
    floats: Any = pa.list_view(pa.list_view(pa.float64()))
    names = [["car", "bus"], [], ["dog"]]
    viewed = columns | {
        "file_name": pa.array(columns["file_name"], pa.string_view()),
        "boxes": pa.array(columns["boxes"], floats),
        "scores": pa.array(columns["scores"], pa.large_list_view(pa.float64())),
        "classes": pa.array(names, pa.list_view(pa.string_view())),
    }
    found = read(in_parquet(tmp_path, viewed, ["car", "dog", "bus"])).rows
    for one, other in zip(found, expected, strict=True):
        assert one.file_name == other.file_name
        for left, right in zip(arrays(one), arrays(other), strict=True):
            np.testing.assert_array_equal(left, right)
    assert read(in_parquet(tmp_path, viewed)).class_names == ("bus", "car", "dog")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"images": [], "detection_categories": {}}', "looks like MegaDetector's output. Convert it"),
        (b'{"samples": []}', "looks like an export of FiftyOne"),
        (b'[{"data": {}, "annotations": []}]', "looks like an export of Label Studio"),
        (b"<?xml version='1.0'?><annotations/>", "looks like XML, as of CVAT or Pascal VOC"),
        (b"PK\x03\x04\0\0", "looks like a zip archive, or a checkpoint of PyTorch"),
        (b"\x80\x04\x95", "looks like a pickle, as of MMDetection"),
        (b'{"a": 1}\n{"a": 2}\n', "looks like JSON Lines"),
        (b"file_name,x\na.jpg,1\n", "looks like CSV"),
    ],
)
def test_a_format_that_is_recognised_but_not_supported(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "predictions"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=rf"CORAL_PREDICTIONS='{path}' {expected}.*The supported formats are"):
        read(path)
