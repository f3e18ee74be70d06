"""Preparing threads leave the cores to the model while it runs on the CPU."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from job.detect.cpu_turns import Turns
from job.prefetch import prefetch


def waiting(turns: Turns, seconds: float = 0.1) -> threading.Thread:
    thread = threading.Thread(target=turns.wait, daemon=True)
    thread.start()
    thread.join(seconds)
    return thread


def test_threads_proceed_only_while_the_model_waits() -> None:
    turns = Turns(on_cpu=True)
    first = waiting(turns)
    assert first.is_alive()
    with turns.release_cores():
        first.join(10)
        assert not first.is_alive()
        turns.wait()
    second = waiting(turns)
    assert second.is_alive()
    turns.close()
    second.join(10)
    assert not second.is_alive()


def test_no_thread_waits_for_a_gpu() -> None:
    turns = Turns(on_cpu=False)
    assert not waiting(turns, 10).is_alive()
    with turns.release_cores():
        assert not waiting(turns, 10).is_alive()
    assert not waiting(turns, 10).is_alive()


def test_the_model_waits_only_for_unfinished_results() -> None:
    waits, begin = 0, threading.Event()

    @contextlib.contextmanager
    def idle() -> Iterator[None]:
        nonlocal waits
        waits += 1
        begin.set()
        yield

    def work(item: int) -> int:
        begin.wait(10)
        return item

    with ThreadPoolExecutor(1) as executor:
        results = prefetch(executor, work, range(4), ahead=4, idle=idle)
        assert next(results) == 0  # by now all items are submitted
        executor.shutdown(wait=True)
        assert list(results) == [1, 2, 3]
    assert waits == 1


def test_the_results_come_in_order() -> None:
    turns = Turns(on_cpu=True)

    def prepare(item: int) -> int:
        turns.wait()
        return item

    with ThreadPoolExecutor(3) as executor:
        assert list(prefetch(executor, prepare, range(50), ahead=8, idle=turns.release_cores)) == list(range(50))
