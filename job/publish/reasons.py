"""Why an image was picked, in words and numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from job import scores
from job.parts.boxes import Detections
from job.parts.score import LOW_CONFIDENCE
from job.select.greedy import Pick

_MAX_BOXES = 3


def compose(
    pick: Pick,
    *,
    detected: str | None,
    random: bool,
    nearest_name: str | None,
    nearest_kind: str,
    first: str,
) -> str:
    """Says in one line why an image was picked.

    Args:
        pick: The pick.
        detected: Where its score comes from, in words; None if the score did not decide.
        random: Whether the image was drawn at random.
        nearest_name: File name of the image at `pick.distance`; None if distances are not known.
        nearest_kind: What that image is, such as ``labelled image``.
        first: Words for a pick without a distance.

    Returns:
        For example ``uncertain between bicycle (0.48) and person (0.41); 0.61 from the nearest pick, street/0007.jpg``.
    """
    parts = [] if detected is None else [detected]
    if random:
        parts.append("drawn at random")
    if pick.distance is None:
        parts.append(first)
    elif nearest_name is not None:
        parts.append(f"{pick.distance:.2f} from the nearest {nearest_kind}, {nearest_name}")
    return "; ".join(parts)


def compute_contributions(
    score: str, detections: Detections, class_weights: npt.NDArray[np.float64] | None
) -> npt.NDArray[np.float64]:
    """Computes (n,) what each of an image's n boxes contributes to a score.

    Args:
        score: Name of the score.
        detections: The boxes.
        class_weights: (classes,) in [0, 1]; None for no weights.
    """
    values = scores.TABLE[score].contributions(_to_boxes(detections))
    return values if class_weights is None else values * class_weights[detections.classes]


def list_top_boxes(
    detections: Detections, contributions: npt.NDArray[np.float64], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Lists the boxes that contribute most, at most three, as JSON values."""
    rows = np.argsort(-contributions, kind="stable")[:_MAX_BOXES]
    return [
        {
            "class": class_names[int(detections.classes[row])],
            "score": float(detections.scores[row]),
            "box": [float(side) for side in detections.boxes[row]],
            "contribution": float(contributions[row]),
        }
        for row in rows
        if contributions[row] > 0
    ]


def describe_detections(
    score: str, detections: Detections, contributions: npt.NDArray[np.float64], class_names: Sequence[str]
) -> str:
    """Says in words where the score of an image comes from.

    Args:
        score: Name of the score.
        detections: The n boxes of the image.
        contributions: (n,) what each box contributes to the score.
        class_names: Class names by index.
    """
    boxes = _to_boxes(detections)
    if len(boxes.scores) == 0:
        return "nothing detected"
    if not contributions.any():
        return f"{scores.count_boxes(boxes)}, none contributes to the score"
    words, top = scores.TABLE[score].describe(boxes, contributions, class_names), int(contributions.argmax())
    # Class weights can leave out the class of such a box, so it is named.
    is_faint = detections.scores[top] < LOW_CONFIDENCE
    return f"{words}; {_name_box(detections, top, class_names)}" if is_faint else words


def describe_object(pick: Pick, detections: Detections, class_names: Sequence[str]) -> str:
    """Says in words which object made an image worth labelling.

    Args:
        pick: The pick.
        detections: The boxes of the image.
        class_names: Class names by index.
    """
    if len(detections.scores) == 0:
        return "nothing detected"
    if pick.box is None:
        return "no object that differs from those known"
    words = f"most new object: {_name_box(detections, pick.box, class_names)}"
    return words if pick.box_distance is None else f"{words}, {pick.box_distance:.2f} from the nearest known one"


def _name_box(detections: Detections, row: int, class_names: Sequence[str]) -> str:
    """Names a box, such as "bicycle (0.48)" or "faint box: bowl 0.08"."""
    name, score = class_names[int(detections.classes[row])], float(detections.scores[row])
    return f"faint box: {name} {score:.2f}" if score < LOW_CONFIDENCE else f"{name} ({score:.2f})"


def _to_boxes(detections: Detections) -> scores.Boxes:
    rows = detections.class_probabilities
    return scores.Boxes(
        counts=np.array([len(detections.scores)]),
        boxes=detections.boxes,
        scores=detections.scores.astype(np.float64),
        classes=detections.classes,
        probabilities=scores.normalize(rows) if len(rows) else rows.astype(np.float64),
    )
