"""Speed and memory of the greedy selection, compared with lightly-mundig and with one pass per pick.

`python -m benchmarks.select [--json FILE]`. Every call runs in its own process, which makes the data from a seed, tries
the call on a few rows, and then measures it: seconds, CPU seconds of all threads, and the rise of resident memory. The
methods take turns and the best turn counts; a method that takes more than 10 seconds has one turn. All begin with row 0
as labelled, and their picks are compared with those of a greedy by differences in float64. The roof is one read of the
data per pick, at the memory bandwidth that is measured first; data that fit into the processor's cache can be read
faster. Embeddings are unit vectors in 300 clusters of Zipf-distributed sizes, with 12 dimensions of variation inside a
cluster, plus noise.

`coral_objects` is measured beside coral, with 8 boxes per image on average. The feature of a box is 64 numbers in half
precision in a temporary file, as in the job. The picks of the smaller case are compared with the definition in float64.

From disk, `ParquetPoints` reads a Parquet file that is still in the system's cache, and memory is that of the whole
process. On a GPU, the data are in a tensor on the device before the clock starts.
"""

import argparse
import contextlib
import ctypes
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tabulate import tabulate

from job.select import Objects, ParquetPoints, select
from job.select.engine import SCORE_FLOOR, find_scale
from job.select.objects import FLOOR, MAX_DISTANCE, CenteredPoints
from job.select.points import Array, Vectors, to_unit_length
from job.spool import SpooledRows

# (n, d, k) in an array; in a file; on a GPU, where the first is measured and the picks of the second are compared with
# those from an array; with objects, where the picks of the first are compared with the definition.
Case = tuple[int, int, int]
CASES: list[Case] = [(100_000, 128, 100), (100_000, 128, 1000), (1_000_000, 32, 100)]
DISK: list[Case] = [(10_000_000, 32, 100), (1_000_000, 32, 100)]
OBJECTS: list[Case] = [(100_000, 128, 100), (1_000_000, 32, 100)]
GPU: list[Case] = [(10_000_000, 128, 100), (100_000, 128, 1000)]
ROOT = Path(__file__).resolve().parent.parent
TURNS, SLOW_SECONDS = 3, 10.0
CLUSTERS, VARIATION, NOISE = 300, 0.7, 0.3
BOXES_PER_IMAGE, BOX_DIMENSION, BOX_CLUSTERS, BOX_NOISE, STRENGTH = 8, 64, 80, 0.5, 0.5
ROWS_PER_BLOCK, WARM_UP_ROWS = 1 << 16, 20_000
PEERS = {
    "mundig": "lightly-mundig",
    "sklearn": "scikit-learn, one pass per pick",
    "gemv": "numpy GEMV, one pass per pick",
}
NAMES = {"ours": "coralpick", **PEERS, "naive": "float64, by differences"}
NO_GPU = "there is no GPU"
ONLY_CORESET = "measured only with coreset, which makes the same passes"
OTHER_RULE = "it combines diversity and weights by another rule, over all picks together: only times can be compared"


def make_blocks(count: int, dimension: int) -> Iterator[Vectors]:
    """Yields the embeddings block by block, the same in every process."""
    rng = np.random.default_rng(0)
    centers = to_unit_length(rng.normal(size=(CLUSTERS, dimension)))
    bases = (rng.normal(size=(CLUSTERS, 12, dimension)) * VARIATION / np.sqrt(12 * dimension)).astype(np.float32)
    share = 1 / np.arange(1, CLUSTERS + 1)
    for start in range(0, count, ROWS_PER_BLOCK):
        size = min(ROWS_PER_BLOCK, count - start)
        cluster = rng.choice(CLUSTERS, size, p=share / share.sum())
        block = rng.standard_normal((size, dimension), np.float32) * np.float32(NOISE / np.sqrt(dimension))
        inside = rng.standard_normal((size, 12), np.float32)
        order = np.argsort(cluster, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1):
            block[rows] += centers[cluster[rows[0]]] + inside[rows] @ bases[cluster[rows[0]]]
        yield to_unit_length(block)


