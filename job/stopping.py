"""SIGTERM and SIGINT: finish the current work, save it, and exit."""

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from job.errors import Stopped

MESSAGE = "Stopped on request: finished work is saved. Run the same command again to resume."


class Stop:
    """A request to stop.

    Outside `defer`, it ends the job at once. Little is lost: files are written whole or not at all, and a new start
    quickly repeats the rest.

    Attributes:
        requested: Set when a signal has arrived.
    """

    def __init__(self) -> None:
        self.requested = threading.Event()
        self._deferred = False
        self._arrived = False
        self._signals: queue.SimpleQueue[None] = queue.SimpleQueue()

    def listen(self) -> None:
        """Installs the signal handlers; a second Ctrl-C interrupts the job anywhere."""
        threading.Thread(target=self._announce, name="stop", daemon=True).start()
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    @contextlib.contextmanager
    def defer(self) -> Iterator[threading.Event]:
        """Lets the work within the context end by itself once `requested` is set. Contexts may be within each other.

        Raises:
            Stopped: If a request has arrived; raised at the end of the outer context.
        """
        outer, self._deferred = self._deferred, True
        try:
            yield self.requested
        finally:
            self._deferred = outer
        if self.has_arrived and not outer:
            raise Stopped(MESSAGE)

    @contextlib.contextmanager
    def lend(self) -> Iterator[None]:
        """Lets a library set a handler of its own within the context, and listens again after it.

        What such a handler raises is lost if it interrupts code that ignores errors, such as the hooks of a fork. So
        the signals are also noted by the interpreter itself.

        Raises:
            Stopped: If a request has arrived, which may have raised SystemExit.
        """
        noted, notes = os.pipe()
        os.set_blocking(notes, False)
        before = signal.set_wakeup_fd(notes, warn_on_full_buffer=False)
        try:
            yield
        except SystemExit:
            raise Stopped(MESSAGE) from None
        finally:
            signal.set_wakeup_fd(before)
            os.close(notes)
            with os.fdopen(noted, "rb") as file:
                self._arrived |= signal.SIGTERM in file.read()
            if self._arrived:
                self._signals.put(None)
            self.listen()
        if self.has_arrived:
            raise Stopped(MESSAGE)

    @property
    def has_arrived(self) -> bool:
        """Whether a signal has arrived, which `requested` says a moment later."""
        return self._arrived or self.requested.is_set()

    def _announce(self) -> None:
        self._signals.get()
        self.requested.set()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # More of them at once would call the handler within itself, up to the limit of the interpreter.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        already, self._arrived = self._arrived, True
        # The lock of an event may be held by what the signal interrupts, or by an earlier signal's handler, so the job
        # would wait for itself. A simple queue may be used within itself, so another thread sets the event.
        self._signals.put(None)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Only once: a second request would interrupt the exit that the first one began.
        if not (self._deferred or already):
            raise Stopped(MESSAGE)
