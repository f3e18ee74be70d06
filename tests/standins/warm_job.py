"""Runs the job in forks of a process that has imported everything, and kills them where they write a file.

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
        key: Regular expression of the file that is being written or deleted.
        moment: ``before`` or ``after`` the write, or in the ``middle`` of it (local folders only).
        count: The first such file, the second, and so on.
        name: Name of the signal.
    """

    key: str
    moment: str = "before"
    count: int = 1
    name: str = "SIGKILL"


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: Exit code; negative for a signal.
        text: What it wrote to standard error and output.
        killed: Whether it came to the place where it was to be killed.
    """

    code: int
    text: str
    killed: bool


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

    def run(self, *arguments: str, kill: Kill | None = None, **variables: Any) -> Ended:
        """Runs the job with arguments and variables to its end, or until it is killed."""
        assert self._process.stdin and self._process.stdout
        path = self._folder / uuid.uuid4().hex
        named = {name: str(value) for name, value in variables.items()}
        order = {"arguments": arguments, "variables": named, "kill": kill and asdict(kill), "text": str(path)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return Ended(code, path.read_text(errors="replace"), path.with_suffix(".killed").exists())


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
    if order["kill"]:
        _arm(Kill(**order["kill"]), Path(order["text"]).with_suffix(".killed"))
    sys.argv = ["entrypoint.py", *order["arguments"]]
    code = job.cli.main()
    sys.stdout.flush()
    os._exit(code)


def _arm(kill: Kill, mark: Path) -> None:
    """Makes the stores kill this process at one of their writes or deletions."""
    from job.storage.local import LocalFolder
    from job.storage.s3 import S3Folder

    lock, seen = threading.Lock(), 0

    def is_here(key: str) -> bool:
        nonlocal seen
        with lock:
            seen += bool(re.search(kill.key, key))
            return seen == kill.count and bool(re.search(kill.key, key))

    def end() -> None:
        mark.touch()
        os.kill(os.getpid(), getattr(signal, kill.name))

    def wrap(kind: Any, name: str) -> None:
        method = getattr(kind, name)

        def wrapped(self: Any, key: str, *data: Content) -> None:
            here = is_here(key)
            if here and kill.moment == "middle" and data:
                path = self._root / key
                path.parent.mkdir(parents=True, exist_ok=True)
                whole = b"".join(data[0].blocks()) if isinstance(data[0], Spool) else data[0]
                path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp").write_bytes(whole[: len(whole) // 2])
            if here and kill.moment != "after":
                end()
            method(self, key, *data)
            if here and kill.moment == "after":
                end()

        setattr(kind, name, wrapped)

    for kind in (LocalFolder, S3Folder):
        for name in ("write", "delete"):
            wrap(kind, name)


if __name__ == "__main__":
    _serve()