def make_objects(count: int) -> Objects:
    """Makes the boxes of so many images, the same in every process; their features are in a temporary file."""
    rng = np.random.default_rng(2)
    counts = rng.poisson(BOXES_PER_IMAGE, count)
    centers = rng.standard_normal((BOX_CLUSTERS, BOX_DIMENSION), np.float32)
    features = SpooledRows((int(counts.sum()), BOX_DIMENSION), np.float16)
    for start in range(0, len(features), ROWS_PER_BLOCK):
        size = min(ROWS_PER_BLOCK, len(features) - start)
        noise = rng.standard_normal((size, BOX_DIMENSION), np.float32) * np.float32(BOX_NOISE)
        features.write(start, centers[rng.integers(0, BOX_CLUSTERS, size)] + noise)
    return Objects(counts, CenteredPoints(features), rng.random(len(features)), STRENGTH)


def write_file(path: str, count: int, dimension: int) -> None:
    """Writes the embeddings to an uncompressed Parquet file, block by block."""
    schema = pa.schema({"embedding": pa.list_(pa.float32(), dimension)})
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
        for block in make_blocks(count, dimension):
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), dimension)
            file.write_table(pa.table({"embedding": vectors}))


def coral_weights(scores: Array, strategy: str) -> Array | None:
    """The factor by which coral multiplies distances; None for the other strategies."""
    return SCORE_FLOOR + (1 - SCORE_FLOOR) * scores if strategy == "coral" else None


def run_coralpick(points: Any, scores: Array, count: int, strategy: str) -> list[int]:
    """Picks by the job's selection."""
    return [pick.index for pick in select(points, scores, count, strategy=strategy, labelled=[0]).picks]


def run_objects(objects: Objects, points: Any, scores: Array, count: int, strategy: str) -> list[int]:
    """Picks by the job's selection with objects."""
    options: dict[str, Any] = {"objects": objects, "score_strength": objects.strength, "labelled": [0]}
    return [pick.index for pick in select(points, None, count, strategy="coral_objects", **options).picks]


def run_objects_naive(objects: Objects, points: Any, scores: Array, count: int, strategy: str) -> list[int]:
    """Picks by the definition of coral_objects, in float64."""
    starts = np.concatenate([[0], np.cumsum(objects.counts)])
    images = np.repeat(np.arange(len(points)), objects.counts)
    weights = objects.weights / find_scale(objects.sum_weights())
    blocks = [to_unit_length(block).astype(np.float64) for _, block in objects.points.blocks()]
    boxes, near = np.concatenate(blocks), np.full(len(weights), MAX_DISTANCE)
    vectors, closest, center, picks = to_unit_length(points).astype(np.float64), np.full(len(points), 2.0), 0, [0]
    while len(picks) <= count:
        closest = np.minimum(closest, measure_distances(vectors, vectors[center]))
        for box in range(starts[center], starts[center + 1]):
            near = np.minimum(near, measure_distances(boxes, boxes[box]))
        of_objects = FLOOR + (1 - FLOOR) * np.bincount(images, weights * near, len(points))
        values = closest * of_objects**objects.strength
        values[picks] = -1
        center = int(values.argmax())
        picks.append(center)
    return picks[1:]


def measure_distances(vectors: Array, center: Array) -> Array:
    """(n,) distances of vectors to a center, by differences."""
    result = np.empty(len(vectors))
    for start in range(0, len(vectors), 2048):  # so few rows stay in the cache
        difference = vectors[start : start + 2048] - center
        result[start : start + 2048] = np.einsum("ij,ij->i", difference, difference)
    return np.sqrt(result)


def run_mundig(points: Any, scores: Array, count: int, strategy: str) -> list[int]:
    """Picks by lightly-mundig, whose count includes the labelled image."""
    from lightly_mundig import Selection

    engine = Selection()
    engine.add_diversifying_strategy(points, 1.0)
    if (weights := coral_weights(scores, strategy)) is not None:
        engine.add_weighting_strategy(weights, 1.0)
    return list(engine.run_selection([0], len(points), count + 1))[1:]


