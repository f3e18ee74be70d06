"""How fast the greedy selection is beside lightly-mundig and one pass a pick, and how much memory it takes.

`python -m benchmarks.select [--json FILE]`: every call runs in a process of its own, which makes the data from a seed,
tries the call on a few rows, and then measures it: seconds, CPU seconds of all threads, and how far resident memory
rises above what was there before. The ways take turns and the best turn counts; one that takes more than 10 seconds has
one turn. All begin with row 0 as labelled, and their picks are held against a greedy in float64 by differences. The
roof is one read of the data for each pick, at the bandwidth of memory that is measured first; data that fit into the
processor's cache can be read faster. Embeddings are unit vectors in 300 clusters of Zipf's sizes, with 12 dimensions of
variation inside a cluster, and noise.

From disk, a Parquet file is read through `ParquetPoints` while it is still in the system's cache, and memory is that of
the whole process. On a GPU, the data are in a tensor there before the time starts.
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
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tabulate import tabulate

from job.select import ParquetPoints, select
from job.select.engine import SCORE_FLOOR
from job.select.points import Array, Vectors, to_unit_length

# As (n, d, k): in an array; in a file; on a GPU, one to measure and one whose picks are held against the array's.
Case = tuple[int, int, int]
CASES: list[Case] = [(100_000, 128, 100), (100_000, 128, 1000), (1_000_000, 32, 100)]
DISK: list[Case] = [(10_000_000, 32, 100), (1_000_000, 32, 100)]
GPU: list[Case] = [(10_000_000, 128, 100), (100_000, 128, 1000)]
ROOT = Path(__file__).resolve().parent.parent
TURNS, SLOW = 3, 10.0
CLUSTERS, VARIATION, NOISE = 300, 0.7, 0.3
ROWS, ROWS_TO_TRY = 1 << 16, 20_000
PEERS = {"mundig": "lightly-mundig", "sklearn": "scikit-learn, a pass a pick", "gemv": "numpy GEMV, a pass a pick"}
NAMES = {"ours": "coralpick", **PEERS, "naive": "float64, by differences"}
NO_GPU = "there is no GPU"
ONLY_CORESET = "measured with coreset, whose passes are the same"
OTHER_RULE = "its rule for diversity with weights is another, of all picks together: only times can be compared"


def blocks(count: int, dimension: int) -> Iterator[Vectors]:
    """The embeddings, some at a time, the same in every process."""
    rng = np.random.default_rng(0)
    centers = to_unit_length(rng.normal(size=(CLUSTERS, dimension)))
    bases = (rng.normal(size=(CLUSTERS, 12, dimension)) * VARIATION / np.sqrt(12 * dimension)).astype(np.float32)
    share = 1 / np.arange(1, CLUSTERS + 1)
    for start in range(0, count, ROWS):
        size = min(ROWS, count - start)
        cluster = rng.choice(CLUSTERS, size, p=share / share.sum())
        block = rng.standard_normal((size, dimension), np.float32) * np.float32(NOISE / np.sqrt(dimension))
        inside = rng.standard_normal((size, 12), np.float32)
        order = np.argsort(cluster, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1):
            block[rows] += centers[cluster[rows[0]]] + inside[rows] @ bases[cluster[rows[0]]]
        yield to_unit_length(block)


def write(path: str, count: int, dimension: int) -> None:
    """Writes the embeddings to a Parquet file, as they are, some at a time."""
    schema = pa.schema({"embedding": pa.list_(pa.float32(), dimension)})
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
        for block in blocks(count, dimension):
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), dimension)
            file.write_table(pa.table({"embedding": vectors}))


def utility(scores: Array, strategy: str) -> Array | None:
    """What coral multiplies distances by."""
    return SCORE_FLOOR + (1 - SCORE_FLOOR) * scores if strategy == "coral" else None


def ours(points: Any, scores: Array, count: int, strategy: str) -> list[int]:
    """The job's."""
    return [pick.index for pick in select(points, scores, count, strategy=strategy, labelled=[0]).picks]


def mundig(points: Any, scores: Array, count: int, strategy: str) -> list[int]:
    """Lightly's, whose count has the labelled in it."""
    from lightly_mundig import Selection

    engine = Selection()
    engine.add_diversifying_strategy(points, 1.0)
    if (weights := utility(scores, strategy)) is not None:
        engine.add_weighting_strategy(weights, 1.0)
    return list(engine.run_selection([0], len(points), count + 1))[1:]


