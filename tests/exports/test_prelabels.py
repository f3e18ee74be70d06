"""Which boxes become pre-labels: compared with torchvision, with a naive loop, and with hand-worked numbers."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import batched_nms

from job import exports, parts
from job.errors import SettingsError
from job.exports.prelabels import MAX_IOU, PreLabels, check_classes, find_distinct
from job.parts import pool as pools
from job.parts.boxes import detections
from job.parts.owned import OwnedOutput
from job.parts.pool import Pool
from job.storage import Entry
from job.storage.local import LocalFolder
from tests.exports.test_writing import by_pycocotools, uri_of
from tests.parts.test_part import MADE_WITH, row

SIDES = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 12), st.integers(1, 12))


@given(st.lists(st.tuples(SIDES, st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])), max_size=12))
def test_suppression_is_that_of_torchvision_and_of_a_naive_loop(drawn: list[tuple[Any, float]]) -> None:
    boxes = np.array([[x, y, x + w, y + h] for (x, y, w, h), _ in drawn], np.float64).reshape(-1, 4)
    scores = np.array([score for _, score in drawn])
    kept = find_distinct(boxes, scores).tolist()
    expected = batched_nms(
        torch.from_numpy(boxes), torch.from_numpy(scores), torch.zeros(len(boxes), dtype=torch.int64), MAX_IOU
    )
    assert kept == sorted(expected.tolist())

    naive: list[int] = []
    for index in sorted(range(len(drawn)), key=lambda number: -scores[number]):
        if all(overlap(drawn[index][0], drawn[other][0]) <= MAX_IOU for other in naive):
            naive.append(index)
    assert kept == sorted(naive)


def overlap(one: Any, other: Any) -> float:
    """The intersection over union of two boxes, by counting pixels."""
    pixels = [{(a, b) for a in range(x, x + w) for b in range(y, y + h)} for x, y, w, h in (one, other)]
    return len(pixels[0] & pixels[1]) / len(pixels[0] | pixels[1])


def filled(folder: Path, size: tuple[int | None, int | None] = (100, 50)) -> tuple[OwnedOutput, Pool, Any]:
    """One image of 100x50 pixels, on which the detector has found six boxes."""
    boxes = [
        ([10, 10, 30, 30], 0.9, 0),
        ([10, 10, 30, 29], 0.6, 1),  # the same object as another class
        ([60, 10, 80, 30], 0.3, 2),
        ([60, 35, 80, 45], 0.29, 0),  # below the lowest confidence
        ([90, 0, 110, 20], 0.5, 1),  # cut
        ([120, 0, 140, 20], 0.4, 1),  # outside
    ]
    probabilities = np.full((6, 4), 0.25, np.float16)
    given = replace(
        row("a.jpg", boxes=0, seed=0),
        boxes=np.array([box for box, _, _ in boxes], np.float32),
        scores=np.array([score for _, score, _ in boxes], np.float32),
        classes=np.array([kind for _, _, kind in boxes], np.int32),
        class_probabilities=probabilities,
        width=size[0],
        height=size[1],
    )
    output = OwnedOutput(LocalFolder(str(folder), follows_links=False))
    parts.write(output, [given], replace(MADE_WITH, class_names=("person", "rider", "car")))
    pool = pools.load(output, [Entry(given.file_name, given.etag, given.byte_size)])
    return output, pool, detections(output, pool, [0])


RULES = PreLabels(0.3, {"person": "human", "rider": "human"})


def write(folder: Path, rules: PreLabels = RULES) -> None:
    output, pool, detections = filled(folder)
    exports.write(output, pool, ["a.jpg"], uri_of, detections, exports.FORMATS, rules)
    exports.write_all_images(output, pool, uri_of)


def test_low_boxes_and_repeated_boxes_are_left_out_of_every_format(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        write(tmp_path)
    assert caplog.messages == [
        "3 of 6 boxes on the picks are in the exports; 1 of these were cut at the edge of their image. Left out: 1 "
        "below CORAL_EXPORT_MIN_SCORE=0.3, 1 that repeat a box of higher confidence (IoU above 0.7), 1 outside their "
        "image or empty.",
        "predictions/coco.json: 1 of 6 boxes were cut at the edge of their image, and 1 outside it or empty were left "
        "out.",
    ]
    assert caplog.records[0].levelno == logging.WARNING  # a box outside its image is a mistake somewhere
    expected: list[tuple[str, float | None, list[float]]] = [
        ("human", 0.9, [10, 10, 30, 30]), ("car", 0.3, [60, 10, 80, 30]), ("human", 0.5, [90, 0, 100, 20])
    ]  # fmt: skip
    content, back = by_pycocotools(tmp_path / "exports/coco.json")
    assert back["a.jpg"] == expected
    assert [entry["name"] for entry in content.dataset["categories"]] == ["human", "car"]
    _, back = by_pycocotools(tmp_path / "exports/fiftyone/labels.json")
    assert [(name, box) for name, _, box in back["a.jpg"]] == [(name, box) for name, _, box in expected]
    lines = (tmp_path / "exports/yolo/labels/a.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "0"]
    assert "0: human\n  1: car" in (tmp_path / "exports/yolo/data.yaml").read_text()
    voc, cvat = ((tmp_path / "exports" / name).read_text() for name in ("voc/a.xml", "cvat.xml"))
    assert (voc.count("<name>human</name>"), voc.count("<name>car</name>"), voc.count("<object>")) == (2, 1, 3)
    assert (cvat.count('label="human"'), cvat.count('label="car"'), cvat.count("<box ")) == (2, 1, 3)
    (task,) = json.loads((tmp_path / "exports/label_studio.json").read_text())
    regions = task["predictions"][0]["result"]
    assert [region["value"]["rectanglelabels"] for region in regions] == [["human"], ["car"], ["human"]]
    configuration = (tmp_path / "exports/label_studio.xml").read_text()
    assert [configuration.count(f'value="{name}"') for name in ("human", "car", "person", "rider")] == [1, 1, 0, 0]


def test_all_boxes_stay_in_the_file_of_all_images(tmp_path: Path) -> None:
    write(tmp_path)
    content, back = by_pycocotools(tmp_path / "predictions/coco.json")
    assert len(back["a.jpg"]) == 5  # all but the one outside
    assert [entry["name"] for entry in content.dataset["categories"]] == ["person", "rider", "car"]


def test_of_two_boxes_with_one_confidence_the_first_is_kept() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 0, 60, 10]], np.float64)
    assert find_distinct(boxes, np.array([0.5, 0.5, 0.5])).tolist() == [0, 2]
    assert find_distinct(np.empty((0, 4)), np.empty(0)).tolist() == []


def test_names_may_be_exchanged_and_merged_with_another_class() -> None:
    names = ("person", "car", "truck")
    assert PreLabels(renames={"person": "car", "car": "person"}).name_classes(names)[0] == ("car", "person", "truck")
    merged, index = PreLabels(renames={"truck": "car"}).name_classes(names)
    assert merged == ("person", "car") and index.tolist() == [0, 1, 1]


def test_an_unknown_class_is_refused_with_a_hint() -> None:
    check_classes(None, ("person", "car"))
    check_classes({"car": "vehicle"}, ("person", "car"))
    with pytest.raises(SettingsError) as caught:
        check_classes({"persn": "pedestrian"}, ("person", "car"))
    assert str(caught.value) == (
        "CORAL_EXPORT_CLASSES names 'persn', which is not a class of the detector (did you mean person?): use person, "
        "car."
    )
