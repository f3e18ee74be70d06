"""How much faster the upload to Lightly is than one call after the other.

2,000 samples with thumbnails and predictions, made of the demo's frames, go to a local stand-in of the platform, a
process of its own, that takes 20 ms for each answer. Prints a table; `--json FILE` writes the figures.
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
from job.parts import pool
from job.secret import Secret
from job.settings import Settings
from job.shards import Shard
from job.stopping import Stop
from job.storage import Entry, Storage, open_folder
from tests.standins.lightly_server import TOKEN

LATENCY = 0.020
COPIES = 8


@contextlib.contextmanager
def served() -> Iterator[str]:
    """Runs the server, and gives its address."""
    command = [sys.executable, "-m", "tests.standins.lightly_server", "--latency", str(LATENCY)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def make_pool(folder: Path) -> pool.Pool:
    """Detects on the demo's frames, and copies the rows under other names."""
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
    return pool.load(output, entries)


def seconds(output: Storage, everything: pool.Pool, simultaneous: int) -> float:
    """How long an upload takes with so many calls at once."""
    with served() as server:
        platform = Platform(Transport(Secret(TOKEN), server, threading.Event()))
        dataset = platform.create_dataset("benchmark")
        start = time.monotonic()
        problems = images.upload(
            platform, dataset, output, everything, None, "thumbnails", max_failed=0.0, simultaneous=simultaneous
        )
        taken = time.monotonic() - start
        if problems or len(platform.file_names(dataset)) != len(everything.file_names):
            raise SettingsError("not all images were uploaded")
        return taken


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        everything = make_pool(Path(folder))
        output = open_folder(str(Path(folder) / "many"))
        parallel = min(seconds(output, everything, SIMULTANEOUS) for _ in range(2))
        serial = seconds(output, everything, 1)
    count = len(everything.file_names)
    rows = [
        ["one call after the other", 1, serial, count / serial, 1.0],
        ["the job's upload", SIMULTANEOUS, parallel, count / parallel, serial / parallel],
    ]
    print(
        f"{count} samples with thumbnails and {int(everything.num_boxes.sum())} boxes; {LATENCY * 1000:g} ms a call\n"
    )
    print(tabulate(rows, ["way", "at once", "seconds", "samples/s", "times as fast"], floatfmt=".1f"))
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