def pick_by_passes(distances: Callable[[int], Any], count: int, weights: Array | None = None) -> list[int]:
    """Picks greedily, with one pass over the data per pick.

    Args:
        distances: Gives the distances of all rows to one row, squared or not.
        count: Number of picks.
        weights: (n,) factors of the distances; None for 1 everywhere.
    """
    closest, center, picks = distances(0), 0, list[int]()
    while True:
        closest[center] = -1
        center = int((closest if weights is None else closest * weights).argmax())
        picks.append(center)
        if len(picks) == count:
            return picks
        np.minimum(closest, distances(center), out=closest)


def run_sklearn(points: Any, scores: Array, count: int, strategy: str) -> list[int]:
    """Picks by pairwise distances, as k-center is often written."""
    from sklearn.metrics import pairwise_distances  # type: ignore[import-untyped,unused-ignore]

    return pick_by_passes(lambda row: pairwise_distances(points, points[row : row + 1])[:, 0], count)


def run_gemv(points: Any, scores: Array, count: int, strategy: str) -> list[int]:
    """Picks by squared distances from products in single precision."""
    square = np.einsum("ij,ij->i", points, points)

    def distances(row: int) -> Vectors:
        result: Vectors = points @ points[row]
        result *= -2
        result += square
        result += square[row]
        return result

    return pick_by_passes(distances, count)


def run_naive(points: Any, scores: Array, count: int, strategy: str) -> list[int]:
    """Picks by the definition, in float64."""
    vectors = to_unit_length(points).astype(np.float64)

    def distances(row: int) -> Array:
        return measure_distances(vectors, vectors[row])

    return pick_by_passes(distances, count, coral_weights(scores, strategy))


RUNS = {
    "disk": run_coralpick,
    "ours": run_coralpick,
    "mundig": run_mundig,
    "sklearn": run_sklearn,
    "gemv": run_gemv,
    "naive": run_naive,
}
OF_OBJECTS = {"objects": run_objects, "objects_naive": run_objects_naive}


def work_in_child(
    method: str, count: int, dimension: int, picks: int, strategy: str, turns: int, path: str
) -> dict[str, Any]:
    """The work of a child process: makes the data and measures one method, or writes the data to a file.

    Returns:
        `s` and `cpu_s`; `mb`, the rise of memory; `peak_mb` of the whole process; `picks`.
    """
    if method == "write":
        write_file(path, count, dimension)
        return {}
    scores = np.random.default_rng(1).random(count)
    if method == "gpu":
        return work_on_gpu(count, dimension, scores, picks, strategy, turns)
    run, warm_up = (make_run(method, size) for size in (count, min(count, WARM_UP_ROWS)))
    if method == "disk":
        points: Any = ParquetPoints(Path(path))
    else:
        points = fill(np.empty((count, dimension), np.float32), lambda block: block)
        warm_up(points[:WARM_UP_ROWS], scores[:WARM_UP_ROWS], 2, strategy)  # imports, starts threads, makes buffers
    # Freed memory goes back to the system; otherwise a call could use it again and seem to need none.
    ctypes.CDLL(None).malloc_trim(0)
    before = resident_mb("VmRSS")
    if method != "disk":
        with contextlib.suppress(OSError):  # if that is forbidden, the earlier peak may count as the call's
            Path("/proc/self/clear_refs").write_text("5")
    result = clock(lambda: run(points, scores, picks, strategy))
    return {**result, "mb": resident_mb("VmHWM") - before, "peak_mb": resident_mb("VmHWM")}


def make_run(method: str, count: int) -> Callable[[Any, Array, int, str], list[int]]:
    """Returns what a method runs on so many images, with their boxes if it needs them."""
    return partial(OF_OBJECTS[method], make_objects(count)) if method in OF_OBJECTS else RUNS[method]


def work_on_gpu(count: int, dimension: int, scores: Array, picks: int, strategy: str, turns: int) -> dict[str, Any]:
    """The work of a child process on the GPU; memory and roof are those of the GPU."""
    import torch

    points = fill(torch.empty((count, dimension), device="cuda"), torch.from_numpy)
    run_coralpick(points[:WARM_UP_ROWS], scores[:WARM_UP_ROWS], 2, strategy)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    taken = [clock(lambda: run_coralpick(points, scores, picks, strategy)) for _ in range(turns)]
    extra = (torch.cuda.max_memory_allocated() - before) / 2**20
    read = min(clock(lambda: points.sum().item())["s"] for _ in range(5))
    result = min(taken, key=lambda timing: float(timing["s"]))
    return {**result, "extra_mb": extra, "roof_s": picks * read, "device": torch.cuda.get_device_name()}


