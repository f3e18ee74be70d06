"""SIGTERM and SIGINT: finish what is at hand, save it, and go."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from job.errors import Stopped

MESSAGE = "Stopped as asked: what is done is saved, and the same command goes on from there."


class Stop:
    """A request to stop.

    Everywhere but in `deferred` it ends the job at once, which loses nothing that a new start does not make again
    quickly, since files are written whole or not at all.

    Attributes:
        requested: Set once the request has come.
    """

    def __init__(self) -> None:
        self.requested = threading.Event()
        self._deferred = False

    def listen(self) -> None:
        """Installs the signal handlers; a second Ctrl-C interrupts whatever runs."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    @contextlib.contextmanager
    def defer(self) -> Iterator[threading.Event]:
        """A stretch of work that looks at `requested` itself."""
        self._deferred = True
        try:
            yield self.requested
        finally:
            self._deferred = False
        if self.requested.is_set():
            raise Stopped(MESSAGE)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        already = self.requested.is_set()
        self.requested.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Only once: a second request would break into the leaving that the first one began.
        if not (self._deferred or already):
            raise Stopped(MESSAGE)
