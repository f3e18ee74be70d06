import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from job.errors import Stopped
from job.video import deadline
from job.video.deadline import Late, Steps


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Ends what hangs; the deadline is half a second."""
    monkeypatch.setattr(deadline, "MAX_SECONDS", 0.5)
    event = threading.Event()
    yield event
    event.set()


def run(steps: Steps, function: Any) -> Any:
    return steps.run(function, threading.Event())


def test_the_result_and_the_error_are_those_of_the_function() -> None:
    assert run(Steps(), lambda: 7) == 7
    with pytest.raises(TimeoutError, match="its own"):
        run(Steps(), lambda: (_ for _ in ()).throw(TimeoutError("its own")))


def read(steps: Steps) -> None:
    with steps.reading():
        pass


@pytest.mark.parametrize("next_step", [Steps.begin, read])
def test_a_step_that_takes_too_long_is_left_behind_and_ends_with_the_next(
    next_step: Callable[[Steps], None], released: threading.Event
) -> None:
    steps, ended = Steps(), threading.Event()

    def hang() -> None:
        released.wait(30)
        try:
            next_step(steps)
        except Late:
            ended.set()

    with pytest.raises(Late, match=r"decoding its video takes longer than 0\.5 seconds"):
        run(steps, hang)
    assert not ended.is_set()
    released.set()
    assert ended.wait(10)


def test_many_steps_and_slow_reads_may_take_longer(released: threading.Event) -> None:
    steps = Steps()

    def work() -> str:
        for _ in range(10):
            time.sleep(0.1)
            steps.begin()
        with steps.reading():
            time.sleep(1)
        return "done"

    assert run(steps, work) == "done"


def test_reads_add_no_time_to_a_step_that_never_ends(released: threading.Event) -> None:
    """As in a file that leads back into itself: each read is quick, and there is no end of them."""
    steps = Steps()

    def read_again_and_again() -> None:
        while not released.wait(0.01):
            with steps.reading():
                pass

    with pytest.raises(Late):
        run(steps, read_again_and_again)


def test_a_stop_is_heeded(released: threading.Event) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        Steps().run(lambda: released.wait(30), stop)
