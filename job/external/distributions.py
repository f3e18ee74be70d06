"""Class distributions with a background for boxes of other detectors, like those of `job.detect.probabilities`."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_MIN_DIVISOR = 1e-300  # keeps quotients finite


def synthesize(scores: Floats, classes: npt.NDArray[np.integer], num_classes: int) -> Floats:
    """Makes distributions from scores alone: what the score leaves is the background, and no other class is named.

    Args:
        scores: (boxes,) in [0, 1].
        classes: (boxes,) predicted classes.
        num_classes: Number of classes.

    Returns:
        (boxes, num_classes + 1) rows that sum to 1, the background last.
    """
    rows = np.zeros((len(scores), num_classes + 1))
    rows[np.arange(len(rows)), classes] = scores
    rows[:, -1] = 1 - scores
    return rows


def add_background(scores: Floats, classes: npt.NDArray[np.integer], class_probabilities: Floats) -> Floats:
    """Makes distributions with a background from class probabilities without one.

    Only the proportions of the given probabilities count, so a softmax over the classes, as in Lightly's format, works
    as well as sigmoids. With p for the given probabilities, c for the predicted class and s for its score, the row is
    that of `job.detect.probabilities.make_exclusive` for the ratings r_k = s * p_k / p_c:

        row_c = s        row_k = r_k * min(1, (1 - s) / sum of r_j over all j except c)        background: the rest.

    So the entry of the predicted class is the score. If the score is p_c itself, or p_c times an objectness as in
    Lightly's format, the other entries are also the detector's own: rows of this job that are read back from Lightly's
    format are what they were. (The scores of `job.detect.yolo` are no entries of its rows, so those change.) If the
    score is larger, the other classes share the rest in proportion, and the background is 0. If the score is 0, the
    background is 1.

    Args:
        scores: (boxes,) in [0, 1].
        classes: (boxes,) predicted classes.
        class_probabilities: (boxes, classes) in [0, 1].

    Returns:
        (boxes, classes + 1) rows in [0, 1] that sum to 1, the background last.
    """
    boxes, top = np.arange(len(scores)), scores[:, None]
    own, left = class_probabilities[boxes, classes][:, None], 1 - top
    others = class_probabilities.copy()
    others[boxes, classes] = 0
    total = others.sum(axis=1, keepdims=True)
    others *= np.minimum(top / np.maximum(own, _MIN_DIVISOR), left / np.maximum(total, _MIN_DIVISOR))
    background = np.maximum(left - others.sum(axis=1, keepdims=True), 0)
    others[boxes, classes] = scores
    return np.concatenate([others, background], axis=1)
