"""A byte limit for images in preparation: images differ in size, so a limit on their number would not bound memory."""

import threading

from job.errors import Stopped
from job.stopping import MESSAGE


class Budget:
    """Limits the bytes that numbered items hold together. Items are consumed in the order of their numbers.

    An item waits until it fits, except the next one to be consumed, which never waits. So one item can always proceed,
    and the items hold at most the limit plus the bytes of one item.

    Attributes:
        peak: The most bytes held at any time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[int, int] = {}
        self._total = self.peak = 0
        self._next = 0
        self._closed = False
        self._changed = threading.Condition()

    def hold(self, number: int, size: int) -> None:
        """Changes the bytes that an item holds, once there is room for them.

        Args:
            number: Number of the item.
            size: Bytes that it holds from now on, instead of those before.

        Raises:
            Stopped: If the budget is closed, because nothing is consumed any more, or if the item is left behind.
        """
        with self._changed:
            more = size - self._held.get(number, 0)
            self._changed.wait_for(
                lambda: self._closed or more <= 0 or number <= self._next or self._total + more <= self._limit
            )
            if self._closed or number < self._next:
                raise Stopped(MESSAGE)
            self._held[number] = size
            self._total += more
            self.peak = max(self.peak, self._total)
            self._changed.notify_all()

    def release(self, number: int) -> None:
        """Frees the bytes of a consumed item."""
        with self._changed:
            self._total -= self._held.pop(number, 0)
            self._next = number + 1
            self._changed.notify_all()

    def close(self) -> None:
        """Makes `hold` raise Stopped in all threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
