"""COCO files: hand-worked examples, pycocotools as a second reader, and invalid content."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from job.errors import SettingsError
from job.external.batch import IMAGES_PER_BATCH
from tests.external import NAMES, Change, arrays, coco, in_file, problems, read


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
    assert rows.tolist() == [[0, 0, 0.75, 0.25], [0.25, 0, 0, 0.75]] and rows.dtype == np.float16


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


def more(kind: str, value: Any) -> Change:
    return lambda content: content[kind].append(value)


def first(kind: str, **values: Any) -> Change:
    return lambda content: content[kind][0].update(values)


def box(**values: Any) -> Change:
    return first("annotations", **values)


COCO_ERRORS: list[tuple[Change, str]] = [
    (lambda each: each.pop("annotations"), "there is no list of annotations. Add one, with the image_id"),
    (lambda each: each.pop("images"), "there is no list of images. Add one, with the id"),
    (lambda each: each.update(images=[], annotations=[]), "contains no images"),
    (lambda each: each.pop("categories"), "there is no list of categories. Add one"),
    (lambda each: each.update(categories=[]), "there is no list of categories. Add one"),
    (more("categories", "car"), "the category 'car' has no whole-number id or no name. Give it both"),
    (more("categories", {"id": "2", "name": "car"}), "the category .*'2'.* has no whole-number id"),
    (more("categories", {"id": 2, "name": ""}), "the category .* has no whole-number id or no name"),
    (more("categories", {"id": 1, "name": "car"}), "two categories have the id 1. Give every category its own"),
    (more("categories", {"id": 2, "name": "person"}), "two classes have the name 'person'. Give every class its own"),
    (more("images", "a.jpg"), "the image 'a.jpg' has no id or no file_name. Give it both"),
    (more("images", {"id": 5}), "the image .* has no id or no file_name. Give it both"),
    (more("images", {"id": 5, "file_name": "\ud800"}), "the image .* has no id or no file_name"),
    (more("images", {"id": [], "file_name": "a"}), "the image .* has no id or no file_name"),
    (more("images", {"id": 7, "file_name": "a"}), "image 'a' has the same id as image 'z.jpg': 7. Give every image"),
    (more("images", {"id": 9, "file_name": "z.jpg"}), "image 'z.jpg' appears twice. Give each image once"),
    (
        first("images", width=0),
        "image 'z.jpg' has the width 0, which is not a whole number of pixels from 1 to 2147483647. Correct",
    ),
    (first("images", height=1.5), "image 'z.jpg' has the height 1.5, which is not a whole number of pixels"),
    (first("images", height=float("nan")), "image 'z.jpg' has the height nan, which is not a whole number of pixels"),
    (first("images", height="480"), "image 'z.jpg' has the height '480', which is not a whole number of pixels"),
    (first("images", height=2**31), "image 'z.jpg' has the height 2147483648, which is not a whole number of pixels"),
    (more("annotations", 3), r"annotation 3 \(counted from 0\) has the image_id None, which no image has"),
    (box(image_id="7"), r"annotation 0 \(counted from 0\) has the image_id '7', which no image has. Correct it"),
    (box(image_id=[7]), r"annotation 0 \(counted from 0\) has the image_id \[7\], which no image has"),
    (
        box(category_id=2),
        "image 'z.jpg' has the category_id 2, which is not one of the categories '1, 44, 90'. Correct",
    ),
    (box(category_id=True), "image 'z.jpg' has the category_id True, which is not one of"),
    (box(category_id=None), "image 'z.jpg' has the category_id None, which is not one of"),
    (box(score=None), "image 'z.jpg' has a box without a score. Give predictions with scores"),
    (box(score="0.5"), "image 'z.jpg' has the score '0.5', which is not a number from 0 to 1"),
    (box(score=True), "image 'z.jpg' has the score True, which is not a number from 0 to 1"),
    (box(score=1.5), "image 'z.jpg' has the score 1.5, which is not a number from 0 to 1. Give the detection"),
    (box(score=-0.5), "image 'z.jpg' has the score -0.5, which is not a number"),
    (box(score=float("nan")), "image 'z.jpg' has the score nan, which is not a number"),
    (box(score=10**400), "image 'z.jpg' has the score inf, which is not a number"),
    (box(bbox=[1, 2, 3]), r"image 'z.jpg' has the bbox \[1, 2, 3\]. Give four numbers: \[left, top, width"),
    (box(bbox=None), "image 'z.jpg' has the bbox None. Give four numbers"),
    (box(bbox=[1, 2, 3, "4"]), "image 'z.jpg' has the bbox .*'4'.*. Give four numbers"),
    (box(bbox=[1, 2, 3, False]), "image 'z.jpg' has the bbox .*False.*. Give four numbers"),
    (box(bbox=[10, 2, -3, 4]), r"image 'z.jpg' has the box \[10.0, 2.0, 7.0, 6.0\] .* Write a box as \[left, top"),
    (box(bbox=[1, 2, 3, -4]), "image 'z.jpg' has the box .* whose sides are swapped"),
    (box(bbox=[1, 2, 3, float("inf")]), "image 'z.jpg' has the box .*inf.* not finite"),
    (box(bbox=[float("nan"), 2, 3, 4]), "image 'z.jpg' has the box .*nan.* not finite"),
    (box(bbox=[1, 2, 1e39, 4]), r"image 'z.jpg' has the box .*1e\+39.* not finite"),
    (box(bbox=[1, 2, 10**400, 4]), "image 'z.jpg' has the box .*inf.* not finite"),
]


@pytest.mark.parametrize(("change", "expected"), COCO_ERRORS)
def test_invalid_coco_files(tmp_path: Path, change: Change, expected: str) -> None:
    content = json.loads(json.dumps(coco()))
    change(content)
    path = in_file(tmp_path, content)
    problem = problems(path)
    assert str(path) in problem
    with pytest.raises(SettingsError, match=expected):
        read(path)


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
def test_any_content_is_read_or_refused(
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
