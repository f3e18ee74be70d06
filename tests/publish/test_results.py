"""What `publish` does when it is disturbed."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from job.context import Run
from job.errors import Stopped
from job.parts.owned import OwnedOutput
from job.publish.results import _open_input
from job.stopping import Stop
from job.storage.local import LocalFolder
from tests.conftest import settings


@pytest.fixture
def stop() -> Iterator[Stop]:
    """A request to stop that heeds the signals of this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    made = Stop()
    made.listen()
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_stop_while_the_input_is_opened_is_no_unreadable_input(tmp_path: Path, stop: Stop) -> None:
    os.mkfifo(tmp_path / "list.txt")  # nobody writes to it, so to open it takes until the signal
    run = Run(settings(input=str(tmp_path / "list.txt")), stop, OwnedOutput(LocalFolder(str(tmp_path / "out"))))
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Stopped):
        _open_input(run)
