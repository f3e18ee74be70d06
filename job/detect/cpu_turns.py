"""Who has the cores: on a CPU, a model and the threads that prepare its images would fight for them."""

import contextlib
import threading
from collections.abc import Iterator


class Turns:
    """Keeps preparing threads back while a model runs on the CPU.

    The model uses all cores in steps that end together, so a thread that takes one of them for a moment holds up all.
    Taking turns costs the work alone: the threads go on when the model waits for an image.
    """

    def __init__(self, on_cpu: bool) -> None:
        """Takes whether the model runs on the CPU; otherwise nobody waits."""
        self._on_cpu = on_cpu
        self._free = threading.Event()
        if not on_cpu:
            self._free.set()

    @contextlib.contextmanager
    def model_waits(self) -> Iterator[None]:
        """A time in which the model does not run."""
        self._free.set()
        try:
            yield
        finally:
            if self._on_cpu:
                self._free.clear()

    def wait(self) -> None:
        """Waits for the cores."""
        self._free.wait()

    def close(self) -> None:
        """Lets everybody go on."""
        self._on_cpu = False
        self._free.set()
