"""Compares the detections of two runs: which boxes are in both, and how far these are apart."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou

from gpu.drive import Detections

_MIN_IOU = 0.5


@dataclass(frozen=True)
class Difference:
    """How far the detections of a run are from those of a reference.

    Attributes:
        boxes: Boxes of the reference.
        lost: Boxes of the reference with no box of their class in the run that overlaps them by half or more.
        gained: Boxes of the run with no such box in the reference.
        pixels: For each matched box, the largest difference of a corner, in pixels.
        scores: For each matched box, the difference of the scores.
        probabilities: For each matched box, the largest difference of a class probability.
        statuses: Images whose status differs.
    """

    boxes: int
    lost: int
    gained: int
    pixels: list[float]
    scores: list[float]
    probabilities: list[float]
    statuses: list[str]

    def to_figures(self) -> dict[str, Any]:
        """Returns counts, medians, 99th percentiles and maxima."""
        figures: dict[str, Any] = {"boxes": self.boxes, "lost": self.lost, "gained": self.gained}
        for name in ("pixels", "scores", "probabilities"):
            values = getattr(self, name) or [0.0]
            figures[name] = {
                "median": float(np.median(values)),
                "p99": float(np.percentile(values, 99)),
                "max": float(np.max(values)),
            }
        return figures | ({"statuses": self.statuses} if self.statuses else {})

    def __str__(self) -> str:
        """Says the largest differences in a few words."""
        figures = self.to_figures()
        return (
            f"{self.lost} lost and {self.gained} gained of {self.boxes} boxes; median / max: "
            f"pixels {figures['pixels']['median']:.2g} / {figures['pixels']['max']:.2g}, "
            f"scores {figures['scores']['median']:.1g} / {figures['scores']['max']:.2g}"
        )


def compare(reference: dict[str, Detections], other: dict[str, Detections]) -> Difference:
    """Compares two runs on the same images."""
    lost = gained = boxes = 0
    pixels: list[float] = []
    scores: list[float] = []
    probabilities: list[float] = []
    missing = Detections("missing", *(np.empty((0, 4), np.float32), np.empty(0), np.empty(0), np.empty((0, 1))))  # type: ignore[arg-type]
    statuses = [name for name in reference if reference[name].status != other.get(name, missing).status]
    for name, expected in reference.items():
        found = other.get(name, missing)
        boxes += len(expected.boxes)
        overlap = box_iou(torch.from_numpy(expected.boxes), torch.from_numpy(found.boxes)).numpy()
        overlap[expected.classes[:, None] != found.classes[None, :]] = 0
        lost += int((overlap.max(axis=1, initial=0) < _MIN_IOU).sum())
        gained += int((overlap.max(axis=0, initial=0) < _MIN_IOU).sum())
        for row in np.flatnonzero(overlap.max(axis=1, initial=0) >= _MIN_IOU):
            match = overlap[row].argmax()
            pixels.append(float(np.abs(expected.boxes[row] - found.boxes[match]).max()))
            scores.append(abs(float(expected.scores[row] - found.scores[match])))
            rows = expected.probabilities[row].astype(np.float32), found.probabilities[match].astype(np.float32)
            probabilities.append(float(np.abs(rows[0] - rows[1]).max()))
    return Difference(boxes, lost, gained, pixels, scores, probabilities, statuses)
