"""Measures what Ray costs the map step, and what a second worker brings.

`python -m benchmarks.engine [--json FILE]`: the real job detects in the demo's frames, in one process and in a local
Ray with one worker and more. On a machine with several GPUs each worker has one of them. Without, each has one core,
which it shares with everything else that the machine does.

Rates are those between the first and the last part of a run, so that no start counts. The scaling efficiency is the
rate of all workers, divided by their number and by the rate of one process.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from demo import fetch
from job import limits
from tests.conftest import DEMO_YAML, ROOT, clean_environment
from tests.e2e.test_kills import content

_SECONDS_BETWEEN_LOOKS = 0.1
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_NAMES_OF_WORKERS = (b"ray::Worker", b"ray::IDLE", b"default_worker.py")  # before and after they have their actor


@dataclass
class Watched:
    """The processes below one of them.

    Attributes:
        cpu_seconds: CPU time of each kind: the job, its workers, and Ray's own processes.
        ray_bytes: Most memory of Ray's own processes at one time (proportional set size).
        history: Time, and CPU seconds of Ray's own processes until then.
    """

    cpu_seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    ray_bytes: int = 0
    history: list[tuple[float, float]] = field(default_factory=list)

    def count_ray_seconds(self, start: float, end: float) -> float:
        """Returns the CPU seconds of Ray's own processes between two times."""
        before, after = (max(seconds for at, seconds in self.history if at <= limit) for limit in (start, end))
        return after - before


