"""A signal may arrive anywhere, also while a thread looks whether one has arrived."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from job.errors import Stopped
from job.stopping import Stop
from tests.conftest import ROOT

HELD = """
import os, signal, sys
from job.errors import Stopped
from job.stopping import Stop

stop = Stop()
stop.listen()
try:
    with stop.defer() as requested:
        with requested._cond:  # as within is_set(), wait() and set(), for a moment
            for _ in range(3):
                os.kill(os.getpid(), int(sys.argv[1]))
        assert requested.wait(10)
except Stopped:
    sys.exit(143)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_event_is_in_use_does_not_hang(number: int) -> None:
    code = HELD if number == signal.SIGTERM else HELD.replace("range(3)", "range(1)")  # a second Ctrl-C interrupts
    ended = subprocess.run([sys.executable, "-c", code, str(int(number))], cwd=ROOT, timeout=60, check=False)
    assert ended.returncode == 143


def test_many_signals_at_once_end_the_job_once() -> None:
    code = (
        "import os\nfrom job.errors import Stopped\nfrom job.stopping import Stop\nstop = Stop()\nstop.listen()\n"
        "try:\n    with stop.defer() as requested:\n        print('ready', flush=True)\n"
        "        while not requested.wait(1e-5):\n            pass\n        for _ in range(20_000):\n"
        "            requested.is_set(), requested.set()\n"
        "except Stopped:\n    os._exit(143)\n"  # Python gives signals their default handlers while it ends
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.stdout.close()
    assert process.wait() == 143


@pytest.fixture
def stop() -> Iterator[Stop]:
    """A request to stop that heeds the signals of this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    made = Stop()
    made.listen()
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


def test_no_handler_of_errors_takes_a_stop(stop: Stop) -> None:
    with pytest.raises(Stopped):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:
            pytest.fail(f"taken for {error!r}")


def test_a_signal_in_an_inner_context_ends_the_outer_one(stop: Stop) -> None:
    done = []
    with pytest.raises(Stopped), stop.defer():
        with stop.defer():
            os.kill(os.getpid(), signal.SIGTERM)
        done.append("inner")
        with stop.defer() as requested:
            assert requested.wait(10)
        done.append("outer")
    assert done == ["inner", "outer"]


def test_contexts_within_each_other_stay_deferred(stop: Stop) -> None:
    done = False
    with pytest.raises(Stopped), stop.defer():
        with stop.defer():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        done = True
    assert done


def _swallow(*_: Any) -> None:
    """As a handler whose error interrupts code that ignores it."""


def _exit(*_: Any) -> None:
    sys.exit(15)


@pytest.mark.parametrize("handler", [_swallow, _exit])
def test_a_signal_is_noticed_beside_the_handler_of_a_library(stop: Stop, handler: Any) -> None:
    ours = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped), stop.lend():
        signal.signal(signal.SIGTERM, handler)
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.has_arrived and stop.requested.wait(10)
    assert signal.getsignal(signal.SIGTERM) == ours
    assert signal.set_wakeup_fd(-1) == -1


def test_without_a_signal_a_library_only_borrows(stop: Stop) -> None:
    ours = signal.getsignal(signal.SIGTERM)
    with stop.lend():
        signal.signal(signal.SIGTERM, _swallow)
    assert not stop.has_arrived and signal.getsignal(signal.SIGTERM) == ours
    with pytest.raises(ValueError, match="its own"), stop.lend():
        raise ValueError("its own")
    with pytest.raises(Stopped):
        os.kill(os.getpid(), signal.SIGTERM)
