"""Sets of samples as the platform writes them: a hexadecimal number whose lowest bit is the first sample."""

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]


def encode(flags: Flags) -> str:
    """The mask of a set; `flags` (n,) says of each sample, in the platform's order, whether it is in it."""
    return hex(int.from_bytes(np.packbits(flags, bitorder="little").tobytes(), "little"))


def decode(mask: str, size: int) -> Flags:
    """Which of `size` samples are in a mask, (size,)."""
    data = int(mask, 16).to_bytes((size + 7) // 8 or 1, "little")
    return np.unpackbits(np.frombuffer(data, np.uint8), count=size, bitorder="little").astype(bool)
