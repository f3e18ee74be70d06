"""Whether boxes can be true: compares them with the sizes of their images.

What is beyond doubt for the predictions as a whole is an error, and what is likely is a warning. Single boxes that
reach outside their image are neither: the exports cut or drop them, and count them.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from job.external.layouts import LAYOUTS, Layout, from_corners, to_corners
from job.names import shorten

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MIN_BOXES = 5
_MIN_OUTSIDE = 3  # boxes
_OUTSIDE_SHARE = 0.1
_MOST = 0.98
_ROUNDING_PIXELS = 2
# Detectors that do not cut their boxes reach over the edge by some percent of the side.
_NEAR, _FAR = 0.05, 0.1
_FRACTIONS = (-0.25, 1.25)
_MIN_SIDE_PIXELS = 32  # in smaller images, whole boxes are within the first pixel
# Objects at the edge of a copy end at its last column or row, and few end just before.
_MAX_LIMIT, _SAME, _AT, _CLOSE_TO = 0.9, 0.99, 0.9975, 0.98
_MIN_COPY_PIXELS, _MIN_AT_EDGE = 100, 5


@dataclass(frozen=True)
class Evidence:
    """Boxes and the sizes of their images.

    Attributes:
        names: (images,) file names.
        boxes: (n, 4) left, top, right, bottom in pixels; no box is empty.
        image_of: (n,) index of the image of each box.
        size: (images, 2) width and height in pixels after the EXIF orientation; 0 if unknown.
        stored: (images, 2) width and height before the EXIF orientation; as `size` if it is unknown.
    """

    names: list[str]
    boxes: Floats
    image_of: npt.NDArray[np.int64]
    size: Floats
    stored: Floats

    def take(self, kept: Mask) -> "Evidence":
        """Some of the boxes.

        Args:
            kept: (n,) mask.
        """
        return replace(self, boxes=self.boxes[kept], image_of=self.image_of[kept])

    def describe(self, box: int) -> str:
        """Names a box and its image."""
        image = self.image_of[box]
        width, height = self.size[image].astype(int).tolist()
        size = f" ({width}x{height} pixels)" if width else ""
        numbers = ", ".join(f"{number:.4g}" for number in self.boxes[box])
        return f"{shorten(self.names[image])}{size} has the box [{numbers}] (left, top, right, bottom)"


@dataclass(frozen=True)
class Finding:
    """What is wrong with the boxes.

    Attributes:
        sentences: What is wrong, the likely cause, and what to do.
        is_certain: Whether it is beyond doubt.
    """

    sentences: str
    is_certain: bool


def find_problem(evidence: Evidence, layout: Layout | None) -> Finding | None:
    """Finds out whether boxes cannot be boxes in pixels of their images.

    Args:
        evidence: The boxes.
        layout: How the format writes a box; None if it is known that it was written so.

    Returns:
        The first problem that is found; None if there is none, or there are fewer than `MIN_BOXES` boxes.
    """
    if (finding := _find_fractions(evidence)) is not None:
        return finding
    sized = evidence.take(_hold(evidence.size[evidence.image_of] > 0))
    if len(sized.boxes) < MIN_BOXES:
        return None
    return _find_turned(sized) or _find_outside(sized, layout) or _find_smaller_copy(sized)


def _find_fractions(evidence: Evidence) -> Finding | None:
    size = evidence.size[evidence.image_of]
    judged = evidence.take(_hold(size >= _MIN_SIDE_PIXELS) | ~_hold(size > 0))
    if len(judged.boxes) < MIN_BOXES:
        return None
    lowest, highest = _FRACTIONS
    within = _hold(judged.boxes >= lowest, judged.boxes <= highest)
    if within.mean() < 0.5:
        return None
    return Finding(
        f"{within.sum()} of {len(within)} boxes are in the first pixel of their images: "
        f"{judged.describe(int(within.argmax()))}. These look like fractions of width and height: give boxes in "
        "pixels.",
        is_certain=bool(within.all() and judged.size[judged.image_of].all()),
    )


def _find_turned(evidence: Evidence) -> Finding | None:
    """Finds boxes on images with an EXIF orientation that fit only the pixels as they are stored."""
    turned = evidence.take(~_hold((evidence.size == evidence.stored)[evidence.image_of]))
    outside = ~_fit(turned.boxes, turned.size[turned.image_of], _FAR)
    if not _are_many(outside) or not _explains(turned.boxes, turned.stored[turned.image_of]):
        return None
    return Finding(
        f"{outside.sum()} of {len(outside)} boxes on images with an EXIF orientation reach far outside these images: "
        f"{turned.describe(int(outside.argmax()))}. All fit the images as they are stored. Detect on the oriented "
        "images, or turn the boxes as the orientation says.",
        is_certain=True,
    )


def _find_outside(evidence: Evidence, layout: Layout | None) -> Finding | None:
    size = evidence.size[evidence.image_of]
    outside = ~_fit(evidence.boxes, size, _FAR)
    if not _are_many(outside):
        return None
    cause = _explain(evidence, layout)
    centers = (evidence.boxes[:, :2] + evidence.boxes[:, 2:]) / 2
    is_gone = ~_hold(centers >= 0, centers <= size)
    ends = np.where(outside, (evidence.boxes[:, 2:] / size).max(axis=1), -np.inf)
    copies = f" or of copies that are up to {ends.max():.2g} times as large" if ends.max() > 1 else ""
    other_size = f"They may be of other images{copies}: give boxes in pixels of the files in CORAL_INPUT."
    return Finding(
        f"{outside.sum()} of {len(outside)} boxes reach far outside their images: "
        f"{evidence.describe(int(ends.argmax()))}. {cause or other_size}",
        is_certain=cause is not None or _are_many(is_gone),
    )


def _explain(evidence: Evidence, layout: Layout | None) -> str | None:
    """The one mistake that explains all boxes; None if none does."""
    boxes, size = evidence.boxes, evidence.size[evidence.image_of]
    if _explains(boxes, size[:, ::-1]):
        return "They fit if width and height of the images are exchanged: correct the sizes, or turn the boxes."
    for other in LAYOUTS if layout else ():
        if layout and other != layout and _explains(to_corners(from_corners(boxes, layout), other), size):
            return f"They fit if they are read as {other}: write each box as {layout}."
    return None


def _explains(boxes: Floats, size: Floats) -> bool:
    return bool(_fit(boxes, size, _NEAR).mean() >= _MOST)


def _hold(*conditions: Mask) -> Mask:
    """Whether all conditions hold for both axes of each box.

    Args:
        conditions: (n, 2) or (n, 4) masks.

    Returns:
        (n,) mask.
    """
    result: Mask = np.logical_and.reduce(np.hstack(conditions), axis=1)
    return result


def _are_many(mask: Mask) -> bool:
    return bool(mask.sum() >= max(_MIN_OUTSIDE, _OUTSIDE_SHARE * len(mask)))


def _fit(boxes: Floats, size: Floats, slack: float) -> Mask:
    """Whether boxes are boxes, and within their images.

    Args:
        boxes: (n, 4) left, top, right, bottom.
        size: (n, 2) width and height of the image of each box.
        slack: By which share of the image's side a box may reach outside.
    """
    first, second = boxes[:, :2], boxes[:, 2:]
    room = slack * size + _ROUNDING_PIXELS
    return _hold(first >= -room, second <= size + room, second > first)


def _find_smaller_copy(evidence: Evidence) -> Finding | None:
    """Finds boxes that end at the edges of smaller copies of their images, all of one scale or of one square size."""
    large = evidence.take(_hold(evidence.size[evidence.image_of] >= _MIN_COPY_PIXELS))
    corners, size = large.boxes[:, 2:], large.size[large.image_of]
    if not len(corners):
        return None
    side = corners.max()
    for ends, copies in (
        (corners / size, f"copies that are {(corners / size).max():.2g} times as large"),
        (corners / size.min(), f"copies of {side:.4g}x{side:.4g} pixels"),
    ):
        limits = ends.max(axis=0)
        is_copy = _MIN_COPY_PIXELS / size.min() <= limits.max() <= _MAX_LIMIT
        if is_copy and limits.min() >= _SAME * limits.max() and _end_at(ends, limits):
            return Finding(
                f"No box reaches the right or lower part of its image, as in {copies}: "
                f"{large.describe(int(ends.max(axis=1).argmax()))}. If the detector saw such copies, scale the "
                "boxes to the files in CORAL_INPUT.",
                is_certain=False,
            )
    return None


def _end_at(ends: Floats, limits: Floats) -> bool:
    """Whether many boxes end at the limits and few just before them, as boxes that are cut at an edge do.

    Args:
        ends: (n, 2) right and bottom.
        limits: (2,) the largest of them.
    """
    at = ends >= _AT * limits
    close = (ends >= _CLOSE_TO * limits) & ~at
    # An object that is at one place in all images ends at both limits.
    only = np.array([(at[:, 0] & ~at[:, 1]).sum(), (at[:, 1] & ~at[:, 0]).sum()])
    return bool((only >= np.maximum(_MIN_AT_EDGE, 2 * close.sum(axis=0))).all())