def passes(distances: Callable[[int], Any], count: int, weights: Array | None = None) -> list[int]:
    """The greedy by distances, squared or not, of all rows to one: a pass for each pick."""
    closest, center, picks = distances(0), 0, list[int]()
    while True:
        closest[center] = -1
        center = int((closest if weights is None else closest * weights).argmax())
        picks.append(center)
        if len(picks) == count:
            return picks
        np.minimum(closest, distances(center), out=closest)


def sklearn(points: Any, scores: Array, count: int, strategy: str) -> list[int]:
    """As k-center is often written."""
    from sklearn.metrics import pairwise_distances  # type: ignore[import-untyped,unused-ignore]

    return passes(lambda row: pairwise_distances(points, points[row : row + 1])[:, 0], count)


def gemv(points: Any, scores: Array, count: int, strategy: str) -> list[int]:
    """Squared distances from products in single precision."""
    square = np.einsum("ij,ij->i", points, points)

    def distances(row: int) -> Vectors:
        result: Vectors = points @ points[row]
        result *= -2
        result += square
        result += square[row]
        return result

    return passes(distances, count)


def naive(points: Any, scores: Array, count: int, strategy: str) -> list[int]:
    """The definition, in float64."""
    vectors = to_unit_length(points).astype(np.float64)

    def distances(row: int) -> Array:
        result = np.empty(len(vectors))
        for start in range(0, len(vectors), 2048):  # so few stay in the cache
            difference = vectors[start : start + 2048] - vectors[row]
            result[start : start + 2048] = np.einsum("ij,ij->i", difference, difference)
        return np.sqrt(result)

    return passes(distances, count, utility(scores, strategy))


def child(way: str, count: int, dimension: int, picks: int, strategy: str, turns: int, path: str) -> dict[str, Any]:
    """What a process of its own does: makes the data, and measures a way, or writes the file of them.

    Returns:
        `s` and `cpu_s`; `mb` on top of what was there before, `peak_mb` of the whole process; `picks`.
    """
    if way == "write":
        write(path, count, dimension)
        return {}
    scores = np.random.default_rng(1).random(count)
    if way == "gpu":
        return on_gpu(count, dimension, scores, picks, strategy, turns)
    run = {"disk": ours, "ours": ours, "mundig": mundig, "sklearn": sklearn, "gemv": gemv, "naive": naive}[way]
    if way == "disk":
        points: Any = ParquetPoints(Path(path))
    else:
        points = filled(np.empty((count, dimension), np.float32), lambda block: block)
        run(points[:ROWS_TO_TRY], scores[:ROWS_TO_TRY], 2, strategy)  # imports, starts threads, makes buffers
    # What was freed until now goes back, or a call could have it again and seem to need nothing.
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    if way != "disk":
        with contextlib.suppress(OSError):  # where that is forbidden, the peak until now may stand in for the call's
            Path("/proc/self/clear_refs").write_text("5")
    result = clock(lambda: run(points, scores, picks, strategy))
    return {**result, "mb": resident("VmHWM") - before, "peak_mb": resident("VmHWM")}


def on_gpu(count: int, dimension: int, scores: Array, picks: int, strategy: str, turns: int) -> dict[str, Any]:
    """As `child`, in a tensor on the GPU, whose memory and whose roof are meant."""
    import torch

    points = filled(torch.empty((count, dimension), device="cuda"), torch.from_numpy)
    ours(points[:ROWS_TO_TRY], scores[:ROWS_TO_TRY], 2, strategy)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    taken = [clock(lambda: ours(points, scores, picks, strategy)) for _ in range(turns)]
    extra = (torch.cuda.max_memory_allocated() - before) / 2**20
    read = min(clock(lambda: points.sum().item())["s"] for _ in range(5))
    result = min(taken, key=lambda each: float(each["s"]))
    return {**result, "extra_mb": extra, "roof_s": picks * read, "device": torch.cuda.get_device_name()}


def filled(target: Any, convert: Callable[[Vectors], Any]) -> Any:
    """An array or a tensor (n, d) with the embeddings in it."""
    for number, block in enumerate(blocks(*target.shape)):
        target[number * ROWS : number * ROWS + len(block)] = convert(block)
    return target


def clock(call: Callable[[], Any]) -> dict[str, Any]:
    """Seconds, CPU seconds of all threads, and what a call returns."""
    start, cpu = perf_counter(), process_time()
    picks = call()
    return {"s": perf_counter() - start, "cpu_s": process_time() - cpu, "picks": picks}


def resident(what: str) -> float:
    """Megabytes of this process, now (VmRSS) or at most (VmHWM)."""
    return int(Path("/proc/self/status").read_text().partition(f"{what}:")[2].split()[0]) / 1024


