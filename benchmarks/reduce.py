"""What `select` takes for pools of 10,000 to 1,000,000 images, and what the restart of a shard reads.

`python -m benchmarks.reduce [--json FILE]`. The parts are made up, but the job's own writer writes them as the map step
does with the default model: 80 classes, 8 boxes per image on average (Poisson), its feature, a thumbnail. The features
lie in 300 clusters. `entrypoint.py select` then runs in a process of its own, without an upload and without Lightly's
files. What each stage takes is what run.json says; seconds and processor time of the whole are those of the process.

A size is left out if, by the sizes before it, the machine has too little memory or disk for it.

For the restart of a shard, a wrapper counts the requests and bytes with which it finds what is done. Pools of three
sizes show how these grow with the images of the shard and with those of all shards; from that follows the restart of
one of 100 shards of 10,000,000 images.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tabulate import tabulate

from benchmarks import figures
from job import limits, parts
from job.detect import described
from job.images.thumbnails import make_thumbnail
from job.parts import Provenance, Row, listings
from job.parts.provenance import PROJECTION
from job.settings.resolve import resolve
from job.shards import Shard
from job.storage import Entry, Listing, Storage
from job.storage.base import Content, keep_all
from job.storage.local import LocalFolder

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
SIZES, PICKS = [10_000, 100_000, 1_000_000], [100, 1_000]
BOXES_PER_IMAGE, CLUSTERS, SPREAD, FEATURE, BOX_FEATURE = 8, 300, 0.3, 256, 64
WIDTH, HEIGHT, FILE_BYTES = 1280, 720, 400_000
NUM_THUMBNAILS = 200
KEYS_PER_LIST_REQUEST = 1000  # of S3
# Images and shards of the pools whose restart is measured, and of the one that follows from them.
RESTARTS, TARGET = [(20_000, 2), (40_000, 4), (40_000, 2)], (10_000_000, 100)
_MEMORY_SHARE = 0.8  # of the machine, that a size may need


def name_image(number: int) -> str:
    """The file name of an image, as recordings have them."""
    return f"camera{number % 16:02d}/2026-11-{number % 28 + 1:02d}/frame-{number:09d}.jpg"


def cut(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cuts items into lists of a size; the last one may be shorter."""
    rest = iter(items)
    while block := list(islice(rest, size)):
        yield block


