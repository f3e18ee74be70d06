"""Measures listing and reading of a bucket compared with boto3 and obstore, and the memory of a long listing.

`python -m benchmarks.storage [--json FILE]`: a SeaweedFS server on this machine has 5,000 objects, 2,000 of them of
30 kB. The clients take turns: each lists all objects and reads the 2,000, with the same check (the MD5 of the content
against the ETag). The result is the median over the turns. Then a stub server lists 1,000,000 keys to a separate
process, whose peak memory is measured.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import obstore
from botocore.config import Config
from obstore.store import S3Store
from tabulate import tabulate

from benchmarks.list_million import MILLION
from job.storage import Entry, Listing, open_folder
from tests.standins.servers import ADMIN, BUCKET, SeaweedFS

NUM_LISTED, NUM_READ, SIZE_BYTES = 5000, 2000, 30_000
TURNS = 5


def check(data: Any, etag: str) -> None:
    """Checks the content of an object, in the same way for all clients."""
    assert hashlib.md5(data, usedforsecurity=False).hexdigest() == etag.strip('"')


def read_in_threads(num_threads: int, read: Callable[[Entry], Any], entries: Iterable[Entry]) -> None:
    """Reads all entries in the given number of threads."""
    with ThreadPoolExecutor(num_threads) as executor:
        for _ in executor.map(read, entries):
            pass


def clients(endpoint: str) -> dict[str, tuple[Callable[[], int], Callable[[list[Entry]], None]]]:
    """The functions of each client that list the bucket and read entries."""
    s3 = boto3.client("s3", config=Config(max_pool_connections=32))
    store = S3Store(BUCKET, endpoint=endpoint, client_options={"allow_http": True, "timeout": timedelta(seconds=30)})
    folder = open_folder(f"s3://{BUCKET}")

    def coralpick_lists() -> int:
        return len(Listing.from_entries(folder.list()))

    def coralpick_reads(entries: list[Entry]) -> None:
        read_in_threads(16, lambda entry: folder.read(entry.key, entry.etag), entries)

    def boto3_lists() -> int:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return len(sorted(item["Key"].encode() for page in pages for item in page["Contents"]))

    def boto3_reads(entries: list[Entry]) -> None:
        def read(entry: Entry) -> None:
            answer = s3.get_object(Bucket=BUCKET, Key=entry.key)
            check(answer["Body"].read(), answer["ETag"])

        read_in_threads(32, read, entries)

    def obstore_lists() -> int:
        return len(sorted(item["path"].encode() for page in obstore.list(store, chunk_size=1000) for item in page))

    def obstore_reads(entries: list[Entry]) -> None:
        def read(entry: Entry) -> None:
            result = obstore.get(store, entry.key)
            check(result.bytes(), str(result.meta["e_tag"]))

        read_in_threads(8, read, entries)

    return {
        "coralpick": (coralpick_lists, coralpick_reads),
        "boto3 get_object, 32 threads": (boto3_lists, boto3_reads),
        "obstore, 8 threads": (obstore_lists, obstore_reads),
    }


def measure(turns: int) -> dict[str, dict[str, float]]:
    """Measures the median seconds of each client for listing and reading."""
    with tempfile.TemporaryDirectory() as folder:
        server = SeaweedFS(Path(folder))
        server.start()
        try:
            os.environ.update(ADMIN | {"AWS_ENDPOINT_URL": server.endpoint})
            bucket = open_folder(f"s3://{BUCKET}")
            names = [f"frames/{number:05d}.jpg" for number in range(NUM_LISTED)]
            contents = [os.urandom(SIZE_BYTES if number < NUM_READ else 100) for number in range(NUM_LISTED)]
            with ThreadPoolExecutor(8) as executor:
                list(executor.map(bucket.write, names, contents))
            entries = [entry for entry in Listing.from_entries(bucket.list()) if entry.size == SIZE_BYTES]
            assert len(entries) == NUM_READ
            seconds: dict[str, dict[str, list[float]]] = {}
            for _ in range(turns):
                for name, (lists, reads) in clients(server.endpoint).items():
                    own = seconds.setdefault(name, {"list": [], "read": []})
                    start = time.perf_counter()
                    assert lists() == NUM_LISTED
                    own["list"].append(time.perf_counter() - start)
                    start = time.perf_counter()
                    reads(entries)
                    own["read"].append(time.perf_counter() - start)
        finally:
            server.kill()
    return {
        name: {action: statistics.median(values) for action, values in own.items()} for name, own in seconds.items()
    }


class Stub(BaseHTTPRequestHandler):
    """Answers listings of 1,000,000 keys as S3 does, and no other requests."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *values: Any) -> None:
        """Logs nothing."""

    def do_GET(self) -> None:
        """Sends the next 1,000 keys of the folder, or one key that is asked about. The first key is an empty object."""
        query = parse_qs(urlsplit(self.path).query)
        start = int(query.get("continuation-token", ["0"])[0])
        keys = [
            (n, f"pool/camera-{n // 50_000:02d}/2026-11-{n % 50_000 // 2_000 + 1:02d}/{n:07d}.jpg")
            for n in range(start, start + 1000)
        ]
        rows = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2026-11-25T00:00:00.000Z</LastModified><ETag>&quot;{n:032x}&quot;</ETag>"
            f"<Size>{n}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for n, key in keys
            if key.startswith(query["prefix"][0])
        )
        more = start + 1000 < MILLION and query["prefix"][0] == "pool/"
        token = f"<NextContinuationToken>{start + 1000}</NextContinuationToken>" if more else ""
        body = (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>stub</Name>'
            f"<Prefix>pool/</Prefix><KeyCount>1000</KeyCount><MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{rows}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def measure_million() -> dict[str, float]:
    """Measures the peak memory and the seconds of a process that lists 1,000,000 keys."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    variables = ADMIN | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_address[1]}"}
    command = [sys.executable, "-m", "benchmarks.list_million"]
    done = subprocess.run(command, env=os.environ | variables, check=True, capture_output=True, text=True)
    server.shutdown()
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Measures all clients, prints a table, and writes the figures if `--json` is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--turns", type=int, default=TURNS)
    arguments = parser.parse_args()
    seconds = measure(arguments.turns)
    coralpick, others = seconds["coralpick"], [own for name, own in seconds.items() if name != "coralpick"]
    print(tabulate([[name, f"{own['list']:.2f} s", f"{own['read']:.2f} s"] for name, own in seconds.items()],
                   ["client", f"list {NUM_LISTED}", f"read {NUM_READ} x {SIZE_BYTES // 1000} kB"]))  # fmt: skip
    figures = {
        "read_over_fastest": coralpick["read"] / min(own["read"] for own in others),
        "list_over_fastest": coralpick["list"] / min(own["list"] for own in others),
    }
    long = measure_million()
    figures |= {"list_million_peak_mb": long["peak_mb"], "list_million_s": long["seconds"]}
    print(f"\ntime of coralpick relative to the fastest other client: reading {figures['read_over_fastest']:.2f}, "
          f"listing {figures['list_over_fastest']:.2f}")  # fmt: skip
    print(f"listing {MILLION:,} keys: {long['seconds']:.0f} s ({long['cpu_seconds']:.0f} s of CPU), "
          f"peak memory {long['peak_mb']:.0f} MB ({long['before_mb']:.0f} MB before the listing)")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(figures | {"seconds": seconds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
