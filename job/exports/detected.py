"""Images with their boxes, as every format gets them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from job.parts.pool import Detections, Pool

ORIENTATION = "Boxes are in pixels of the image after its EXIF orientation."
_DECIMALS, _SCORE_DECIMALS = 3, 6


@dataclass(frozen=True)
class DetectedImage:
    """An image with its boxes.

    Attributes:
        number: From 1, in the order of the pool; the same in every file of a run.
        name: File name.
        uri: Where it is.
        width: Pixels, after the EXIF orientation; 0 where it is not known.
        height: Likewise.
        boxes: (n, 4) left, top, right, bottom in pixels, within the image, none of them empty.
        scores: (n,) in [0, 1].
        classes: (n,) indices into the class names.
    """

    number: int
    name: str
    uri: str
    width: int
    height: int
    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int32]

    @property
    def has_size(self) -> bool:
        """Whether width and height are known."""
        return self.width > 0 and self.height > 0

    @property
    def sizes(self) -> npt.NDArray[np.float64]:
        """(n, 2) width and height of the boxes."""
        result: npt.NDArray[np.float64] = (self.boxes[:, 2:] - self.boxes[:, :2]).round(_DECIMALS)
        return result


@dataclass(frozen=True)
class Export:
    """What is exported.

    Attributes:
        images: The picks, best first.
        class_names: By class index.
        model: Names the detector.
    """

    images: list[DetectedImage]
    class_names: tuple[str, ...]
    model: str

    @property
    def sized(self) -> list[DetectedImage]:
        """The images whose width and height are known."""
        return [each for each in self.images if each.has_size]


def detected(pool: Pool, row: int, uri: str, found: Detections) -> DetectedImage:
    """Puts an image and what was detected on it together.

    Boxes are cut at the borders of the image, which tools insist on; those of which nothing is left are dropped.
    """
    width, height = pool.size[row].tolist()
    limits = [width, height] * 2 if width > 0 and height > 0 else [np.inf] * 4
    boxes = np.clip(found.boxes.astype(np.float64), 0, limits).round(_DECIMALS)
    kept = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    scores = np.clip(found.scores.astype(np.float64), 0, 1).round(_SCORE_DECIMALS)
    of_image = (row + 1, pool.file_names[row], uri, width, height)
    return DetectedImage(*of_image, boxes[kept], scores[kept], found.classes[kept])
