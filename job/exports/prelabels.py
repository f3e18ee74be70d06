"""Which boxes of an image become pre-labels in exports/, and under which class names.

A detector keeps low-confidence boxes, which the scores need, and often finds one object as two classes. A person who
labels would have to delete those boxes again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from job.errors import SettingsError
from job.exports.detected import DetectedImage, make_detected_image, round_scores
from job.inputs.frames import find_frame
from job.names import shorten
from job.parts.boxes import Detections
from job.parts.pool import Pool
from job.settings.parse import hint

MAX_IOU = 0.7
_MAX_NAMES = 10


@dataclass(frozen=True)
class PreLabels:
    """The settings of pre-labels.

    Attributes:
        min_score: Lowest detection confidence of a pre-label, in [0, 1].
        renames: Name in the exports by class name of the detector; other classes keep their names.
    """

    min_score: float = 0.0
    renames: Mapping[str, str] = field(default_factory=dict)

    def name_classes(self, class_names: Sequence[str]) -> tuple[tuple[str, ...], npt.NDArray[np.int32]]:
        """Names the classes of the exports; classes of one name are one class.

        Args:
            class_names: Class names of the detector.

        Returns:
            The names, in the order of the detector's classes; and for each class of the detector its index in them.
        """
        names = [self.renames.get(name, name) for name in class_names]
        distinct = tuple(dict.fromkeys(names))
        index = {name: number for number, name in enumerate(distinct)}
        return distinct, np.array([index[name] for name in names], np.int32)


@dataclass
class Counts:
    """What became of the boxes of some images.

    Attributes:
        boxes: Number of detected boxes.
        low: Number of boxes below the lowest confidence.
        outside: Number of boxes that are outside their image or empty.
        repeated: Number of boxes that repeat a box of higher confidence.
        cut: Number of boxes that were cut at the edge of their image.
    """

    boxes: int = 0
    low: int = 0
    outside: int = 0
    repeated: int = 0
    cut: int = 0

    @property
    def kept(self) -> int:
        """Number of pre-labels."""
        return self.boxes - self.low - self.outside - self.repeated


def check_classes(renames: Mapping[str, str] | None, class_names: Sequence[str]) -> None:
    """Checks that CORAL_EXPORT_CLASSES names existing classes.

    Raises:
        SettingsError: If it names a class that the detector does not have.
    """
    for name in renames or {}:
        if name not in class_names:
            raise SettingsError(
                f"CORAL_EXPORT_CLASSES names {shorten(name)}, which is not a class of the detector"
                f"{hint(name, class_names)}: use {', '.join(class_names[:_MAX_NAMES])}"
                f"{' ...' if len(class_names) > _MAX_NAMES else ''}."
            )


def make_pre_labels(
    pool: Pool, row: int, uri: str, detections: Detections, rules: PreLabels, counts: Counts
) -> DetectedImage:
    """Combines an image of the pool with its pre-labels.

    Args:
        pool: The images.
        row: Row of the image in the pool.
        uri: URI or absolute path of the image.
        detections: Detections on the image.
        rules: Which boxes are kept, and the names of their classes.
        counts: Gets the numbers of the boxes of this image added.
    """
    confident = round_scores(detections.scores) >= rules.min_score
    image = make_detected_image(pool, row, uri, detections.take(confident))
    kept = find_distinct(image.boxes, image.scores)
    counts.boxes += len(confident)
    counts.low += int((~confident).sum())
    counts.outside += image.num_dropped
    counts.repeated += len(image.boxes) - len(kept)
    counts.cut += image.num_cut
    _, class_index = rules.name_classes(pool.provenance.class_names)
    classes = class_index[image.classes[kept]]
    frame = find_frame(pool, row)
    return replace(image, boxes=image.boxes[kept], scores=image.scores[kept], classes=classes, frame=frame)


def find_distinct(
    boxes: npt.NDArray[np.float64], scores: npt.NDArray[np.float64], max_iou: float = MAX_IOU
) -> npt.NDArray[np.int64]:
    """Finds the boxes that repeat no box of higher confidence, whatever their classes: greedy suppression.

    Args:
        boxes: (n, 4) left, top, right, bottom; no box is empty.
        scores: (n,) confidences. Of two equal ones, the first counts as higher.
        max_iou: Largest intersection over union with a box that is kept.

    Returns:
        Indices of the boxes that are kept, ascending.
    """
    remaining = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept = []
    while len(remaining):
        best, others = remaining[0], remaining[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[others, 2:]) - np.maximum(boxes[best, :2], boxes[others, :2])
        overlap = np.maximum(sides, 0).prod(axis=1)
        remaining = others[overlap / (areas[best] + areas[others] - overlap) <= max_iou]
    return np.sort(np.array(kept, np.int64))
