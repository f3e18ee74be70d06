"""The ways in which formats write a box as four numbers."""

from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Layout = Literal["[left, top, width, height]", "[left, top, right, bottom]", "[center x, center y, width, height]"]

CORNER_SIZE: Layout = "[left, top, width, height]"
CORNERS: Layout = "[left, top, right, bottom]"
CENTER_SIZE: Layout = "[center x, center y, width, height]"
LAYOUTS = (CORNER_SIZE, CORNERS, CENTER_SIZE)


def to_corners(numbers: Floats, layout: Layout) -> Floats:
    """Reads boxes.

    Args:
        numbers: (n, 4) boxes as a file writes them.
        layout: How the file writes them.

    Returns:
        (n, 4) left, top, right, bottom.
    """
    first, second = numbers[:, :2], numbers[:, 2:]
    if layout == CORNERS:
        return numbers
    if layout == CORNER_SIZE:
        return np.concatenate([first, first + second], axis=1)
    return np.concatenate([first - second / 2, first + second / 2], axis=1)


def from_corners(corners: Floats, layout: Layout) -> Floats:
    """Writes boxes; the inverse of `to_corners`.

    Args:
        corners: (n, 4) left, top, right, bottom.
        layout: How to write them.

    Returns:
        (n, 4) numbers.
    """
    first, second = corners[:, :2], corners[:, 2:]
    if layout == CORNERS:
        return corners
    if layout == CORNER_SIZE:
        return np.concatenate([first, second - first], axis=1)
    return np.concatenate([(first + second) / 2, second - first], axis=1)
