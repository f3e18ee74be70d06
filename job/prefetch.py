"""Work in threads ahead of the one who needs its results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def prefetch(pool: ThreadPoolExecutor, function: Callable[[T], U], items: Iterable[T], *, ahead: int) -> Iterator[U]:
    """Yields ``function(item)`` for each item, in order, computed in threads up to `ahead` items early."""
    waiting: deque[Future[U]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for each in waiting:
            each.cancel()
