"""Decoders cannot be interrupted, so one whose step takes too long is left behind in its thread."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from job.errors import Stopped
from job.images import ImageError
from job.retry import run_in_thread
from job.stopping import MESSAGE

T = TypeVar("T")

# A step is to open a file, to seek in it, or to take a packet or its frames: a frame of 8K takes less than a second.
MAX_SECONDS = 120.0
_POLL_SECONDS = 0.2


class Late(ImageError):
    """A step took too long."""


class Steps:
    """Times the step that a decoder is in. Reads of its file do not count, since they have deadlines of their own."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._reading_since: float | None = None
        self._is_left = False

    def begin(self) -> None:
        """Begins the next step.

        Raises:
            Late: If nobody waits for the decoder any more.
        """
        if self._is_left:
            raise Late("nobody waits for it")
        self._begun = time.monotonic()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Does not count the time within the context.

        Raises:
            Late: If nobody waits for the decoder any more: a step may read a whole file.
        """
        if self._is_left:
            raise Late("nobody waits for it")
        self._reading_since = start = time.monotonic()
        try:
            yield
        finally:
            self._begun += time.monotonic() - start
            self._reading_since = None

    def run(self, function: Callable[[], T], stop: threading.Event) -> T:
        """Runs a function that decodes, in a thread that is left behind when a step takes too long.

        Args:
            function: The function; it calls `begin` before each step.
            stop: When set, the thread is left behind, too.

        Raises:
            Late: If a step took too long.
            Stopped: If the job was asked to stop.
        """
        self.begin()
        result = run_in_thread(function)
        while True:
            try:
                return result.result(timeout=_POLL_SECONDS)
            except TimeoutError:
                if result.done():  # finished just now, or the function itself raised this error
                    return result.result()
            self._is_left = stop.is_set() or self._seconds > MAX_SECONDS
            if stop.is_set():
                raise Stopped(MESSAGE)
            if self._is_left:
                raise Late(f"decoding its video takes longer than {MAX_SECONDS:g} seconds")

    @property
    def _seconds(self) -> float:
        return (self._reading_since or time.monotonic()) - self._begun
