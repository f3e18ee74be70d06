"""The job as a process of its own: signals before the slow imports, and a certain exit code."""

import contextlib
import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line and ends the process with its exit code."""
    # The kernel ignores SIGTERM for process 1 of a container until a handler is set, which the job does only after its
    # slow imports.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    from job.cli import main as run

    code = run()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # the reader has closed the stream
            stream.flush()
    # All output is written. A normal exit is sometimes aborted by Arrow's threads, and the scheduler would get another
    # exit code.
    os._exit(code)