def apart(way: str, case: Case, strategy: str = "", turns: int = 1, path: str = "") -> dict[str, Any]:
    """Has a new process do what `child` does."""
    request = json.dumps([way, *case, strategy, turns, path])
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.select", "--apart", request]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def bandwidth() -> float:
    """Bytes a second when all threads read 1 GiB: the best of torch's and numpy's."""
    import torch

    data = torch.ones(1 << 28)
    pieces = np.array_split(data.numpy(), torch.get_num_threads())
    with ThreadPoolExecutor(len(pieces)) as pool:
        ways: list[Callable[[], Any]] = [data.sum, lambda: list(pool.map(np.max, pieces))]
        seconds: float = min(clock(way)["s"] for way in ways for _ in range(5))
    return data.nbytes / seconds


def in_memory(case: Case, strategy: str, turns: int, speed: float) -> dict[str, Any]:
    """The figures of a case; of those that were not measured, why."""
    best = {"naive": apart("naive", case, strategy)}
    for turn in range(turns):
        for way in ["ours", "mundig"] if strategy == "coral" else ["ours", *PEERS]:
            if turn == 0 or best[way]["s"] <= SLOW:
                found = apart(way, case, strategy)
                best[way] = min(best.get(way, found), found, key=lambda each: float(each["s"]))
    figures = about(case, strategy) | {"roof_s": 4 * math.prod(case) / speed}
    figures["same_picks"] = best["ours"]["picks"] == best["naive"]["picks"]
    for way in NAMES:
        figures |= figures_of(way, best.get(way), best["naive"]["picks"], strategy)
    return figures | {"extra_mb": figures.pop("ours_extra_mb")}


def figures_of(way: str, found: dict[str, Any] | None, truth: list[int], strategy: str) -> dict[str, Any]:
    """Of a way: its time and memory, how many picks are the true ones before the first other, and the share of all."""
    figures: dict[str, Any] = {"s": None, "cpu_s": None, "extra_mb": None, "leading": None, "equal": None}
    if found is None:
        figures["reason"] = ONLY_CORESET
    else:
        figures |= {"s": found["s"], "cpu_s": found["cpu_s"], "extra_mb": found["mb"]}
        if way == "mundig" and strategy == "coral":
            figures["equal_reason"] = OTHER_RULE
        else:
            same = [one == other for one, other in zip(found["picks"], truth, strict=True)]
            figures |= {"leading": [*same, False].index(False), "equal": len({*found["picks"]} & {*truth}) / len(truth)}
    return {f"{way}_{name}": value for name, value in figures.items()}


def about(case: Case, strategy: str) -> dict[str, Any]:
    """What figures are of."""
    return {**dict(zip("ndk", case, strict=True)), "strategy": strategy}


def from_disk(cases: list[Case]) -> list[dict[str, Any]]:
    """Seconds and peak memory from Parquet files, and whether picks are those from an array."""
    rows = []
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "embeddings.parquet"
            apart("write", case, path=str(path))
            for strategy in ("coral", "coreset"):
                found, expected = apart("disk", case, strategy, path=str(path)), apart("ours", case, strategy)
                row = about(case, strategy) | {name: found[name] for name in ("s", "cpu_s", "peak_mb")}
                same = found["picks"] == expected["picks"]
                rows.append(row | {"file_mb": path.stat().st_size / 2**20, "same_picks": same})
    return rows


def with_gpu(cases: list[Case], turns: int) -> dict[str, Any]:
    """Seconds and memory on a GPU, and whether picks of a smaller case are those from an array."""
    found = apart("gpu", cases[0], "coreset", turns)
    same = apart("gpu", cases[1], "coreset")["picks"] == apart("ours", cases[1], "coreset")["picks"]
    kept = {name: value for name, value in found.items() if name != "picks"}
    return about(cases[0], "coreset") | kept | {"same_picks": same}


