"""Class distributions with the background, for boxes of other detectors, as `job.detect.probabilities` makes them."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_TINY = 1e-300  # what is divided by it stays finite


def synthetic(scores: Floats, classes: npt.NDArray[np.integer], num_classes: int) -> Floats:
    """What the score leaves is spread evenly over the other classes and the background.

    Args:
        scores: (boxes,) in [0, 1].
        classes: (boxes,) predicted classes.
        num_classes: Number of classes.

    Returns:
        (boxes, num_classes + 1) rows that sum to 1, the background last.
    """
    rows = np.repeat((1 - scores)[:, None] / num_classes, num_classes + 1, axis=1)
    rows[np.arange(len(rows)), classes] = scores
    return rows


def external(scores: Floats, classes: npt.NDArray[np.integer], given: Floats) -> Floats:
    """Makes class probabilities that leave out the background into distributions that have it.

    Of the given ones only the proportions count, so that a softmax over the classes, as in Lightly's format, will do as
    well as sigmoids. With p for them, c for the predicted class and s for its score, the row is that of
    `job.detect.probabilities.make_exclusive` for the ratings r_k = s * p_k / p_c:

        row_c = s        row_k = r_k * min(1, (1 - s) / sum of r_j over all j but c)        background: the rest.

    So the entry of the predicted class is the score. Where that is p_c itself, or p_c times an objectness as Lightly
    has it, the others are the detector's own as well: read back from Lightly's format, the rows of this job are again
    what they were. Where the score is larger, the other classes share what it leaves in proportion, and there is no
    background. Where it is 0, all is background.

    Args:
        scores: (boxes,) in [0, 1].
        classes: (boxes,) predicted classes.
        given: (boxes, classes) in [0, 1].

    Returns:
        (boxes, classes + 1) rows in [0, 1] that sum to 1, the background last.
    """
    boxes, top = np.arange(len(scores)), scores[:, None]
    own, left = given[boxes, classes][:, None], 1 - top
    others = given.copy()
    others[boxes, classes] = 0
    total = others.sum(axis=1, keepdims=True)
    others *= np.minimum(top / np.maximum(own, _TINY), left / np.maximum(total, _TINY))
    background = np.maximum(left - others.sum(axis=1, keepdims=True), 0)
    others[boxes, classes] = scores
    return np.concatenate([others, background], axis=1)
