"""Threads that prepare images keep off the cores while the model has them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from job.prefetch import prefetch
from job.turns import Turns


def test_threads_work_only_while_the_model_waits() -> None:
    turns, model_runs = Turns(on_cpu=True), threading.Event()
    seen: list[bool] = []

    def prepare(item: int) -> int:
        turns.wait()
        seen.append(model_runs.is_set())
        return item

    with ThreadPoolExecutor(2) as pool:
        results = prefetch(pool, prepare, range(20), ahead=8, idle=turns.model_waits)
        for expected, item in enumerate(results):
            assert item == expected
            time.sleep(0.005)  # who was let through by then is through
            model_runs.set()
            time.sleep(0.005)
            model_runs.clear()
    assert len(seen) == 20
    assert not any(seen)


def test_nobody_waits_for_a_gpu() -> None:
    turns = Turns(on_cpu=False)
    turns.wait()
    with turns.model_waits():
        turns.wait()
    turns.wait()


def test_at_the_end_all_go_on() -> None:
    turns = Turns(on_cpu=True)
    thread = threading.Thread(target=turns.wait)
    thread.start()
    turns.close()
    thread.join(10)
    assert not thread.is_alive()
