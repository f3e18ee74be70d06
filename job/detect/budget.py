"""A limit in bytes for what is on its way through the threads: images differ in size, so a number bounds nothing."""

import threading

from job.errors import Stopped
from job.stopping import MESSAGE


class Budget:
    """Bytes that numbered items, which are consumed in the order of their numbers, may hold together.

    An item waits until it fits, but the next one to be consumed never does: so there is always one that goes on, and
    what is held is at most the limit and one item.

    Attributes:
        peak: The most bytes that were held at a time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[int, int] = {}
        self._total = self.peak = 0
        self._next = 0
        self._closed = False
        self._changed = threading.Condition()

    def hold(self, number: int, size: int) -> None:
        """Lets an item hold so many bytes, instead of those it held before, once there is room for them.

        Raises:
            Stopped: Nothing is consumed any more.
        """
        with self._changed:
            more = size - self._held.get(number, 0)
            self._changed.wait_for(
                lambda: self._closed or more <= 0 or number == self._next or self._total + more <= self._limit
            )
            if self._closed:
                raise Stopped(MESSAGE)
            self._held[number] = size
            self._total += more
            self.peak = max(self.peak, self._total)
            self._changed.notify_all()

    def consumed(self, number: int) -> None:
        """Takes an item out."""
        with self._changed:
            self._total -= self._held.pop(number, 0)
            self._next = number + 1
            self._changed.notify_all()

    def close(self) -> None:
        """Sends away all that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
