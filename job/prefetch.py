"""Work in threads ahead of the one who needs its results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def prefetch(
    pool: ThreadPoolExecutor,
    function: Callable[[T], U],
    items: Iterable[T],
    *,
    ahead: int,
    idle: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[U]:
    """Yields ``function(item)`` for each item, in order, computed in threads up to `ahead` items early.

    Args:
        pool: The threads.
        function: What they do.
        items: With what.
        ahead: How many results may wait.
        idle: Entered while a result is waited for.
    """

    def result(future: Future[U]) -> U:
        if future.done():
            return future.result()
        with idle():
            return future.result()

    waiting: deque[Future[U]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield result(waiting.popleft())
        while waiting:
            yield result(waiting.popleft())
    finally:
        for each in waiting:
            each.cancel()