def make_thumbnails() -> list[bytes]:
    """Thumbnails of smooth pictures with some noise, whose files are as large as those of photographs."""
    rng = np.random.default_rng(0)
    across, down = np.meshgrid(np.linspace(0, 6, WIDTH // 8), np.linspace(0, 4, HEIGHT // 8))
    waves = [np.sin(across * rng.uniform(1, 3) + down * rng.uniform(1, 3) + number) for number in range(NUM_THUMBNAILS)]
    noise = rng.normal(0, 12, (HEIGHT // 8, WIDTH // 8, 3))
    return [make_thumbnail((120 + 80 * wave[..., None] + noise).clip(0, 255).astype(np.uint8)) for wave in waves]


def describe_detector(output: Storage) -> Provenance:
    """What the parts of the default model are made with; the output then says so, too, as after the map step."""
    chosen = resolve({}, {"CORAL_INPUT": "/images", "CORAL_OUTPUT": output.uri})
    described.leave(chosen, output)
    found = described.describe(chosen, output)
    return Provenance(found.sha256, "0" * 64, "fp32", "softmax", found.class_names, projection=PROJECTION)


def make_rows(keys: Sequence[str], num_classes: int) -> Iterator[Row]:
    """Makes the rows of images, in their order."""
    rng = np.random.default_rng(0)
    thumbnails = make_thumbnails()
    centers = np.abs(rng.normal(size=(CLUSTERS, FEATURE))).astype(np.float32)
    of_box = np.random.default_rng(1)
    box_centers = of_box.normal(size=(num_classes, BOX_FEATURE)).astype(np.float32)
    for block in cut(enumerate(keys), 4096):
        counts = rng.poisson(BOXES_PER_IMAGE, len(block))
        total = int(counts.sum())
        corners = rng.random((total, 2), np.float32) * np.array([WIDTH - 280, HEIGHT - 220], np.float32)
        boxes = np.concatenate([corners, corners + 5 + 200 * rng.random((total, 2), np.float32)], 1)
        scores = (0.05 + 0.95 * rng.random(total, np.float32) ** 2).astype(np.float32)
        classes = rng.integers(0, num_classes, total).astype(np.int32)
        of_class = np.arange(total), classes
        probabilities = rng.gamma(0.1, 1, (total, num_classes + 1)).astype(np.float32) + np.float32(1e-4)
        probabilities[of_class] = 0
        probabilities *= ((1 - scores) / probabilities.sum(1))[:, None]
        probabilities[of_class] = scores
        halves = probabilities.astype(np.float16)
        spread = np.float32(SPREAD) * np.abs(rng.standard_normal((len(block), FEATURE), np.float32))
        of_boxes = (box_centers[classes] + of_box.standard_normal((total, BOX_FEATURE), np.float32)).astype(np.float16)
        features = (centers[rng.integers(0, CLUSTERS, len(block))] + spread).astype(np.float16)
        for (number, key), end, count, feature in zip(block, np.cumsum(counts), counts, features, strict=True):
            own = np.arange(end - count, end)[np.argsort(-scores[end - count : end])]
            yield Row(
                file_name=key,
                etag=f"{number:032x}",
                byte_size=FILE_BYTES,
                status="ok",
                width=WIDTH,
                height=HEIGHT,
                boxes=boxes[own],
                scores=scores[own],
                classes=classes[own],
                class_probabilities=halves[own],
                box_features=of_boxes[own],
                thumbnail=thumbnails[number % NUM_THUMBNAILS],
                feature=feature,
            )


def write_pool(folder: Path, count: int, num_shards: int = 1) -> None:
    """Writes parts and listings of so many images, as the map step leaves them."""
    output = LocalFolder(str(folder))
    provenance = describe_detector(output)
    keys = sorted(map(name_image, range(count)), key=str.encode)
    for index in range(num_shards):
        shard = Shard(index, num_shards)
        own = [key for key in keys if shard.owns(key)]
        for rows in cut(make_rows(own, len(provenance.class_names)), parts.choose_size(len(own))):
            parts.write(output, rows, provenance, shard)
        entries = (Entry(key, f"{number:032x}", FILE_BYTES) for number, key in enumerate(own))
        listings.finish(output, shard, Listing.from_entries(entries))


def run_in_child(function: str, *arguments: Any) -> Any:
    """Runs a function of this module in a new process, whose memory is its own, and returns its result."""
    request = json.dumps([function, *arguments])
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.reduce", "--child", request]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def remove_results(output: Path) -> None:
    """Removes all but the parts, so that every run writes all of its files."""
    for path in output.iterdir():
        if path.is_dir() and path.name != "parts":
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


def measure_select(folder: Path, count: int, num_picks: int) -> dict[str, Any]:
    """Runs `select` on the parts in a folder.

    Returns:
        `images`, `picks`, `seconds`, `cpu_seconds`, `peak_mb`, `written_mb`, and `stages`, with the same by stage.
    """
    (folder / "images").mkdir(exist_ok=True)  # the images themselves do not exist: the report shows thumbnails
    remove_results(folder / "out")
    variables = {
        "CORAL_INPUT": folder / "images",
        "CORAL_OUTPUT": folder / "out",
        "CORAL_N_SAMPLES": num_picks,
        "CORAL_LIGHTLY_PREDICTIONS": 0,
    }
    own = {name: value for name, value in os.environ.items() if not name.startswith(("CORAL_", "LIGHTLY_"))}
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "entrypoint.py"), "select"],
        env=own | {name: str(value) for name, value in variables.items()},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    run = json.loads((folder / "out" / "run.json").read_text())
    stages = {
        stage: {
            "seconds": run["seconds"][stage],
            "cpu_seconds": used["cpu_seconds"],
            "peak_mb": used["peak_memory_bytes"] / 1e6,
            "written_mb": used["written_bytes"] / 1e6,
        }
        for stage, used in run["resources"].items()
    }
    return {
        "images": count,
        "picks": num_picks,
        "seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mb": max(stage["peak_mb"] for stage in stages.values()),
        "written_mb": sum(stage["written_mb"] for stage in stages.values()),
        "stages": stages,
    }


class CountingFolder:
    """A folder that counts what a bucket would be asked for."""

    def __init__(self, folder: Storage) -> None:
        self.uri = folder.uri
        self.requests = self.bytes = 0
        self._folder, self._lock = folder, threading.Lock()

    def _count(self, num_bytes: int, requests: int = 1) -> None:
        with self._lock:
            self.requests, self.bytes = self.requests + requests, self.bytes + num_bytes

    def list(self, prefix: str = "", keep: Callable[[str], bool] = keep_all) -> Iterator[Entry]:
        """Lists files; one request per thousand of them."""
        entries = list(self._folder.list(prefix))
        self._count(0, 1 + len(entries) // KEYS_PER_LIST_REQUEST)
        yield from (entry for entry in entries if keep(entry.key))

    def read(self, key: str, etag: str | None = None) -> bytes:
        """Reads a whole file."""
        data = self._folder.read(key, etag)
        self._count(len(data))
        return data

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Reads a part of a file."""
        data = self._folder.read_range(key, start, length)
        self._count(len(data))
        return data

    def stat(self, key: str) -> Entry | None:
        """Returns the entry of one file."""
        self._count(0)
        return self._folder.stat(key)

    def write(self, key: str, data: Content) -> None:
        """Writes a file."""
        self._count(len(data))
        self._folder.write(key, data)

    def delete(self, key: str) -> None:
        """Deletes a file."""
        self._count(0)
        self._folder.delete(key)


def count_restart(folder: str, num_shards: int) -> dict[str, int]:
    """Counts what the first shard asks for, when it starts again, to find its finished images."""
    output = CountingFolder(LocalFolder(folder))
    found = parts.find_done(output, describe_detector(LocalFolder(folder)), Shard(0, num_shards))
    return {"requests": output.requests, "bytes": output.bytes, "found": len(found)}


def measure_restarts() -> dict[str, Any]:
    """Measures some restarts, and computes that of one of 100 shards of 10,000,000 images.

    Requests and bytes are a constant, plus so many for each image of the shard, plus so many for each of all images.
    """
    rows = []
    for count, num_shards in RESTARTS:
        with tempfile.TemporaryDirectory() as folder:
            run_in_child("write_pool", folder, count, num_shards)
            rows.append({"images": count, "shards": num_shards, **run_in_child("count_restart", folder, num_shards)})
    terms = np.array([[1, count / num_shards, count] for count, num_shards in RESTARTS])
    count, num_shards = TARGET
    computed: dict[str, Any] = {"images": count, "shards": num_shards}
    for name in ("requests", "bytes"):
        solution = np.linalg.solve(terms, [row[name] for row in rows])
        computed[name] = max(0, round(float(solution @ [1, count / num_shards, count])))
    return {"measured": rows, "computed": computed}


def measure(sizes: Sequence[int], picks: Sequence[int]) -> dict[str, Any]:
    """Measures all sizes, the smallest first, and the restarts."""
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for count in sorted(sizes):
        if reason := find_obstacle(rows, count):
            left_out[str(count)] = reason
            print(f"{count:,} images: left out, {reason}", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            run_in_child("write_pool", str(folder / "out"), count)
            part_bytes = sum(file.stat().st_size for file in (folder / "out" / "parts").rglob("*.parquet"))
            for num_picks in picks:
                rows.append(measure_select(folder, count, num_picks) | {"part_bytes": part_bytes})
                print(describe_row(rows[-1]), file=sys.stderr)
    return {"cores": limits.count_cores(), "rows": rows, "left_out": left_out, "restart": measure_restarts()}


def find_obstacle(rows: Sequence[dict[str, Any]], count: int) -> str | None:
    """Why a size cannot be measured on this machine, by the sizes before it; None if it can."""
    if not rows:
        return None
    last = rows[-1]
    first = next(row for row in rows if row["picks"] == last["picks"])  # more picks need more memory, too
    scale = count / last["images"]
    per_image = (last["peak_mb"] - first["peak_mb"]) / max(1, last["images"] - first["images"])
    memory_mb = last["peak_mb"] + max(0, per_image) * (count - last["images"])
    if memory_mb * 1e6 > _MEMORY_SHARE * limits.memory_limit():
        return f"it would need {memory_mb / 1e3:.0f} GB of memory"
    disk_bytes = scale * (last["part_bytes"] + last["written_mb"] * 1e6)
    if disk_bytes > shutil.disk_usage(tempfile.gettempdir()).free:
        return f"it would need {disk_bytes / 1e9:.0f} GB in {tempfile.gettempdir()}"
    return None


def summarize(result: dict[str, Any]) -> dict[str, Any]:
    """The figures that are compared between versions, from the first number of picks."""
    rows = [row for row in result["rows"] if row["picks"] == result["rows"][0]["picks"]]
    first, last = rows[0], rows[-1]
    before = rows[-2] if len(rows) > 1 else last
    million = next((row for row in rows if row["images"] == 1_000_000), None)
    by_size = max(1, last["images"] - first["images"])
    return {
        "bytes_per_image": (last["peak_mb"] - first["peak_mb"]) * 1e6 / by_size,
        "cpu_ms_per_image": 1e3 * last["cpu_seconds"] / last["images"],
        "peak_mb_1m": million["peak_mb"] if million else None,
        "slope": figures.compute_slopes(before, last),
        "restart_requests": result["restart"]["computed"]["requests"],
    }


def describe_row(row: dict[str, Any]) -> str:
    """One line for a person who waits."""
    return (
        f"{row['images']:,} images, {row['picks']} picks: {row['seconds']:.0f} s, {row['cpu_seconds']:.0f} CPU s, "
        f"{row['peak_mb']:,.0f} MB of memory, {row['written_mb']:,.0f} MB written"
    )


def print_result(result: dict[str, Any]) -> None:
    """Prints the table and the figures."""
    print(figures.render_reduce(result))
    keys = ("bytes_per_image", "cpu_ms_per_image", "peak_mb_1m", "restart_requests")
    print("\n" + tabulate([[key, result[key]] for key in keys]))


def main() -> None:
    """Measures, prints the table, and writes the figures if --json is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="numbers of images")
    parser.add_argument("--picks", type=int, nargs="+", default=PICKS, metavar="K", help="numbers of picks")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, *rest = arguments.child
        children: dict[str, Callable[..., Any]] = {
            "write_pool": lambda folder, *numbers: write_pool(Path(folder), *numbers),
            "count_restart": count_restart,
        }
        print(json.dumps(children[name](*rest)))
        return
    result = measure(arguments.sizes, arguments.picks)
    result |= summarize(result)
    print_result(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
