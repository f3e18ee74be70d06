"""How far the job is: a bar on a terminal, a log line now and then elsewhere."""

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts the items of one stage; a context manager.

    Args:
        stage: What is being done, for people.
        total: Number of items.
        unit: What the items are.
    """

    def __init__(self, stage: str, total: int, unit: str) -> None:
        self._stage, self._total, self._unit = stage, total, unit
        self._done = 0
        self._start = self._last = time.monotonic()
        self._bar = tqdm(
            total=total, desc=stage, unit=unit, unit_scale=unit == "byte", disable=not sys.stderr.isatty(), leave=True
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def add(self, count: int = 1) -> None:
        """Counts finished items."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._bar.disable and (now - self._last >= _SECONDS_BETWEEN_LINES or self._done == self._total):
            self._last = now
            rate = self._done / max(now - self._start, 1e-9)
            left = (self._total - self._done) / rate
            logger.info(
                "%s: %d of %d %ss, %.1f %ss/s, %.0f s left",
                *(self._stage, self._done, self._total, self._unit, rate, self._unit, left),
                extra={"stage": self._stage, "done": self._done, "total": self._total, "rate": rate, "eta_s": left},
            )
