"""The selection by row blocks in workers of Ray, beside one process.

`python -m benchmarks.row_blocks [--json FILE]`. 1,000,000 embeddings of 128 numbers (those of `benchmarks.select`) are
written to embeddings.parquet. One process picks 1,000 images by coral from an array, then two workers do, which have
read their blocks from the file; and again while a worker is killed before the second pass. The picks must be equal:
rows, values, distances and nearest images. All processes are on one machine, so times say what the workers cost, and
not what more machines bring.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from benchmarks.figures import describe_blocks
from benchmarks.select import fill
from job.embed import table
from job.embed.spread import cut
from job.engine.choice import Choice
from job.engine.ray import cluster
from job.engine.ray.rows import RowWorkers
from job.select import ArrayPoints, Selection, select
from job.select.blocks import BlockPoints
from job.stopping import Stop
from job.storage import open_folder
from job.texts import Texts

ROWS, DIMENSION, PICKS, WORKERS = 1_000_000, 128, 1000, 2
MEGABYTE = 1e6


class Disturbed(RowWorkers):
    """Workers of which the first is killed before the second pass."""

    def ask(self, method: str, *more: Any) -> list[Any]:
        """See `RowWorkers`."""
        if (method, self.num_calls[method]) == ("shortlist", 1):
            ray.kill(self._actors[0])
        return super().ask(method, *more)


def measure_blocks(
    kind: type[RowWorkers], uri: str, points: ArrayPoints, scores: Any, expected: Selection
) -> dict[str, Any]:
    """Selects with workers, and compares the picks."""
    start = perf_counter()
    workers = kind(*cut(open_folder(uri), uri, points.shape, WORKERS), Stop())
    workers.load()
    loaded = perf_counter()
    found = select(BlockPoints(points, workers), scores, PICKS)
    return {
        "load_s": loaded - start,
        "s": perf_counter() - loaded,
        "passes": workers.num_calls["shortlist"],
        "workers": len(workers.starts) - 1,
        "lost": workers.num_losses,
        "sent_mb": workers.sent / MEGABYTE,
        "received_mb": workers.received / MEGABYTE,
        "same_picks": found.picks == expected.picks,
    }


def measure(rows: int) -> dict[str, Any]:
    """Measures everything."""
    points = ArrayPoints(embeddings := fill(np.empty((rows, DIMENSION), np.float32), lambda block: block))
    scores = np.random.default_rng(1).random(rows)
    select(embeddings[:20_000], scores[:20_000], 2)  # imports
    start = perf_counter()
    expected = select(embeddings, scores, PICKS)
    figures: dict[str, Any] = {"n": rows, "d": DIMENSION, "k": PICKS, "one_process_s": perf_counter() - start}
    with tempfile.TemporaryDirectory() as uri:
        names = Texts(pa.array([f"{row:08d}.jpg" for row in range(rows)]))
        table.write(open_folder(uri), names, points, "")
        start = perf_counter()
        cluster.start(Choice("ray", 1), Stop())
        try:
            figures["start_s"] = perf_counter() - start
            figures["blocks"] = measure_blocks(RowWorkers, uri, points, scores, expected)
            figures["disturbed"] = measure_blocks(Disturbed, uri, points, scores, expected)
        finally:
            cluster.close()
    return figures


def main() -> None:
    """Measures, prints, and writes the figures if --json is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rows", type=int, default=ROWS, metavar="N")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    figures = measure(arguments.rows)
    print(describe_blocks(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    if not (figures["blocks"]["same_picks"] and figures["disturbed"]["same_picks"]):
        raise SystemExit("other picks than those of one process")


if __name__ == "__main__":
    main()