def fill(target: Any, convert: Callable[[Vectors], Any]) -> Any:
    """Fills an array or a tensor (n, d) with the embeddings, and returns it."""
    for number, block in enumerate(make_blocks(*target.shape)):
        target[number * ROWS_PER_BLOCK : number * ROWS_PER_BLOCK + len(block)] = convert(block)
    return target


def clock(call: Callable[[], Any]) -> dict[str, Any]:
    """Measures the seconds of a call and the CPU seconds of all threads; keeps its picks."""
    start, cpu = perf_counter(), process_time()
    picks = call()
    return {"s": perf_counter() - start, "cpu_s": process_time() - cpu, "picks": picks}


def resident_mb(field: str) -> float:
    """Resident memory of this process in megabytes: now (VmRSS) or at its peak (VmHWM)."""
    return int(Path("/proc/self/status").read_text().partition(f"{field}:")[2].split()[0]) / 1024


def run_child(method: str, case: Case, strategy: str = "", turns: int = 1, path: str = "") -> dict[str, Any]:
    """Runs `work_in_child` in a new process."""
    request = json.dumps([method, *case, strategy, turns, path])
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.select", "--child", request]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure_bandwidth() -> float:
    """Bytes per second when all threads read 1 GiB: the better of torch and numpy."""
    import torch

    data = torch.ones(1 << 28)
    pieces = np.array_split(data.numpy(), torch.get_num_threads())
    with ThreadPoolExecutor(len(pieces)) as executor:
        reads: list[Callable[[], Any]] = [data.sum, lambda: list(executor.map(np.max, pieces))]
        seconds: float = min(clock(read)["s"] for read in reads for _ in range(5))
    return data.nbytes / seconds


def measure_in_memory(case: Case, strategy: str, turns: int, speed: float) -> dict[str, Any]:
    """Measures a case; a figure that was not measured has a reason instead."""
    best = {"naive": run_child("naive", case, strategy)}
    for turn in range(turns):
        for method in ["ours", "mundig"] if strategy == "coral" else ["ours", *PEERS]:
            if turn == 0 or best[method]["s"] <= SLOW_SECONDS:
                result = run_child(method, case, strategy)
                best[method] = min(best.get(method, result), result, key=lambda timing: float(timing["s"]))
    figures = case_figures(case, strategy) | {"roof_s": 4 * math.prod(case) / speed}
    figures["same_picks"] = best["ours"]["picks"] == best["naive"]["picks"]
    for method in NAMES:
        figures |= method_figures(method, best.get(method), best["naive"]["picks"], strategy)
    return figures | {"extra_mb": figures.pop("ours_extra_mb")}


def method_figures(method: str, result: dict[str, Any] | None, truth: list[int], strategy: str) -> dict[str, Any]:
    """Figures of a method: time, memory, correct picks before the first wrong one, and the share of correct picks."""
    figures: dict[str, Any] = {"s": None, "cpu_s": None, "extra_mb": None, "leading": None, "equal": None}
    if result is None:
        figures["reason"] = ONLY_CORESET
    else:
        figures |= {"s": result["s"], "cpu_s": result["cpu_s"], "extra_mb": result["mb"]}
        if method == "mundig" and strategy == "coral":
            figures["equal_reason"] = OTHER_RULE
        else:
            same = [one == other for one, other in zip(result["picks"], truth, strict=True)]
            figures |= {
                "leading": [*same, False].index(False),
                "equal": len({*result["picks"]} & {*truth}) / len(truth),
            }
    return {f"{method}_{name}": value for name, value in figures.items()}


def case_figures(case: Case, strategy: str) -> dict[str, Any]:
    """The case and the strategy that figures belong to."""
    return {**dict(zip("ndk", case, strict=True)), "strategy": strategy}


