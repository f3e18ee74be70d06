"""Work in threads, ahead of the consumer of its results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def prefetch(
    executor: ThreadPoolExecutor,
    function: Callable[[T], U],
    items: Iterable[T],
    *,
    ahead: int,
    idle: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[U]:
    """Yields ``function(item)`` for each item, in order, computed in threads up to `ahead` items early.

    Args:
        executor: The threads.
        function: The work for one item.
        items: The items.
        ahead: How many results may wait for their consumer.
        idle: Context manager that is entered while the consumer waits for a result.
    """

    def result(future: Future[U]) -> U:
        if future.done():
            return future.result()
        with idle():
            return future.result()

    waiting: deque[Future[U]] = deque()
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) > ahead:
                yield result(waiting.popleft())
        while waiting:
            yield result(waiting.popleft())
    finally:
        for future in waiting:
            future.cancel()
