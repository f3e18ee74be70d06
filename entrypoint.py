"""The door to the job: `python entrypoint.py --help`."""

import contextlib
import os
import signal
import sys

# As process 1 of a container, the job would not notice SIGTERM until it listens for it, some imports later.
signal.signal(signal.SIGTERM, lambda *_: os._exit(143))

from job.cli import main  # noqa: E402

if __name__ == "__main__":
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it any more
            stream.flush()
    # Everything is written. Arrow's threads now and then abort a process that goes on to take itself apart, and then
    # the scheduler would see another exit code.
    os._exit(code)
