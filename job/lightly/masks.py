"""Sets of samples in the platform's encoding: a hexadecimal number whose lowest bit is the first sample."""

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]


def encode(flags: Flags) -> str:
    """Encodes a set of samples.

    Args:
        flags: (n,) for each sample in the platform's order, whether the set contains it.

    Returns:
        The mask.
    """
    return hex(int.from_bytes(np.packbits(flags, bitorder="little").tobytes(), "little"))


def decode(mask: str, size: int) -> Flags:
    """Decodes a mask.

    Args:
        mask: The mask.
        size: Number of samples.

    Returns:
        (size,) for each sample in the platform's order, whether the set contains it.
    """
    data = int(mask, 16).to_bytes((size + 7) // 8 or 1, "little")
    return np.unpackbits(np.frombuffer(data, np.uint8), count=size, bitorder="little").astype(bool)
