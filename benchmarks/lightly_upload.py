"""Measures the speed-up of the upload to Lightly compared with sequential calls.

Uploads 2,000 samples with thumbnails and predictions, made from the demo's frames, to a local stand-in for the
platform. The stand-in runs in a separate process and delays each answer by 20 ms. Prints a table; `--json FILE` writes
the figures.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from tabulate import tabulate

from demo import fetch
from demo.run import ROOT
from job import parts, pipeline
from job.errors import SettingsError
from job.lightly import images
from job.lightly.api import Platform
from job.lightly.transport import SIMULTANEOUS, Transport
from job.parts.pool import Pool, load
from job.secret import Secret
from job.settings import Settings
from job.shards import Shard
from job.stopping import Stop
from job.storage import Entry, Storage, open_folder
from tests.standins.lightly_server import TOKEN

LATENCY_SECONDS = 0.020
COPIES = 8


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """Runs the server, and yields its address."""
    command = [sys.executable, "-m", "tests.standins.lightly_server", "--latency", str(LATENCY_SECONDS)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def make_pool(folder: Path) -> Pool:
    """Runs detection on the demo's frames, and copies the rows under other names."""
    fetch.fetch()
    once = Settings(
        input=str(fetch.FRAMES), output=str(folder / "once"),
        model=str(ROOT / "demo" / "yolov3-tiny.yaml"), weights=str(fetch.WEIGHTS),
    )  # fmt: skip
    pipeline.predict(once, Stop(), Shard(0, 1))
    (part,) = parts.read(open_folder(once.output))
    output = open_folder(str(folder / "many"))
    entries = []
    for copy in range(COPIES):
        keys = [f"{copy}/{key}" for key in part.table["key"].to_pylist()]
        table = part.table.set_column(0, part.table.schema.field("key"), pa.array(keys))
        parts.write_table(output, table, part.provenance)
        entries += [Entry(key, etag, 0) for key, etag in zip(keys, table["etag"].to_pylist(), strict=True)]
    return load(output, entries)


def measure(output: Storage, pool: Pool, simultaneous: int) -> float:
    """Measures the seconds of an upload with the given number of simultaneous calls."""
    with serve() as server:
        platform = Platform(Transport(Secret(TOKEN), server, threading.Event()))
        dataset = platform.create_dataset("benchmark")
        start = time.monotonic()
        problems = images.upload(
            platform, dataset, output, pool, None, "thumbnails", max_failed=0.0, simultaneous=simultaneous
        )
        seconds = time.monotonic() - start
        if problems or len(platform.file_names(dataset)) != len(pool.file_names):
            raise SettingsError("Not all images were uploaded.")
        return seconds


def main() -> None:
    """Measures the upload, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pool = make_pool(Path(folder))
        output = open_folder(str(Path(folder) / "many"))
        parallel = min(measure(output, pool, SIMULTANEOUS) for _ in range(2))
        serial = measure(output, pool, 1)
    count = len(pool.file_names)
    rows = [
        ["sequential calls", 1, serial, count / serial, 1.0],
        ["the job's upload", SIMULTANEOUS, parallel, count / parallel, serial / parallel],
    ]
    boxes = int(pool.num_boxes.sum())
    print(f"{count} samples with thumbnails and {boxes} boxes; {LATENCY_SECONDS * 1000:g} ms per call\n")
    print(tabulate(rows, ["method", "simultaneous calls", "seconds", "samples/s", "speed-up"], floatfmt=".1f"))
    if arguments.json:
        figures = {
            "speedup_over_serial": serial / parallel,
            "serial_s": serial,
            "parallel_s": parallel,
            "samples": count,
        }
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
