"""Images with their boxes, in the form that every export format receives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from job.context import Selected
from job.inputs.frames import FrameOf
from job.parts.boxes import Detections
from job.parts.pool import Pool

ORIENTATION = "Boxes are in pixels of the image after its EXIF orientation."
_DECIMALS, _SCORE_DECIMALS = 3, 6


@dataclass(frozen=True)
class DetectedImage:
    """An image with its boxes.

    Attributes:
        number: Number of the image in the pool, from 1; the same in every file of a run.
        file_name: File name.
        uri: URI or absolute path of the image.
        width: Width in pixels after the EXIF orientation; 0 if unknown.
        height: Height in pixels after the EXIF orientation; 0 if unknown.
        boxes: (n, 4) left, top, right, bottom in pixels, within the image; no box is empty.
        scores: (n,) detection confidences in [0, 1].
        classes: (n,) indices into the class names.
        probabilities: (n, classes + 1) class probabilities, background last; None to leave them out.
        num_cut: Number of these boxes that were cut at the edge of the image.
        num_dropped: Number of boxes that were dropped, because they are empty or outside the image.
        frame: Where in a video the image is; None if it is no frame.
    """

    number: int
    file_name: str
    uri: str
    width: int
    height: int
    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int32]
    probabilities: npt.NDArray[np.float16] | None = None
    num_cut: int = 0
    num_dropped: int = 0
    frame: FrameOf | None = None

    @property
    def has_size(self) -> bool:
        """Whether width and height are known."""
        return self.width > 0 and self.height > 0

    @property
    def box_sizes(self) -> npt.NDArray[np.float64]:
        """(n, 2) width and height of the boxes in pixels."""
        result: npt.NDArray[np.float64] = (self.boxes[:, 2:] - self.boxes[:, :2]).round(_DECIMALS)
        return result


@dataclass(frozen=True)
class Export:
    """What every format writes.

    Attributes:
        images: The picks, best first.
        class_names: Class names by class index.
        model: Name of the detector.
        task_uri_of: Converts a file name to the address of the image in Label Studio.
        selected: How the picks are described in the results, by file name; may lack images.
    """

    images: list[DetectedImage]
    class_names: tuple[str, ...]
    model: str
    task_uri_of: Callable[[str], str]
    selected: Mapping[str, Selected] = field(default_factory=dict)

    @property
    def sized_images(self) -> list[DetectedImage]:
        """The images whose width and height are known."""
        return [image for image in self.images if image.has_size]


def make_detected_image(
    pool: Pool, row: int, uri: str, detections: Detections, *, with_probabilities: bool = False
) -> DetectedImage:
    """Combines an image of the pool with its detections.

    Boxes are clipped to the image, because tools insist on it. Boxes that are empty after clipping are dropped.

    Args:
        pool: The images.
        row: Row of the image in the pool.
        uri: URI or absolute path of the image.
        detections: Detections on the image.
        with_probabilities: Whether to keep the class probabilities.
    """
    width, height = pool.size[row].tolist()
    limits = [width, height] * 2 if width > 0 and height > 0 else [np.inf] * 4
    given = detections.boxes.astype(np.float64).round(_DECIMALS)
    boxes = np.clip(given, 0, limits) + 0.0  # no -0.0
    kept = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return DetectedImage(
        number=row + 1,
        file_name=pool.file_names[row],
        uri=uri,
        width=width,
        height=height,
        boxes=boxes[kept],
        scores=round_scores(detections.scores[kept]),
        classes=detections.classes[kept],
        probabilities=detections.class_probabilities[kept] if with_probabilities else None,
        num_cut=int((boxes[kept] != given[kept]).any(axis=1).sum()),
        num_dropped=int((~kept).sum()),
    )


def round_scores(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(n,) detection confidences as the exports show them."""
    result: npt.NDArray[np.float64] = np.clip(scores.astype(np.float64), 0, 1).round(_SCORE_DECIMALS)
    return result
