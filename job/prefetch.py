"""Work in threads, ahead of the consumer of its results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

_SECONDS_BETWEEN_LOOKS = 0.25


class Workers(ThreadPoolExecutor):
    """Threads that can be replaced: a thread that does not come back, such as one in a decoder, cannot be ended."""

    def replace_one(self) -> None:
        """Starts one more thread, unless one is idle, in place of one that is left behind."""
        self._max_workers += 1
        self.submit(lambda: None)  # threads start only with new work, and there may be no more items


def prefetch(
    executor: ThreadPoolExecutor,
    function: Callable[[T], U],
    items: Iterable[T],
    *,
    ahead: int,
    idle: Callable[[], AbstractContextManager[None]] = nullcontext,
    watch: Callable[[T, float], U | None] | None = None,
) -> Iterator[U]:
    """Yields ``function(item)`` for each item, in order, computed in threads up to `ahead` items early.

    Args:
        executor: The threads.
        function: The work for one item.
        items: The items.
        ahead: How many results may wait for their consumer.
        idle: Context manager that is entered while the consumer waits for a result.
        watch: Called several times per second while the consumer waits, with the item and the seconds of waiting. What
            it returns is the result of the item, whose thread is left behind; with None the waiting continues. An
            error that it raises ends the iteration.
    """

    def wait(item: T, future: Future[U]) -> U:
        if watch is None:
            return future.result()
        start = monotonic()
        while True:
            try:
                return future.result(timeout=_SECONDS_BETWEEN_LOOKS)
            except TimeoutError:
                if future.done():  # the work itself raised this error, or ended just now
                    return future.result()
            result = watch(item, monotonic() - start)
            if result is not None:
                return result

    def fetch(item: T, future: Future[U]) -> U:
        if future.done():
            return future.result()
        with idle():
            return wait(item, future)

    waiting: deque[tuple[T, Future[U]]] = deque()
    try:
        for item in items:
            waiting.append((item, executor.submit(function, item)))
            if len(waiting) > ahead:
                yield fetch(*waiting.popleft())
        while waiting:
            yield fetch(*waiting.popleft())
    finally:
        for _, future in waiting:
            future.cancel()
