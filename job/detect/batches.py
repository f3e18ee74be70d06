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

    def __init__(self, batch_size: int, max_waiting: int) -> None:
        self.batch_size = batch_size
        self._max_waiting = max_waiting
        self._waiting: dict[Hashable, list[T]] = defaultdict(list)

    def add(self, shape: Hashable, item: T) -> list[T]:
        """Adds an item; returns a batch when there is one to run, else an empty list.

        A batch is full, or the largest one there is when more than `max_waiting` items wait.
        """
        self._waiting[shape].append(item)
        if len(self._waiting[shape]) >= self.batch_size:
            return self._waiting.pop(shape)
        if sum(map(len, self._waiting.values())) > self._max_waiting:
            return self._waiting.pop(max(self._waiting, key=lambda each: len(self._waiting[each])))
        return []

    def flush(self) -> list[list[T]]:
        """Returns all that waits, a batch for each shape."""
        batches = list(self._waiting.values())
        self._waiting.clear()
        return batches
