"""Lists 1,000,000 keys and prints the peak memory; `benchmarks.storage` runs it as a process of its own.

It imports nothing but the job's storage, so that the memory is that of the job.
"""

import json
import time
from pathlib import Path

from job.storage import Listing, open_folder

MILLION = 1_000_000


def peak_mb() -> float:
    """Peak memory of this process in MB; getrusage would include the memory of the parent process."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Lists the keys, and prints the figures."""
    folder = open_folder("s3://stub/pool")
    next(folder.list())
    before = peak_mb()
    start, start_cpu = time.perf_counter(), time.process_time()
    assert len(Listing.from_entries(folder.list())) == MILLION
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    print(json.dumps({"peak_mb": peak_mb(), "before_mb": before, "seconds": seconds, "cpu_seconds": cpu_seconds}))


if __name__ == "__main__":
    main()
