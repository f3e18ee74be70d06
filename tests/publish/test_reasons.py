"""Which boxes a reason names."""

import numpy as np
import pytest

from job.parts.boxes import Detections
from job.publish import reasons
from job.select import Pick

NAMES = ("bowl", "car")


def detect(*pairs: tuple[str, float]) -> Detections:
    """Boxes of these classes and confidences; the rest of each distribution is background."""
    classes = np.array([NAMES.index(name) for name, _ in pairs], np.int32)
    confidences = np.array([score for _, score in pairs], np.float32)
    rows = np.zeros((len(pairs), 3), np.float16)
    rows[np.arange(len(pairs)), classes] = confidences
    rows[:, -1] = 1 - confidences
    return Detections(np.tile(np.array([0, 0, 9, 9], np.float32), (len(pairs), 1)), confidences, classes, rows)


def describe(found: Detections, class_weights: list[float] | None = None) -> str:
    weights = None if class_weights is None else np.array(class_weights)
    contributions = reasons.compute_contributions("entropy_sum", found, weights)
    return reasons.describe_detections("entropy_sum", found, contributions, NAMES)


def test_a_faint_box_that_decides_is_named() -> None:
    assert describe(detect(("car", 0.95), ("bowl", 0.08))).endswith("; faint box: bowl 0.08")
    assert "faint" not in describe(detect(("car", 0.55), ("bowl", 0.08)))
    # A weight of 0 leaves its class out.
    assert "faint" not in describe(detect(("car", 0.95), ("bowl", 0.08)), [0, 1])
    assert describe(detect()) == "nothing detected"


@pytest.mark.parametrize(
    ("box", "distance", "words"),
    [
        (0, 1.2345, "most new object: car (0.55), 1.23 from the nearest known one"),
        (1, None, "most new object: faint box: bowl 0.08"),
        (None, None, "no object that differs from those known"),
    ],
)
def test_the_object_that_made_a_pick_is_named(box: int | None, distance: float | None, words: str) -> None:
    pick = Pick(0, 1.0, 0.5, 1, box=box, box_distance=distance)
    assert reasons.describe_object(pick, detect(("car", 0.55), ("bowl", 0.08)), NAMES) == words
    assert reasons.describe_object(pick, detect(), NAMES) == "nothing detected"
