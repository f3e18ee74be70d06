"""The map of the embeddings: their projection on the two directions of the largest variance."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from job.select.points import to_unit_length

_MAX_FITTED_POINTS = 20_000
_BLOCK_ROWS = 1 << 16
_DECIMALS = 6  # the last digits differ with the number of threads


@dataclass(frozen=True)
class Projection:
    """Embeddings in two dimensions.

    Attributes:
        points: (n, 2) coordinates; the center of the embeddings is at 0, 0.
        explained: Share of the variance that the two dimensions explain, 0 to 1.
    """

    points: npt.NDArray[np.float64]
    explained: float


def project(embeddings: npt.NDArray[np.float32]) -> Projection:
    """Projects embeddings of unit length, with directions from at most 20,000 of them, evenly spaced.

    Args:
        embeddings: (n, d), at least one.
    """
    fitted = to_unit_length(embeddings[:: max(1, -(-len(embeddings) // _MAX_FITTED_POINTS))]).astype(np.float64)
    center = fitted.mean(axis=0)
    values, vectors = np.linalg.eigh((fitted - center).T @ (fitted - center))
    axes = vectors[:, ::-1][:, :2] * np.sign(vectors[:, ::-1][:, :2].sum(axis=0) + 1e-300)
    if axes.shape[1] < 2:
        axes = np.concatenate([axes, np.zeros((len(axes), 2 - axes.shape[1]))], axis=1)
    blocks = [
        (to_unit_length(embeddings[start : start + _BLOCK_ROWS]).astype(np.float64) - center) @ axes
        for start in range(0, len(embeddings), _BLOCK_ROWS)
    ]
    explained = float(values[::-1][:2].sum() / total) if (total := values.sum()) > 0 else 1.0
    return Projection(np.concatenate(blocks).round(_DECIMALS), explained)
