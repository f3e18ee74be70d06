import numpy as np

from gpu.compare import compare
from gpu.drive import Detections


def found(*boxes: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(boxes, np.float32).reshape(-1, 6)
    classes = table[:, 5].astype(np.int32)
    rows = np.zeros((len(table), 4), np.float16)
    rows[np.arange(len(table)), classes] = table[:, 4]
    return Detections("ok", table[:, :4], table[:, 4], classes, rows)


def test_boxes_are_matched_by_class_and_overlap() -> None:
    reference = {"a": found((0, 0, 10, 10, 0.5, 1), (50, 50, 60, 60, 0.9, 2), (80, 0, 90, 10, 0.25, 0))}
    other = {"a": found((0, 0, 10, 12, 0.75, 1), (50, 50, 60, 60, 0.9, 3), (82, 0, 90, 10, 0.25, 0))}
    difference = compare(reference, other)
    assert (difference.boxes, difference.lost, difference.gained) == (3, 1, 1)
    assert difference.pixels == [2, 2]
    assert difference.scores == [0.25, 0]
    assert difference.probabilities == [0.25, 0]
    assert difference.statuses == []


def test_missing_images_and_images_without_boxes() -> None:
    reference = {"a": found(), "b": found((0, 0, 10, 10, 0.5, 1))}
    difference = compare(reference, {"a": found()})
    assert (difference.lost, difference.gained, difference.statuses) == (1, 0, ["b"])
    assert compare({}, {}).to_figures()["pixels"] == {"median": 0, "p99": 0, "max": 0}
