"""Runs the job in forks of a process that has imported everything, and kills them where they have come to a state.

Each run is `job.cli.main` itself, in a process of its own that can be killed. Only the imports are shared, which take
longer than a selection.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from job.spool import Spool
from job.storage.base import Content
from tests.conftest import ROOT, clean_environment


@dataclass(frozen=True)
class Kill:
    """Where a run is killed.

    Attributes:
        key: Regular expression of the event: the file that is being written or deleted, or ``stage <name>``.
        moment: ``before`` or ``after`` the write, or in the ``middle`` of it (local folders only).
        count: The first such event, the second, and so on.
        name: Name of the signal.
        process_id: Process that is killed; None for the run itself.
    """

    key: str
    moment: str = "before"
    count: int = 1
    name: str = "SIGKILL"
    process_id: int | None = None


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: Exit code; negative for a signal.
        text: What it wrote to standard error and output.
        killed: Whether it came to the place where it was to be killed.
        events: What it wrote, deleted and entered, in this order.
    """

    code: int
    text: str
    killed: bool
    events: list[str]


class WarmJob:
    """The process with the imports."""

    def __init__(self, folder: Path) -> None:
        """Starts it; `folder` is for the texts of the runs."""
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.standins.warm_job"], cwd=ROOT, env=clean_environment(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> "WarmJob":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=60)

    def run(
        self, *arguments: str, kill: Kill | None = None, mend: Callable[[], None] | None = None, **variables: Any
    ) -> Ended:
        """Runs the job with arguments and variables to its end, or until it is killed.

        Args:
            arguments: Those of the command line.
            kill: Where it is killed.
            mend: Called once the kill has happened, in a thread, for a run that goes on after it.
            variables: Settings by name.
        """
        assert self._process.stdin and self._process.stdout
        path = self._folder / uuid.uuid4().hex
        mark = path.with_suffix(".killed")
        over = threading.Event()

        def wait_to_mend() -> None:
            while not over.wait(0.05):
                if mend and mark.exists():
                    mend()
                    return

        mender = threading.Thread(target=wait_to_mend)
        mender.start()
        named = {name: str(value) for name, value in variables.items()}
        order = {"arguments": arguments, "variables": named, "kill": kill and asdict(kill), "text": str(path)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        over.set()
        mender.join()
        events = path.with_suffix(".events").read_text().splitlines()
        return Ended(code, path.read_text(errors="replace"), mark.exists(), events)


def _serve() -> None:
    import job.detect.runner
    import job.lightly.upload
    import job.pipeline
    import job.preflight
    import job.publish.closing
    import job.storage.gcs_azure
    import job.storage.s3  # noqa: F401

    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            _run(order)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(order: dict[str, Any]) -> None:
    import job.cli

    descriptor = os.open(order["text"], os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ.update(order["variables"])
    _watch(Kill(**order["kill"]) if order["kill"] else None, Path(order["text"]))
    sys.argv = ["entrypoint.py", *order["arguments"]]
    code = job.cli.main()
    sys.stdout.flush()
    os._exit(code)


def _watch(kill: Kill | None, text: Path) -> None:
    """Makes the stores and the stages note what happens, and kill this process, or another one, at one event."""
    from job.progress import Now
    from job.storage.local import LocalFolder
    from job.storage.s3 import S3Folder

    lock, seen, events = threading.Lock(), 0, text.with_suffix(".events").open("a", buffering=1)

    def is_here(event: str) -> bool:
        nonlocal seen
        with lock:
            print(event, file=events)
            if kill is None or not re.search(kill.key, event):
                return False
            seen += 1
            return seen == kill.count

    def end() -> None:
        assert kill
        text.with_suffix(".killed").touch()
        os.kill(kill.process_id or os.getpid(), getattr(signal, kill.name))

    def wrap(kind: Any, name: str) -> None:
        method = getattr(kind, name)

        def wrapped(self: Any, key: str, *data: Content) -> None:
            here = is_here(f"stage {key}" if kind is Now else key)
            moment = kill.moment if kill and here else None
            if moment == "middle" and data:
                path = self._root / key
                path.parent.mkdir(parents=True, exist_ok=True)
                whole = b"".join(data[0].blocks()) if isinstance(data[0], Spool) else data[0]
                path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp").write_bytes(whole[: len(whole) // 2])
            if moment in ("before", "middle"):
                end()
            method(self, key, *data)
            if moment == "after":
                end()

        setattr(kind, name, wrapped)

    wrap(Now, "enter")
    for kind in (LocalFolder, S3Folder):
        for name in ("write", "delete"):
            wrap(kind, name)


if __name__ == "__main__":
    _serve()
