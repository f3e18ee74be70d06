"""How far the job is: a bar on a terminal, log lines elsewhere. `job.publish.status` writes it to a file."""

import logging
import sys
import threading
import time
from types import TracebackType

from tqdm import tqdm

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0


class Now:
    """What this process is at. It does one job, so there is one of these.

    Attributes:
        stage: Name of the stage, as in run.json; of the last one, where none is going on.
        progress: Of this stage, where it counts something.
        failures: Images, so far, that cannot be used.
        changed: Set when a stage begins, begins to count, or ends.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets an earlier job, and whoever may still wait for it."""
        self.changed = threading.Event()
        self.stage: str | None = None
        self.progress: Progress | None = None
        self.failures = 0

    def enter(self, stage: str) -> None:
        """A stage begins."""
        self.stage, self.progress = stage, None
        self.changed.set()

    def leave(self, outer: str | None) -> None:
        """The stage ends, and the one that it lies in, if any, goes on."""
        if outer:
            self.enter(outer)
        self.changed.set()


class Progress:
    """Counts the items of one stage; a context manager.

    Args:
        label: What is being done, for people.
        total: Number of items.
        unit: What the items are.
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
        """Counts finished items."""
        self._done += count
        self._bar.update(count)
        at = time.monotonic()
        if self._bar.disable and (at - self._last >= _SECONDS_BETWEEN_LINES or self._done == self._total):
            self._last = at
            counts = self.counts()
            logger.info(
                "%s: %d of %d %ss, %.1f %ss/s, %.0f s left",
                *(self._label, self._done, self._total, self._unit, counts["rate"], self._unit, counts["eta_s"]),
                extra={"stage": now.stage or self._label, **counts},
            )

    def counts(self) -> dict[str, float | None]:
        """Done, total, rate (a second) and eta_s (seconds left), by the names that log lines and status.json have."""
        rate = self._done / max((self._end or time.monotonic()) - self._start, 1e-9)
        left = max(0, self._total - self._done) / rate if rate else None
        return {"done": self._done, "total": self._total, "rate": rate, "eta_s": left}


now = Now()