class Watch:
    """Watches the processes below one of them until it is told to stop."""

    def __init__(self, pid: int) -> None:
        self._pid, self._stop = pid, threading.Event()
        self._cpu_seconds: dict[int, tuple[str, float]] = {}
        self._ray_bytes = 0
        self._history: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self) -> Watched:
        """Stops, and returns what was seen."""
        self._stop.set()
        self._thread.join()
        watched = Watched(ray_bytes=self._ray_bytes, history=self._history)
        for kind, seconds in self._cpu_seconds.values():
            watched.cpu_seconds[kind] += seconds
        return watched

    def _run(self) -> None:
        for number in itertools.count():
            looks_at_memory = number % 20 == 0  # it takes the kernel some time
            total = 0
            for pid in self._find_processes():
                try:
                    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                    if fields[0] == "Z":  # it has ended, and has no name any more
                        continue
                    kind = self._kind(pid)
                    self._cpu_seconds[pid] = kind, (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
                    if looks_at_memory and kind == "Ray":
                        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                        total += int(re.findall(r"^Pss: +(\d+)", rollup, re.MULTILINE)[0]) << 10
                except (OSError, IndexError):  # it has just ended
                    continue
            self._ray_bytes = max(self._ray_bytes, total)
            of_ray = sum(seconds for kind, seconds in self._cpu_seconds.values() if kind == "Ray")
            self._history.append((time.time(), of_ray))
            if self._stop.wait(_SECONDS_BETWEEN_LOOKS):
                return

    def _find_processes(self) -> set[int]:
        parents = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
        found = {self._pid}
        while below := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= below
        return found

    def _kind(self, pid: int) -> str:
        if pid == self._pid:
            return "job"
        if self._cpu_seconds.get(pid, ("", 0.0))[0] == "workers":  # it may have lost its name at its end
            return "workers"
        name = Path(f"/proc/{pid}/cmdline").read_bytes()
        return "workers" if any(part in name for part in _NAMES_OF_WORKERS) else "Ray"


@dataclass(frozen=True)
class Run:
    """One run of the map step.

    Attributes:
        start_seconds: Until Ray was up; 0 without it.
        images_per_second: Rate between the first and the last part.
        watched: Its processes.
        ray_seconds_per_part: CPU time of Ray's own processes while a part is made.
        parts: The content of its parts.
    """

    start_seconds: float
    images_per_second: float
    watched: Watched
    ray_seconds_per_part: float
    parts: dict[str, bytes]


def run(output: Path, part_size: int, **variables: Any) -> Run:
    """Runs the map step on the demo's frames."""
    given = {
        "CORAL_INPUT": fetch.FRAMES,
        "CORAL_OUTPUT": output,
        "CORAL_MODEL": DEMO_YAML,
        "CORAL_WEIGHTS": fetch.WEIGHTS,
        "CORAL_PART_SIZE": part_size,
        "OMP_NUM_THREADS": 1,
        **variables,
    }
    process = subprocess.Popen(
        [sys.executable, "entrypoint.py", "predict"],
        cwd=ROOT, env=clean_environment(**given), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    watch = Watch(process.pid)
    _, text = process.communicate()
    watched = watch.finish()
    if process.returncode:
        raise SystemExit(f"The job ended with {process.returncode}:\n{text}")
    times = sorted(path.stat().st_mtime for path in output.glob("parts/part-*"))
    started = re.findall(r"Ray is up after ([\d.]+) s", text)
    return Run(
        start_seconds=float(started[0]) if started else 0.0,
        images_per_second=part_size * (len(times) - 1) / (times[-1] - times[0]),
        watched=watched,
        ray_seconds_per_part=watched.count_ray_seconds(times[0], times[-1]) / (len(times) - 1),
        parts={name: data for name, data in content(output).items() if name.startswith("parts/part-")},
    )


def measure(folder: Path, part_size: int, counts: list[int]) -> dict[str, Any]:
    """Measures one process, then workers; all parts must have the same bytes."""
    alone = run(folder / "none", part_size, CORAL_ENGINE="none")
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cores": limits.count_cores(),
        "part_size": part_size,
        "images_per_second": alone.images_per_second,
        "cpu_seconds": dict(alone.watched.cpu_seconds),
        "workers": {},
    }
    for count in counts:
        found = run(folder / str(count), part_size, CORAL_ENGINE="ray", CORAL_WORKERS=count)
        result["workers"][str(count)] = {
            "start_seconds": found.start_seconds,
            "images_per_second": found.images_per_second,
            "scaling_efficiency": found.images_per_second / count / alone.images_per_second,
            "cpu_seconds": dict(found.watched.cpu_seconds),
            "ray_cpu_seconds_per_part": found.ray_seconds_per_part,
            "ray_megabytes": found.watched.ray_bytes / 1e6,
            "same_parts": found.parts == alone.parts,
        }
    return result


def show(result: dict[str, Any]) -> str:
    """Renders the figures."""
    rows = [["one process", "", f"{result['images_per_second']:.1f}", "", *_cpu(result), "", "", ""]]
    for count, found in result["workers"].items():
        rows.append(
            [
                f"Ray, workers: {count}",
                f"{found['start_seconds']:.1f}",
                f"{found['images_per_second']:.1f}",
                f"{found['scaling_efficiency']:.2f}",
                *_cpu(found),
                f"{1000 * found['ray_cpu_seconds_per_part']:.0f}",
                f"{found['ray_megabytes']:.0f}",
                "yes" if found["same_parts"] else "NO",
            ]
        )
    headers = [
        "", "start, s", "images/s", "efficiency", "CPU s: job", "workers", "Ray itself", "Ray's CPU ms a part",
        "Ray's MB", "same parts",
    ]  # fmt: skip
    return f"{result['device']}, {result['cores']} cores\n\n{tabulate(rows, headers)}"


def _cpu(found: dict[str, Any]) -> list[str]:
    return [f"{found['cpu_seconds'].get(kind, 0.0):.1f}" for kind in ("job", "workers", "Ray")]


def main() -> None:
    """Measures, prints, and writes the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", type=Path, help="Also write the figures to this file.")
    arguments = parser.parse_args()
    fetch.fetch()
    gpus = torch.cuda.device_count()
    counts = [1, 2] if gpus < 2 else sorted({1, 2, gpus})
    with tempfile.TemporaryDirectory(prefix="coralpick-") as folder:
        result = measure(Path(folder), 16, counts)
    print(show(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
