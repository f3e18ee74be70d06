"""Progress of the job: a bar on a terminal, log lines elsewhere. `job.publish.status` writes it to a file."""

import logging
import sys
import threading
import time
from types import TracebackType

from tqdm import tqdm

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0


class Now:
    """The current state of this process. There is one instance, `now`, since a process runs one job.

    Attributes:
        stage: Name of the current stage, as in run.json. Between stages, name of the last one.
        progress: Progress of the stage; None if the stage counts nothing.
        failures: Number of images so far that cannot be used.
        changed: Set when a stage begins, begins to count, or ends.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets an earlier job of this process, and the threads that may still wait for its changes."""
        self.changed = threading.Event()
        self.stage: str | None = None
        self.progress: Progress | None = None
        self.failures = 0

    def enter(self, stage: str) -> None:
        """Begins a stage."""
        self.stage, self.progress = stage, None
        self.changed.set()

    def leave(self, outer: str | None) -> None:
        """Ends a stage, and returns to the stage around it, if any."""
        if outer:
            self.enter(outer)
        self.changed.set()


class Progress:
    """Counts the items of one stage; a context manager.

    Args:
        label: Name of the work, as it is shown.
        total: Number of items.
        unit: Name of one item, such as ``image``.
    """

    def __init__(self, label: str, total: int, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done = 0
        self._start = self._last = time.monotonic()
        self._end: float | None = None
        self._bar = tqdm(
            total=total, desc=label, unit=unit, unit_scale=unit == "byte", disable=not sys.stderr.isatty(), leave=True
        )

    def __enter__(self) -> "Progress":
        now.progress = self
        now.changed.set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end = time.monotonic()
        self._bar.close()

    def add(self, count: int = 1) -> None:
        """Adds finished items."""
        if not count:  # a second line about the same state would say nothing
            return
        self._done += count
        self._bar.update(count)
        time_now = time.monotonic()
        if self._bar.disable and (time_now - self._last >= _SECONDS_BETWEEN_LINES or self._done == self._total):
            self._last = time_now
            counts = self.counts()
            logger.info(
                "%s: %d of %d %ss, %.1f %ss/s, %.0f s left",
                self._label,
                self._done,
                self._total,
                self._unit,
                counts["rate"],
                self._unit,
                counts["eta_s"],
                extra={"stage": now.stage or self._label, **counts},
            )

    def counts(self) -> dict[str, float | None]:
        """Returns done, total, rate (items per second) and eta_s (seconds left), as in log lines and status.json."""
        rate = self._done / max((self._end or time.monotonic()) - self._start, 1e-9)
        left = max(0, self._total - self._done) / rate if rate else None
        return {"done": self._done, "total": self._total, "rate": rate, "eta_s": left}


now = Now()
