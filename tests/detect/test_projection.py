"""The projection of features: the same numbers everywhere, and nearly the same distances."""

import hashlib
import math

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard  # type: ignore[import-untyped]

from job.detect.projection import BOX_SIZE, IMAGE_SIZE, Projection, make_signs
from job.parts.provenance import PROJECTION


def make_features(count: int, length: int) -> torch.Tensor:
    rng = np.random.default_rng(length)
    return torch.from_numpy(np.maximum(rng.standard_normal((count, length)), 0).astype(np.float32) * 100)


def test_the_matrix_is_the_same_everywhere() -> None:
    assert make_signs(5, 3).tolist() == [[1, 1, -1, 1, -1], [1, -1, 1, 1, -1], [1, -1, -1, -1, 1]]
    assert {
        (length, size): hashlib.sha256(make_signs(length, size).tobytes()).hexdigest()[:16]
        for length, size in ((2048, 256), (1024, 256), (384, 256), (1024, 64))
    } == {
        (2048, 256): "1025d843901c6a93",
        (1024, 256): "a1e668669d355a5f",
        (384, 256): "103b1740c4930586",
        (1024, 64): "ace33778749194a8",
    }
    assert f"hadamard {IMAGE_SIZE}" == PROJECTION


@pytest.mark.parametrize("size", [BOX_SIZE, IMAGE_SIZE])
def test_it_is_made_of_rows_of_a_hadamard_matrix_with_random_signs(size: int) -> None:
    signs = make_signs(1024, size).astype(np.int64)
    assert (signs @ signs.T == 1024 * np.eye(size)).all()
    # Two rows multiplied are a row of the matrix: the signs of the columns fall out.
    rows = {tuple(row) for row in hadamard(1024).tolist()}
    assert all(tuple(row) in rows for row in (signs[0] * signs[1:]).tolist())
    assert abs(signs.mean()) < 0.02


@pytest.mark.parametrize("length", [2048, 1024, 384])
def test_sums_are_exact_so_that_no_batch_or_library_changes_them(length: int) -> None:
    features, projection = make_features(9, length), Projection(IMAGE_SIZE)
    found = projection.shorten(features)
    signs = make_signs(length, IMAGE_SIZE)
    for row, feature in zip(found, features.half().double().numpy(), strict=True):
        exact = [math.fsum(feature * sign) / 16 for sign in signs]
        assert torch.equal(row, torch.tensor(exact, dtype=torch.float64).half())
    assert torch.equal(found, torch.cat([projection.shorten(feature[None]) for feature in features]))
    assert torch.equal(found, projection.shorten(features.T.contiguous().T))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(found, projection.shorten(features))


def test_short_features_stay_and_others_that_are_not_finite_are_noticed() -> None:
    projection = Projection(IMAGE_SIZE)
    short = make_features(2, 256)
    assert torch.equal(projection.shorten(short), short.half())
    assert not torch.isfinite(projection.shorten(torch.full((1, 512), 1e5))).any()


def test_distances_stay_within_a_few_per_cent() -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((10, 2048))[np.arange(200) % 10] + rng.standard_normal((200, 2048)) / 3
    whole = torch.from_numpy(np.maximum(points, 0))
    short = Projection(IMAGE_SIZE).shorten(whole).double()

    def compute_distances(features: torch.Tensor) -> torch.Tensor:
        return torch.pdist(features / features.norm(dim=1, keepdim=True))

    ratios = compute_distances(short) / compute_distances(whole)
    # A Gaussian projection to k numbers has the deviation 1 / sqrt(2 k), 0.044 here; orthogonal rows have less.
    assert ratios.std() < 0.044 and abs(ratios.mean() - 1) < 0.044