def measure_from_disk(cases: list[Case]) -> list[dict[str, Any]]:
    """Measures Parquet files: seconds, peak memory, and whether the picks are those from an array."""
    rows = []
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "embeddings.parquet"
            run_child("write", case, path=str(path))
            for strategy in ("coral", "coreset"):
                result, expected = run_child("disk", case, strategy, path=str(path)), run_child("ours", case, strategy)
                row = case_figures(case, strategy) | {name: result[name] for name in ("s", "cpu_s", "peak_mb")}
                same = result["picks"] == expected["picks"]
                rows.append(row | {"file_mb": path.stat().st_size / 2**20, "same_picks": same})
    return rows


def measure_with_objects(cases: list[Case], turns: int) -> list[dict[str, Any]]:
    """Measures coral_objects beside coral, and whether the picks of the first case are those of the definition."""
    rows = []
    for number, case in enumerate(cases):
        best: dict[str, dict[str, Any]] = {}
        for turn in range(turns):
            for method in ("ours", "objects"):
                if turn == 0 or best[method]["s"] <= SLOW_SECONDS:
                    result = run_child(method, case, "coral")
                    best[method] = min(best.get(method, result), result, key=lambda timing: float(timing["s"]))
        row = case_figures(case, "coral_objects") | {name: best["objects"][name] for name in ("s", "cpu_s", "mb")}
        row |= {f"coral_{name}": best["ours"][name] for name in ("s", "cpu_s", "mb")}
        if number == 0:
            row["same_picks"] = best["objects"]["picks"] == run_child("objects_naive", case)["picks"]
        rows.append(row)
    return rows


def measure_on_gpu(cases: list[Case], turns: int) -> dict[str, Any]:
    """Measures a GPU: seconds, memory, and whether the picks of a smaller case are those from an array."""
    result = run_child("gpu", cases[0], "coreset", turns)
    same = run_child("gpu", cases[1], "coreset")["picks"] == run_child("ours", cases[1], "coreset")["picks"]
    kept = {name: value for name, value in result.items() if name != "picks"}
    return case_figures(cases[0], "coreset") | kept | {"same_picks": same}


