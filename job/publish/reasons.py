"""Why an image was picked, in words and numbers."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from job import scores as formulas
from job.parts.pool import Detections
from job.select.greedy import Pick

_SHOWN_BOXES = 3


def reason(
    pick: Pick,
    *,
    saw: str | None,
    random: bool,
    nearest_name: str | None,
    nearest_is_labelled: bool,
    first: str,
) -> str:
    """Says in one line why an image was picked.

    Args:
        pick: The pick.
        saw: What the detector saw, if that counted.
        random: Whether it was drawn.
        nearest_name: File name of the image at `pick.distance`; None where distances are not known.
        nearest_is_labelled: Whether that image has labels, rather than being an earlier pick.
        first: What is said of a pick without a distance.

    Returns:
        For example ``unsure between bicycle (0.48) and person (0.41); 0.61 from the nearest pick, street/0007.jpg``.
    """
    parts = [] if saw is None else [saw]
    if random:
        parts.append("drawn at random")
    if pick.distance is None:
        parts.append(first)
    elif nearest_name is not None:
        kind = "labelled image" if nearest_is_labelled else "pick"
        parts.append(f"{pick.distance:.2f} from the nearest {kind}, {nearest_name}")
    return "; ".join(parts)


def contributions(score: str, found: Detections, class_weights: npt.NDArray[np.float64] | None) -> Any:
    """(n,) what each box contributes to a score; for ``object_frequency``, 1 for the best box of each class."""
    if score in formulas.OF_BOXES:
        values = formulas.OF_BOXES[score].of_boxes(_boxes(found))
    else:
        _, firsts = np.unique(found.classes, return_index=True)
        values = np.zeros(len(found.classes))
        values[firsts] = 1
    return values if class_weights is None else values * class_weights[found.classes]


def boxes(found: Detections, values: npt.NDArray[np.float64], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """The boxes that contribute most, at most three."""
    order = [int(row) for row in np.argsort(-values, kind="stable")[:_SHOWN_BOXES] if values[row] > 0]
    return [
        {
            "class": class_names[int(found.classes[row])],
            "score": float(found.scores[row]),
            "box": [float(each) for each in found.boxes[row]],
            "contribution": float(values[row]),
        }
        for row in order
    ]


def what_the_detector_saw(
    score: str, found: Detections, values: npt.NDArray[np.float64], class_names: Sequence[str]
) -> str:
    """The part of the detections that a score comes from, in words.

    Args:
        score: Its name.
        found: The detections.
        values: (n,) what each box contributes.
        class_names: Names by class index.
    """
    count = len(found.scores)
    if count == 0:
        return "nothing detected"
    best = int(values.argmax())
    name, confidence = class_names[int(found.classes[best])], float(found.scores[best])
    number = "1 box" if count == 1 else f"{count} boxes"
    if not values.any() and score != "suspected_misses":
        return f"{number}, none of which counts"
    if score == "object_frequency":
        counts = Counter(class_names[int(each)] for each in found.classes)
        return ", ".join(f"{count} {name}" for name, count in counts.most_common(4))
    if score == "objectness_least_confidence":
        return f"{number} of mean score {float(np.mean(found.scores)):.2f}"
    if score == "objectness_margin":
        return f"{number}, the least settled a {name} ({confidence:.2f})"
    if score == "suspected_misses":
        lonely = int((values > 0).sum())
        if lonely == 0:
            return f"{number}, none of them faint and alone"
        return f"{lonely} faint where nothing is certain, the strongest a {name} ({confidence:.2f})"
    row = formulas.normalised(found.class_probabilities[best : best + 1])[0]
    first, second = (int(each) for each in np.argsort(-row, kind="stable")[:2])
    names = [*class_names, "background"]
    between = f"unsure between {names[first]} ({row[first]:.2f}) and {names[second]} ({row[second]:.2f})"
    return (
        between if score.startswith("uncertainty") else f"{number} of entropy {values.sum():.2f} in all, one {between}"
    )


def _boxes(found: Detections) -> formulas.Boxes:
    rows = found.class_probabilities
    probabilities = formulas.normalised(rows) if len(rows) else rows.astype(np.float64)
    return formulas.Boxes(np.array([len(found.scores)]), found.boxes, found.scores.astype(np.float64), probabilities)
