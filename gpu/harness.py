"""Runs checks one after the other, each so isolated that its crash, its hang or its broken GPU costs no other check.

The checks run in a second process. It is replaced after every failure, since an illegal access to GPU memory breaks all
later calls of its process. Results are written to a file after each check.
"""

import contextlib
import faulthandler
import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from tabulate import tabulate

Status = Literal["passed", "failed", "skipped"]

# A check may take this many times its usual time, and these seconds in addition, before it counts as hanging.
_PATIENCE, _GRACE_SECONDS = 3, 20
_MAX_LOG_CHARACTERS = 4000


@dataclass(frozen=True)
class Bench:
    """Where the checks run.

    Attributes:
        device: ``cuda``, or ``cpu`` in a rehearsal.
        toy: Whether sizes are small, to rehearse.
        folder: Folder for the files of all checks, in which they find what earlier checks left.
    """

    device: str
    toy: bool
    folder: Path

    def output(self, name: str) -> Path:
        """Returns the folder for results of this run."""
        return self.folder / "out" / name

    def size(self, full: int, toy: int) -> int:
        """Returns the size to use: the full one, or the one for a rehearsal."""
        return toy if self.toy else full


@dataclass
class Finding:
    """What a check found.

    Attributes:
        summary: One line for the table.
        figures: Everything that was measured; JSON values.
        problems: What is wrong; the check has failed if there is any.
    """

    summary: str
    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Check:
    """A check.

    Attributes:
        name: Its name, unique in its list.
        seconds: Seconds that it takes on an H100; it is skipped if fewer are left.
        run: The check itself.
    """

    name: str
    seconds: float
    run: Callable[[Bench], Finding]


@dataclass
class Result:
    """How a check ended; the attributes of `Finding`, and those of its end."""

    status: Status
    seconds: float
    summary: str
    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    traceback: str = ""


# The process, the connection to it, and the name and the usual seconds of each check.
_Worker = tuple[multiprocessing.process.BaseProcess, Connection, list[tuple[str, float]]]


class Runner:
    """Runs a list of checks within a number of seconds.

    Args:
        module: Name of the module whose `list_checks` returns the checks. Only the second process imports it.
        bench: Where the checks run.
        seconds: Seconds for all checks; one that does not fit any more is skipped.
        output: Folder for the results and the log.
        title: Name of the files in it.
    """

    def __init__(self, module: str, bench: Bench, *, seconds: float, output: Path, title: str) -> None:
        self._module, self._bench, self._seconds, self._title = module, bench, seconds, title
        self._file, self._log = output / f"{title}.json", output / f"{title}.log"
        self._start = time.monotonic()
        self._worker: _Worker | None = None
        self.results: dict[str, Result] = {}

    def run(self, only: Collection[str] | None = None) -> bool:
        """Runs the checks, and returns whether none failed.

        Args:
            only: Names of the checks to run; None to run all.
        """
        self._log.write_text("")
        self._say("importing ...")
        for name, seconds in self._need_worker()[2]:
            if only and name not in only:
                continue
            self._say(f"{name} ...")
            left = max(0, self._left())
            if seconds > left and not self._bench.toy:
                result = Result("skipped", 0, f"no time: it takes {seconds:.0f} s, {left:.0f} s are left")
            else:
                result = self._run_one(name, seconds)
            self.results[name] = result
            self._write()
            self._say(f"{name}: {result.status} in {result.seconds:.1f} s: {result.summary}")
            for problem in result.problems:
                self._say(f"  {problem}")
        self._end_worker()
        print("\n" + self._table(), flush=True)
        return all(result.status != "failed" for result in self.results.values())

    def _left(self) -> float:
        return self._seconds - (time.monotonic() - self._start)

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:6.1f} s] {text}", flush=True)

    def _run_one(self, name: str, seconds: float) -> Result:
        position = self._log.stat().st_size
        process, connection, _ = self._need_worker()
        started = time.monotonic()
        limit = max(10.0, min(_PATIENCE * seconds + _GRACE_SECONDS, self._left() + _GRACE_SECONDS))
        if self._bench.toy:
            limit = 300.0
        connection.send((name, limit))
        try:
            if connection.poll(limit):
                result: Result = connection.recv()
            else:
                result = Result("failed", 0, f"it did not end within {limit:.0f} s")
        except (EOFError, OSError):
            process.join(10)
            result = Result("failed", 0, f"the process ended with {process.exitcode}")
        result.seconds = time.monotonic() - started
        if result.status == "failed":
            self._end_worker(kill=True)
            with self._log.open(errors="replace") as file:
                file.seek(position)
                result.traceback = (result.traceback + "\n" + file.read()[-_MAX_LOG_CHARACTERS:]).strip()
        return result

    def _need_worker(self) -> _Worker:
        if self._worker is None:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self._module, self._bench, str(self._log)))
            process.start()
            theirs.close()
            try:
                names: list[tuple[str, float]] = ours.recv()
            except EOFError:
                raise RuntimeError(f"{self._module} cannot be imported:\n{self._log.read_text()}") from None
            self._worker = process, ours, names
        return self._worker

    def _end_worker(self, *, kill: bool = False) -> None:
        if self._worker is None:
            return
        process, connection, _ = self._worker
        self._worker = None
        connection.close()
        if not kill:
            process.join(10)
        # Also ends the processes that a check has started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join(10)

    def _write(self) -> None:
        text = json.dumps({name: asdict(result) for name, result in self.results.items()}, indent=1)
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text(text + "\n")
        temporary.replace(self._file)

    def _table(self) -> str:
        rows = [[name, result.status, f"{result.seconds:.1f}", result.summary] for name, result in self.results.items()]
        table: str = tabulate(
            rows, [self._title, "", "s", ""], disable_numparse=True, maxcolwidths=[None, None, None, 100]
        )
        return table


def _serve(connection: Connection, module: str, bench: Bench, log: str) -> None:
    """Sends the names of the checks, and runs those whose names arrive, until the connection is closed."""
    os.setsid()
    with Path(log).open("a") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    faulthandler.enable()
    checks: dict[str, Check] = {check.name: check for check in importlib.import_module(module).list_checks()}
    connection.send([(check.name, check.seconds) for check in checks.values()])
    while True:
        try:
            name, limit = connection.recv()
        except EOFError:
            return
        print(f"\n== {name}", flush=True)
        faulthandler.dump_traceback_later(max(1.0, limit - 2))  # shows where a check hangs
        try:
            finding = checks[name].run(bench)
            status: Status = "failed" if finding.problems else "passed"
            result = Result(status, 0, finding.summary, finding.figures, finding.problems)
        except Skipped as reason:
            result = Result("skipped", 0, str(reason))
        except BaseException as error:  # whatever it is, the next check runs
            result = Result("failed", 0, f"{type(error).__name__}: {error}"[:300], traceback=traceback.format_exc())
        faulthandler.cancel_dump_traceback_later()
        connection.send(result)


class Skipped(Exception):
    """A check that cannot run here; the message says why."""