def measure(turns: int, shrink: int, disk: bool) -> dict[str, Any]:
    """Measures everything."""
    import torch

    groups = ([(n // shrink, d, k) for n, d, k in group] for group in (CASES, DISK, GPU, OBJECTS))
    cases, files, tensors, with_objects = groups
    speed = measure_bandwidth()
    figures: dict[str, Any] = {"bandwidth_gb_s": speed / 1e9, "threads": torch.get_num_threads()}
    rows = [measure_in_memory(case, strategy, turns, speed) for strategy in ("coreset", "coral") for case in cases]
    figures["cases"] = rows
    figures["objects"] = measure_with_objects(with_objects, turns)
    figures |= {"disk": measure_from_disk(files)} if disk else {"disk": None, "disk_reason": "--no-disk"}
    figures |= (
        {"gpu": measure_on_gpu(tensors, turns)} if torch.cuda.is_available() else {"gpu": None, "gpu_reason": NO_GPU}
    )
    return figures | summarize(figures)


def summarize(figures: dict[str, Any]) -> dict[str, Any]:
    """The worst case of each comparison."""
    cases = figures["cases"]
    result = {"ours_over_roof": max(case["ours_s"] / case["roof_s"] for case in cases)}
    for method in PEERS:
        times = [case[f"{method}_s"] / case["ours_s"] for case in cases if case["strategy"] == "coreset"]
        result[f"speedup_over_{method}"] = min(times)
    result["most_extra_mb"] = max(case["extra_mb"] for case in cases)
    result["objects_over_coral"] = max(row["cpu_s"] / row["coral_cpu_s"] for row in figures["objects"])
    compared = [row for row in figures["objects"] if "same_picks" in row]
    rows = cases + compared + (figures["disk"] or []) + ([figures["gpu"]] if figures["gpu"] else [])
    result["same_picks"] = sum(row["same_picks"] for row in rows) / len(rows)
    if figures["disk"] is None:
        return result | {"disk_peak_mb": None, "disk_peak_mb_reason": figures["disk_reason"]}
    return result | {"disk_peak_mb": max(row["peak_mb"] for row in figures["disk"])}


def format_title(figures: dict[str, Any]) -> str:
    """Title of a case in a table."""
    return f"{figures['n']:,} x {figures['d']}, {figures['k']} {figures['strategy']}"


def make_table(cases: list[dict[str, Any]]) -> list[list[str]]:
    """A row per case and method."""
    rows = []
    for case in cases:
        roof, own = case["roof_s"], case["ours_s"]
        rows.append([format_title(case), "one read per pick", f"{roof:.3f}", "", "1.00", f"{roof / own:.2f}"])
        for method, name in NAMES.items():
            seconds, equal = case[f"{method}_s"], case[f"{method}_equal"]
            if seconds is None:
                continue
            right = "" if equal is None else f"{equal * case['k']:.0f}, the first {case[f'{method}_leading']} in a row"
            extra = case["extra_mb" if method == "ours" else f"{method}_extra_mb"]
            row = ["", name, f"{seconds:.3f}", f"{case[f'{method}_cpu_s']:.3f}", f"{seconds / roof:.2f}"]
            rows.append([*row, f"{seconds / own:.2f}", f"{extra:.0f}", right])
    return rows


def print_figures(figures: dict[str, Any]) -> None:
    """Prints the tables."""
    print(f"\n{figures['threads']} threads, reading {figures['bandwidth_gb_s']:.1f} GB/s from memory:\n")
    headers = ["", "", "s", "CPU s", "x roof", "x ours", "extra MB", "correct picks"]
    print(tabulate(make_table(figures["cases"]), headers, disable_numparse=True))
    print(f"\nlightly-mundig with coral: {OTHER_RULE}.\n")
    for row in figures["objects"]:
        title = f"{format_title(row)}, {BOXES_PER_IMAGE} boxes per image"
        print(f"{title}: {row['s']:.2f} s, {row['cpu_s']:.2f} CPU s, {row['mb']:.0f} MB besides the data; coral alone "
              f"{row['coral_s']:.2f} s, {row['coral_cpu_s']:.2f} CPU s, {row['coral_mb']:.0f} MB")  # fmt: skip
    for row in figures["disk"] or []:
        same = "the same picks as from the array" if row["same_picks"] else "OTHER PICKS than from the array"
        print(f"{format_title(row)} from a file of {row['file_mb']:.0f} MB: {row['s']:.2f} s, {row['cpu_s']:.2f} CPU "
              f"s, at most {row['peak_mb']:.0f} MB of memory in total, {same}")  # fmt: skip
    if gpu := figures["gpu"]:
        print(f"{format_title(gpu)} on {gpu['device']}: {gpu['s']:.3f} s, {gpu['s'] / gpu['roof_s']:.2f} x roof, "
              f"{gpu['extra_mb']:.0f} MB besides the data")  # fmt: skip
    else:
        print(f"gpu: not measured: {figures['gpu_reason']}")
    meanings = {
        "ours_over_roof": "time relative to one read per pick, in the worst case",
        "speedup_over_mundig": "speedup over lightly-mundig with coreset, in the worst case",
        "speedup_over_sklearn": "speedup over scikit-learn with coreset, in the worst case",
        "speedup_over_gemv": "speedup over numpy with coreset, in the worst case",
        "objects_over_coral": "CPU seconds of coral_objects relative to coral, in the worst case",
        "same_picks": "share of runs with the correct picks, or from disk and on a GPU, with the picks from an array",
        "most_extra_mb": "memory besides the data, in the worst case",
        "disk_peak_mb": "memory of the whole process when selecting from a file, in the worst case",
    }
    print()
    for name, meaning in meanings.items():
        value = "not measured: " + figures[f"{name}_reason"] if figures[name] is None else f"{figures[name]:.3f}"
        print(f"{name}: {value}  ({meaning})")


def main() -> None:
    """Measures, prints tables, and writes the figures if --json is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--turns", type=int, default=TURNS, metavar="N")
    parser.add_argument("--quick", action="store_true", help="use a twentieth of the data, for a trial")
    parser.add_argument("--no-disk", action="store_true", help="skip the files of 10,000,000 and 1,000,000 rows")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(work_in_child(*arguments.child)))
        return
    figures = measure(arguments.turns, 20 if arguments.quick else 1, not arguments.no_disk)
    print_figures(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
