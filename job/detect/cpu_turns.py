"""Sharing of the CPU cores: a model on the CPU and the threads that prepare its images would compete for them."""

import contextlib
import threading
from collections.abc import Iterator


class Turns:
    """Holds back the preparing threads while a model runs on the CPU.

    The model uses all cores in steps that end together, so a thread that takes one core for a moment delays all others.
    Taking turns costs only the work itself: the threads proceed while the model waits for an image.
    """

    def __init__(self, on_cpu: bool) -> None:
        """Sets whether the model runs on the CPU; if not, no thread waits."""
        self._on_cpu = on_cpu
        self._free = threading.Event()
        if not on_cpu:
            self._free.set()

    @contextlib.contextmanager
    def release_cores(self) -> Iterator[None]:
        """Lets the threads use the cores while the model does not run."""
        self._free.set()
        try:
            yield
        finally:
            if self._on_cpu:
                self._free.clear()

    def wait(self) -> None:
        """Waits until the cores are free."""
        self._free.wait()

    def close(self) -> None:
        """Releases the cores for good."""
        self._on_cpu = False
        self._free.set()