def measure(turns: int, shrink: int, disk: bool) -> dict[str, Any]:
    """All figures."""
    import torch

    cases, files, tensors = ([(n // shrink, d, k) for n, d, k in some] for some in (CASES, DISK, GPU))
    speed = bandwidth()
    figures: dict[str, Any] = {"bandwidth_gb_s": speed / 1e9, "threads": torch.get_num_threads()}
    rows = [in_memory(case, strategy, turns, speed) for strategy in ("coreset", "coral") for case in cases]
    figures["cases"] = rows
    figures |= {"disk": from_disk(files)} if disk else {"disk": None, "disk_reason": "--no-disk"}
    figures |= {"gpu": with_gpu(tensors, turns)} if torch.cuda.is_available() else {"gpu": None, "gpu_reason": NO_GPU}
    return figures | summary(figures)


def summary(figures: dict[str, Any]) -> dict[str, Any]:
    """The worst case of each comparison."""
    cases = figures["cases"]
    result = {"ours_over_roof": max(each["ours_s"] / each["roof_s"] for each in cases)}
    for way in PEERS:
        times = [each[f"{way}_s"] / each["ours_s"] for each in cases if each["strategy"] == "coreset"]
        result[f"speedup_over_{way}"] = min(times)
    result["most_extra_mb"] = max(each["extra_mb"] for each in cases)
    rows = cases + (figures["disk"] or []) + [each for each in [figures["gpu"]] if each]
    result["same_picks"] = sum(each["same_picks"] for each in rows) / len(rows)
    if figures["disk"] is None:
        return result | {"disk_peak_mb": None, "disk_peak_mb_reason": figures["disk_reason"]}
    return result | {"disk_peak_mb": max(each["peak_mb"] for each in figures["disk"])}


def title(figures: dict[str, Any]) -> str:
    """What a row of a table is about."""
    return f"{figures['n']:,} x {figures['d']}, {figures['k']} {figures['strategy']}"


def table(cases: list[dict[str, Any]]) -> list[list[str]]:
    """A row for each case and way."""
    rows = []
    for case in cases:
        roof, own = case["roof_s"], case["ours_s"]
        rows.append([title(case), "one read a pick", f"{roof:.3f}", "", "1.00", f"{roof / own:.2f}"])
        for way, name in NAMES.items():
            seconds, equal = case[f"{way}_s"], case[f"{way}_equal"]
            if seconds is None:
                continue
            right = "" if equal is None else f"{equal * case['k']:.0f}, the first {case[f'{way}_leading']} in a row"
            extra = case["extra_mb" if way == "ours" else f"{way}_extra_mb"]
            row = ["", name, f"{seconds:.3f}", f"{case[f'{way}_cpu_s']:.3f}", f"{seconds / roof:.2f}"]
            rows.append([*row, f"{seconds / own:.2f}", f"{extra:.0f}", right])
    return rows


def show(figures: dict[str, Any]) -> None:
    """Prints the tables."""
    print(f"\n{figures['threads']} threads, which read {figures['bandwidth_gb_s']:.1f} GB/s from memory:\n")
    headers = ["", "", "s", "CPU s", "x roof", "x ours", "extra MB", "picks of the definition"]
    print(tabulate(table(figures["cases"]), headers, disable_numparse=True))
    print(f"\nlightly-mundig with coral: {OTHER_RULE}.\n")
    for row in figures["disk"] or []:
        same = "the picks of the array" if row["same_picks"] else "OTHER PICKS than from the array"
        print(f"{title(row)} from a file of {row['file_mb']:.0f} MB: {row['s']:.2f} s, {row['cpu_s']:.2f} CPU s, "
              f"at most {row['peak_mb']:.0f} MB of memory in all, {same}")  # fmt: skip
    if gpu := figures["gpu"]:
        print(f"{title(gpu)} on {gpu['device']}: {gpu['s']:.3f} s, {gpu['s'] / gpu['roof_s']:.2f} x roof, "
              f"{gpu['extra_mb']:.0f} MB besides the data")  # fmt: skip
    else:
        print(f"gpu: not measured: {figures['gpu_reason']}")
    meanings = {
        "ours_over_roof": "so many times as long as one read a pick, in the worst case",
        "speedup_over_mundig": "times as fast as lightly-mundig with coreset, in the worst case",
        "speedup_over_sklearn": "likewise, scikit-learn",
        "speedup_over_gemv": "likewise, numpy",
        "same_picks": "share of all runs with the picks of the definition or, from disk and on a GPU, of the array",
        "most_extra_mb": "memory besides the data, in the worst case",
        "disk_peak_mb": "memory of the whole process that selects from a file, in the worst case",
    }
    print()
    for name, meaning in meanings.items():
        value = "not measured: " + figures[f"{name}_reason"] if figures[name] is None else f"{figures[name]:.3f}"
        print(f"{name}: {value}  ({meaning})")


def main() -> None:
    """Measures, prints tables, and writes the figures when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--turns", type=int, default=TURNS, metavar="N")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the data, to try it")
    parser.add_argument("--no-disk", action="store_true", help="leave out the files of 10,000,000 and 1,000,000 rows")
    parser.add_argument("--apart", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.apart:
        print(json.dumps(child(*arguments.apart)))
        return
    figures = measure(arguments.turns, 20 if arguments.quick else 1, not arguments.no_disk)
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
