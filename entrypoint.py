"""Process entry point of the job: `python entrypoint.py --help`."""

import contextlib
import os
import signal
import sys

# The kernel ignores SIGTERM for process 1 of a container until a handler is set, which the job does only after its
# slow imports.
signal.signal(signal.SIGTERM, lambda *_: os._exit(143))

from job.cli import main  # noqa: E402

if __name__ == "__main__":
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # the reader has closed the stream
            stream.flush()
    # All output is written. A normal exit is sometimes aborted by Arrow's threads, and the scheduler would get another
    # exit code.
    os._exit(code)
