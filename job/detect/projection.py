"""Shortens features by a fixed random projection, which keeps their lengths and distances up to a few per cent.

It is a subsampled randomized Hadamard transform: the signs of the feature are changed at random, and rows of a Hadamard
matrix, chosen at random, are multiplied with it (Tropp, "Improved analysis of the subsampled randomized Hadamard
transform", 2011). The rows are orthogonal, so the error is less than that of a Gaussian matrix.

All entries are 1 or -1 and features are rounded to half precision first, so sums in double precision are exact.
The result is therefore the same on every device, in every batch and with every library.
"""

import numpy as np
import numpy.typing as npt
import torch

# Numbers in a feature. The name of the projection in job/parts/provenance.py has that of an image; that of a box is
# fixed by the version of the parts' schema.
IMAGE_SIZE, BOX_SIZE = 256, 64
_SEED = 20


def make_signs(length: int, size: int) -> npt.NDArray[np.int8]:
    """Makes the (size, length) matrix of signs, which is the same on every machine.

    Args:
        length: Numbers in a feature.
        size: Numbers that are left of it.
    """
    order = 1 << (length - 1).bit_length()  # of the Hadamard matrix, in which the sign is the parity of row & column
    # numpy promises that these numbers stay the same, but not what its distributions and permutations make of them.
    numbers = np.random.PCG64(_SEED).random_raw(2 * order)
    signs = 1 - 2 * (numbers[:order] >> 63).astype(np.int8)
    rows = np.argsort(numbers[order:], kind="stable")[:size]
    parity = np.bitwise_count(rows[:, None] & np.arange(length)) & 1
    matrix: npt.NDArray[np.int8] = (1 - 2 * parity.astype(np.int8)) * signs[:length]
    return matrix


class Projection:
    """Shortens features of any length.

    Args:
        size: The most numbers in a feature. Features that have no more are kept as they are.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._matrices: dict[tuple[int, torch.device], torch.Tensor] = {}

    def shorten(self, features: torch.Tensor) -> torch.Tensor:
        """Shortens features.

        Args:
            features: (..., d) of any precision.

        Returns:
            (..., min(d, size)) float16; not finite where a feature is not.
        """
        length = features.shape[-1]
        if length <= self._size:
            return features.half()
        key = length, features.device
        if key not in self._matrices:
            matrix = torch.from_numpy(make_signs(length, self._size).T.astype(np.float64))
            self._matrices[key] = matrix.to(features.device, non_blocking=True)
        sums = features.half().double() @ self._matrices[key]
        shortened: torch.Tensor = (sums / self._size**0.5).half()
        return shortened
