"""The map of the embeddings: their projection on the two directions of the largest variance."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from job.select.engine import as_points
from job.select.points import to_unit_length

if TYPE_CHECKING:
    from job.select.points import Embeddings

_MAX_FITTED_POINTS = 20_000
_MAX_FITTED_VALUES = 1 << 26  # 0.5 GB; all of the points up to 3,355 dimensions
_MAX_EXACT_SIDE = 1024  # of a matrix whose eigenvectors are computed; the time grows with its cube
_MAX_ITERATIONS = 50
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


def project(embeddings: "Embeddings") -> Projection:
    """Projects embeddings of unit length, with directions from at most 20,000 of them, evenly spaced.

    Args:
        embeddings: (n, d), at least one.
    """
    points = as_points(embeddings)
    count, width = points.shape
    max_points = max(2, min(_MAX_FITTED_POINTS, _MAX_FITTED_VALUES // width))
    fitted = to_unit_length(points.rows(range(0, count, max(1, -(-count // max_points))))).astype(np.float64)
    center = fitted.mean(axis=0)
    fitted -= center
    values, axes = _find_axes(fitted)
    axes *= np.sign(axes.sum(axis=0) + 1e-300)
    projected = np.empty((count, 2))
    for start, block in points.blocks():
        projected[start : start + len(block)] = (to_unit_length(block).astype(np.float64) - center) @ axes
    explained = float(values.sum() / total) if (total := np.square(fitted).sum()) > 0 else 1.0
    return Projection(projected.round(_DECIMALS, out=projected), explained)


def _find_axes(centered: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Finds the two directions of the largest variance, without a matrix of all pairs of dimensions.

    If there are few points or few dimensions, they are the eigenvectors of the smaller of two matrices, X Xᵀ or Xᵀ X,
    which have the same eigenvalues. Otherwise they are found by orthogonal iteration with some more directions (Golub
    and Van Loan, Matrix Computations, section 8.2.4).

    Args:
        centered: (n, d) points whose mean is 0.

    Returns:
        (2,) sums of squares along the directions, the larger one first; and the directions, as (d, 2). A direction that
        does not exist is 0.
    """
    count, width = centered.shape
    if count < width and count <= _MAX_EXACT_SIDE:
        values, left = _find_largest(centered @ centered.T)
        axes = centered.T @ left
        lengths = np.linalg.norm(axes, axis=0)
        return values, np.divide(axes, lengths, where=lengths > 1e-9, out=np.zeros_like(axes))
    if width <= _MAX_EXACT_SIDE:
        return _find_largest(centered.T @ centered)
    basis = np.random.default_rng(0).normal(size=(width, 16))
    values = np.zeros(2)
    for _ in range(_MAX_ITERATIONS):
        before = values
        basis = np.linalg.qr(centered.T @ (centered @ basis))[0]
        small = centered @ basis
        values, weights = _find_largest(small.T @ small)
        if np.allclose(values, before, rtol=1e-12, atol=0):
            break
    return values, basis @ weights


def _find_largest(matrix: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The two largest eigenvalues of a symmetric matrix and their eigenvectors, as columns; zeros if there is one."""
    values, vectors = np.linalg.eigh(matrix)
    missing = max(0, 2 - len(values))
    return np.pad(values[::-1][:2], (0, missing)), np.pad(vectors[:, ::-1][:, :2], ((0, 0), (0, missing)))
