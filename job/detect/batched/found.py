"""What a batch gives: tables on the device whose shapes do not depend on what is found."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from job.detect.batched.tables import resize


@dataclass(frozen=True)
class Found:
    """Boxes of N images, at most K of each.

    Attributes:
        boxes: (N, K, 4) float32 corners.
        scores: (N, K) float32, falling.
        classes: (N, K) int64.
        probabilities: (N, K, classes + 1) float32.
        features: (N, K, D) of any precision (`job.detect.box_features`).
        exists: (N, K) bool. Rows that do not exist fill up the tables.
        settled: (N,) bool: whether the boxes of the image are surely those of detectron2.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    classes: torch.Tensor
    probabilities: torch.Tensor
    features: torch.Tensor
    exists: torch.Tensor
    settled: torch.Tensor

    def resize(self, size: tuple[int, int], output_sizes: list[tuple[int, int]]) -> "Found":
        """Converts corners to pixels of the original images, as `detector_postprocess` of detectron2 does.

        Args:
            size: Height and width of the resized images, in whose pixels the corners are.
            output_sizes: Height and width of each original image.
        """
        corners = resize(self.boxes, size, output_sizes)
        visible = (corners[..., 2:] > corners[..., :2]).all(dim=-1)
        return replace(self, boxes=corners, exists=self.exists & visible)

    def pack(self) -> torch.Tensor:
        """Packs everything into one tensor, since each copy to the CPU may wait for the GPU.

        Returns:
            (N, K + 1, 6 + classes + 1 + D) float32. The last row of an image is 1 if it is settled, else 0. The others
            are four corners, score, class, class probabilities and feature. The class of rows that do not exist is -1.
        """
        numbers = torch.where(self.exists, self.classes, -1).float()
        columns = self.boxes, self.scores[..., None], numbers[..., None], self.probabilities, self.features.float()
        table = torch.cat(columns, dim=2)
        last = self.settled.float()[:, None, None].expand(-1, 1, table.shape[2])
        return torch.cat([table, last], dim=1)


def unpack(
    packed: npt.NDArray[np.float32], *others: npt.NDArray[np.floating]
) -> list[list[npt.NDArray[np.floating]] | None]:
    """Takes the tables of each image out of those of a batch, as copies.

    Args:
        packed: The first columns of the result of `Found.pack`, at least six.
        others: More tables with as many rows of each image.

    Returns:
        For each image, its rows of each table; None where it is not settled.
    """
    found: list[list[npt.NDArray[np.floating]] | None] = []
    for image, numbers in enumerate(packed):
        exists = np.flatnonzero(numbers[:-1, 5] >= 0)
        found.append([table[image].take(exists, axis=0) for table in (packed, *others)] if numbers[-1, 0] else None)
    return found
