"""Embeddings of labelled images outside the input; `tests/e2e/test_elsewhere.py` has whole runs."""

import tracemalloc
from pathlib import Path

import numpy as np

from job.embed import elsewhere, table
from job.select.points import ArrayPoints
from job.storage.local import LocalFolder
from job.texts import Texts


def test_one_group_of_rows_is_in_memory(tmp_path: Path) -> None:
    count, width = 16 * (1 << 14), 16
    vectors = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    output = LocalFolder(str(tmp_path))
    table.write(output, Texts.of([f"{row:07d}.jpg" for row in range(count)]), ArrayPoints(vectors), "digest")
    held, rows = [], 0
    tracemalloc.start()  # Arrow keeps what it has read as bytes of Python
    for batch in elsewhere._read_batches(output, ["file_name", "embedding"]):
        held.append(tracemalloc.get_traced_memory()[0])
        np.testing.assert_array_equal(
            batch["embedding"].flatten().to_numpy().reshape(-1, width), vectors[rows : rows + len(batch)]
        )
        rows += len(batch)
    tracemalloc.stop()
    assert rows == count
    assert max(held) < (tmp_path / table.NAME).stat().st_size / 4  # of eight groups
