"""What each stage of this process takes: seconds, processor time, memory and bytes written."""

import contextlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"  # in clear_refs; see proc_pid_clear_refs(5)
START = "start"
OTHER = "other"


@dataclass
class StageUsage:
    """What one stage took, without the stages within it.

    Attributes:
        seconds: Duration.
        cpu_seconds: Processor time of all threads.
        peak_bytes: Highest resident memory of the process.
        written_bytes: Size of the files that were written to the output, by whichever thread.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    written_bytes: int = 0


class Usage:
    """Accounts for all the time of this process: what is in no stage counts as `OTHER`, before the first as `START`.

    There is one instance, `usage`, since a process runs one job. Where /proc does not let the process reset its peak,
    that of a stage is the peak up to its end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.restart()

    def restart(self) -> None:
        """Forgets an earlier job of this process."""
        self._stages: dict[str, StageUsage] = {}
        self._stage = START
        self._written = 0
        self._reset()

    def enter(self, stage: str) -> None:
        """Begins a stage; the stage around it pauses."""
        self._settle()
        self._stage = stage
        self._stages.setdefault(stage, StageUsage())

    def leave(self, outer: str | None) -> None:
        """Ends a stage, and returns to the stage around it, if any."""
        self.enter(outer or OTHER)

    def add_written(self, count: int) -> None:
        """Adds bytes that were written to the output; from any thread."""
        with self._lock:
            self._written += count

    def by_stage(self) -> dict[str, StageUsage]:
        """Returns what each stage has taken until now, in the order in which they began."""
        self._settle()
        return self._stages

    def _settle(self) -> None:
        used = self._stages.setdefault(self._stage, StageUsage())
        used.seconds += time.monotonic() - self._begun
        used.cpu_seconds += time.process_time() - self._begun_cpu
        used.peak_bytes = max(used.peak_bytes, _read_peak())
        with self._lock:
            used.written_bytes += self._written
            self._written = 0
        self._reset()

    def _reset(self) -> None:
        self._begun, self._begun_cpu = time.monotonic(), time.process_time()
        with contextlib.suppress(OSError):  # such as a read-only /proc
            (_PROCESS / "clear_refs").write_text(_RESET_PEAK)


def _read_peak() -> int:
    """Returns the highest resident memory in bytes since the last reset; 0 where /proc does not say."""
    with contextlib.suppress(OSError):
        for line in (_PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


usage = Usage()
