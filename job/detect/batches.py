"""Batches of images of one resized shape.

In a batch of mixed shapes detectron2 pads the smaller ones, and the padding changes what it finds near the border. In a
batch of one shape each image gets what it would have got alone.
"""

from collections import defaultdict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Batcher(Generic[T]):
    """Collects items by shape; what it returns depends on the order of the items alone.

    Attributes:
        batch_size: Items in a batch; may be lowered at any time.
    """

    def __init__(self, batch_size: int, max_waiting: int, max_bytes: int) -> None:
        self.batch_size = batch_size
        self._max_waiting, self._max_bytes = max_waiting, max_bytes
        self._waiting: dict[Hashable, list[T]] = defaultdict(list)
        self._bytes: dict[Hashable, int] = defaultdict(int)

    def add(self, shape: Hashable, item: T, size: int) -> list[T]:
        """Adds an item of so many bytes; returns a batch when there is one to run, else an empty list.

        A batch is full, or the largest one there is when more than `max_waiting` items or `max_bytes` bytes wait.
        """
        self._waiting[shape].append(item)
        self._bytes[shape] += size
        if len(self._waiting[shape]) >= self.batch_size:
            return self._take(shape)
        if sum(map(len, self._waiting.values())) > self._max_waiting:
            return self._take(max(self._waiting, key=lambda each: len(self._waiting[each])))
        if sum(self._bytes.values()) > self._max_bytes:
            return self._take(max(self._bytes, key=lambda each: self._bytes[each]))
        return []

    def _take(self, shape: Hashable) -> list[T]:
        del self._bytes[shape]
        return self._waiting.pop(shape)

    def flush(self) -> list[list[T]]:
        """Returns all that waits, a batch for each shape."""
        batches = list(self._waiting.values())
        self._waiting.clear()
        self._bytes.clear()
        return batches
