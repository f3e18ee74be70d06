"""A byte limit for images in memory: images differ in size, so a limit on their number would not bound memory."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from job.errors import Stopped
from job.prefetch import prefetch
from job.stopping import MESSAGE

T = TypeVar("T")
U = TypeVar("U")

Hold = Callable[[int], None]


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


def prefetch_within(
    limit: int, executor: ThreadPoolExecutor, function: Callable[[T, Hold], U], items: Iterable[T], *, ahead: int
) -> Iterator[U]:
    """Yields results in order, computed in threads, as `prefetch` does, while the threads hold a limited memory.

    Args:
        limit: The bytes that all items hold together; one item may hold more.
        executor: The threads.
        function: The work for one item. Before it takes memory, it calls its second argument with the bytes that it
            holds from then on. They are free when it returns.
        items: The items.
        ahead: How many results may wait for their consumer.
    """
    budget = Budget(limit)

    def work(numbered: tuple[int, T]) -> U:
        number, item = numbered
        try:
            return function(item, partial(budget.hold, number))
        finally:
            budget.hold(number, 0)

    try:
        for number, result in enumerate(prefetch(executor, work, enumerate(items), ahead=ahead)):
            budget.release(number)
            yield result
    finally:
        budget.close()
