"""The byte limit: it holds, and nothing waits forever."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.budget import Budget, Hold, prefetch_within
from job.errors import Stopped
from job.prefetch import Workers, prefetch


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 100), min_size=1, max_size=3), max_size=30),
    st.integers(0, 150),
    st.integers(1, 6),
)
def test_all_items_finish_and_the_limit_holds(items: list[list[int]], limit: int, workers: int) -> None:
    """Items grow and shrink while they are held; some are larger than the limit."""
    budget = Budget(limit)

    def work(numbered: tuple[int, list[int]]) -> int:
        number, sizes = numbered
        for size in sizes:
            budget.hold(number, size)
        return number

    with Workers(workers) as executor:
        done = []
        for number in prefetch(executor, work, enumerate(items), ahead=2 * workers):
            budget.release(number)
            done.append(number)
    assert done == list(range(len(items)))
    assert budget.peak <= limit + max((max(sizes) for sizes in items), default=0)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 100), max_size=3), max_size=30),
    st.integers(0, 150),
    st.integers(1, 6),
    st.integers(0, 40),
)
def test_threads_hold_a_limited_memory(items: list[list[int]], limit: int, workers: int, fails_at: int) -> None:
    """What an item holds is free when its work ends, also with an error, which ends all."""
    held: dict[int, int] = {}
    largest = max((max(sizes, default=0) for sizes in items), default=0)

    def work(numbered: tuple[int, list[int]], hold: Hold) -> int:
        number, sizes = numbered
        try:
            for size in sizes:
                held[number] = min(size, held.get(number, 0))  # it frees what it can before it asks for more
                hold(size)
                held[number] = size
                assert sum(list(held.values())) <= limit + largest
            if number == fails_at:
                raise ValueError("it fails")
        finally:
            held.pop(number, None)
        return number

    done: list[int] = []
    with Workers(workers) as executor:
        results = prefetch_within(limit, executor, work, enumerate(items), ahead=2 * workers)
        if fails_at < len(items):
            with pytest.raises(ValueError, match="it fails"):
                done.extend(results)
        else:
            done.extend(results)
            assert done == list(range(len(items)))


def test_close_stops_waiting_threads() -> None:
    budget = Budget(10)
    budget.hold(0, 10)

    def wait() -> None:
        with pytest.raises(Stopped):
            budget.hold(5, 1)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.1)
    assert waiting.is_alive()
    budget.close()
    waiting.join(5)
    assert not waiting.is_alive()
