"""A signal may arrive anywhere, also while a thread looks whether one has arrived."""

import signal
import subprocess
import sys

import pytest

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
