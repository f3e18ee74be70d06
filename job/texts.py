"""Many texts in little memory: some 8 bytes for each besides its characters, instead of 60 as objects of Python."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_CHUNK = 10_000


class Texts(Sequence[str]):
    """A sequence of texts in one Arrow array.

    Attributes:
        array: The texts, as ``large_string``.
    """

    def __init__(self, array: pa.Array) -> None:
        self.array = array

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        """Copies texts into an array; of `Texts`, returns the same object."""
        return texts if isinstance(texts, cls) else cls(pa.array(texts, pa.large_string()))

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> "Texts": ...

    def __getitem__(self, index: int | slice) -> "str | Texts":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return str(self.array[int(index)])

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _CHUNK):
            yield from self.array.slice(start, _CHUNK).to_pylist()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Texts):
            return bool(self.array.equals(other.array))
        if isinstance(other, Sequence) and not isinstance(other, str):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def take(self, rows: npt.NDArray[np.integer] | Sequence[int]) -> "Texts":
        """Returns some of the texts, in the order of the rows."""
        return Texts(self.array.take(pa.array(np.asarray(rows, np.int64))))

    def find(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Finds texts that occur at most once each: (m,) their rows, -1 for a text that is not there."""
        wanted = pa.array(list(dict.fromkeys(texts)), pa.large_string())
        number = {text: index for index, text in enumerate(wanted.to_pylist())}
        found = pc.index_in(self.array, value_set=wanted)  # hashes the few, not the many
        rows = np.flatnonzero(np.asarray(found.is_valid()))
        row_of = np.full(len(wanted), -1, np.int64)
        row_of[found.drop_null().to_numpy()] = rows
        return row_of[[number[text] for text in texts]] if texts else np.empty(0, np.int64)
