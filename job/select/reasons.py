"""Why an image was picked, in words."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from job import scores as formulas
from job.select.engine import Pick


def reason(
    pick: Pick,
    *,
    strategy: str,
    score_name: str,
    detections: tuple[npt.NDArray[np.floating], npt.NDArray[np.integer], npt.NDArray[np.floating]],
    class_names: Sequence[str],
    nearest_name: str | None,
    nearest_is_labelled: bool,
    among: str = "the pool",
) -> str:
    """Says in one line why an image was picked.

    Args:
        pick: The pick.
        strategy: The strategy that made it.
        score_name: The score that drove it.
        detections: Its boxes' scores (n,), classes (n,) and class probabilities (n, classes + 1).
        class_names: Names by class index.
        nearest_name: File name of the image at `pick.distance`.
        nearest_is_labelled: Whether that image has labels, rather than being an earlier pick.
        among: What it was picked from.

    Returns:
        For example ``unsure between bicycle (0.48) and person (0.41); 0.61 from the nearest pick, street/0007.jpg``.
    """
    parts = []
    if strategy in ("coral", "active_learning"):
        parts.append(what_the_detector_saw(score_name, detections, class_names))
    if strategy == "random":
        parts.append("drawn at random")
    if pick.distance is None:
        parts.append("first pick" if strategy == "random" else f"first pick: the highest score of {among}")
    else:
        kind = "labelled image" if nearest_is_labelled else "pick"
        parts.append(f"{pick.distance:.2f} from the nearest {kind}, {nearest_name}")
    return "; ".join(parts)


def what_the_detector_saw(
    score_name: str,
    detections: tuple[npt.NDArray[np.floating], npt.NDArray[np.integer], npt.NDArray[np.floating]],
    class_names: Sequence[str],
) -> str:
    """The part of the detections that a score comes from, in words."""
    box_scores, classes, probabilities = detections
    if len(box_scores) == 0:
        return "nothing detected"
    if score_name in formulas.UNCERTAINTIES:
        rows = formulas.normalised(probabilities)
        box = rows[int(formulas.UNCERTAINTIES[score_name](rows).argmax())]
        first, second = (int(each) for each in np.argsort(-box, kind="stable")[:2])
        names = [*class_names, "background"]
        return f"unsure between {names[first]} ({box[first]:.2f}) and {names[second]} ({box[second]:.2f})"
    if score_name == "objectness_least_confidence":
        boxes = "1 box" if len(box_scores) == 1 else f"{len(box_scores)} boxes"
        return f"{boxes} of mean score {float(np.mean(box_scores)):.2f}"
    counts = Counter(class_names[int(each)] for each in classes)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common(4))
