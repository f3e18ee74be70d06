"""Batches of images of one resized shape.

In a batch of mixed shapes, detectron2 pads the smaller images, and padding changes the detections near the border. In a
batch of one shape, each image gets the detections that it would get alone.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)
T = TypeVar("T")


class Batcher(Generic[S, T]):
    """Collects items by shape. The batches depend only on the order of the items, and on the limits.

    Args:
        count_full: Returns how many items of a shape make a full batch; the numbers may fall at any time.
        max_waiting: The most items that wait for a full batch.
        max_bytes: The most bytes of these items.
    """

    def __init__(self, count_full: Callable[[S], int], max_waiting: int, max_bytes: int) -> None:
        self._count_full = count_full
        self._max_waiting, self._max_bytes = max_waiting, max_bytes
        self._waiting: dict[S, list[T]] = defaultdict(list)
        self._bytes: dict[S, int] = defaultdict(int)

    def add(self, shape: S, item: T, size: int) -> list[T]:
        """Adds an item, and returns a batch if there is one to run.

        Args:
            shape: Items of equal shape share a batch.
            item: The item.
            size: Its bytes.

        Returns:
            The batch of this shape if it is full. If more than `max_waiting` items or `max_bytes` bytes are waiting,
            the batch with the most items or bytes. Otherwise an empty list.
        """
        self._waiting[shape].append(item)
        self._bytes[shape] += size
        if len(self._waiting[shape]) >= self._count_full(shape):
            return self._pop(shape)
        if sum(map(len, self._waiting.values())) > self._max_waiting:
            return self._pop(max(self._waiting, key=lambda waiting: len(self._waiting[waiting])))
        if sum(self._bytes.values()) > self._max_bytes:
            return self._pop(max(self._bytes, key=lambda waiting: self._bytes[waiting]))
        return []

    def _pop(self, shape: S) -> list[T]:
        del self._bytes[shape]
        return self._waiting.pop(shape)

    def flush(self) -> list[list[T]]:
        """Removes all waiting items and returns them, one batch per shape."""
        batches = list(self._waiting.values())
        self._waiting.clear()
        self._bytes.clear()
        return batches
