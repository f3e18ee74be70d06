"""Results as files: the lists of picks, one row for every image, the embeddings."""

import csv
import io
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from job import names
from job.pool import Pool
from job.select import Selection
from job.storage import Storage, read_required

_DIGEST = b"digest"


@dataclass(frozen=True)
class Selected:
    """One line of the answer.

    Attributes:
        rank: 1 for the best.
        file_name: Relative to the input.
        score: The active-learning score that drove the selection.
        value: What the image was picked for; falls from pick to pick, but for the first.
        distance: To the nearest labelled or earlier picked image, 0 to 2; None for a first pick.
        nearest: File name of that image.
        reason: In words.
    """

    rank: int
    file_name: str
    score: float
    value: float
    distance: float | None
    nearest: str | None
    reason: str


def write_selected(output: Storage, selected: list[Selected]) -> None:
    """Writes selected.jsonl, selected.csv and selected.txt."""
    rows = [{name: _rounded(value) for name, value in asdict(each).items()} for each in selected]
    output.write("selected.jsonl", _json_lines(rows))
    text = io.StringIO()
    columns = list(Selected.__dataclass_fields__)
    writer = csv.DictWriter(text, columns, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    writer.writerows(rows)
    output.write("selected.csv", text.getvalue().encode())
    output.write("selected.txt", names.dump([each.file_name for each in selected]).encode())


def write_failures(output: Storage, failures: list[tuple[str, str]]) -> None:
    """Writes failures.jsonl: every image that could not be used, with the reason."""
    output.write("failures.jsonl", _json_lines([{"file_name": key, "reason": reason} for key, reason in failures]))


def write_images(output: Storage, pool: Pool, selection: Selection) -> None:
    """Writes images.parquet: one row an image, usable ones first, each group sorted by name.

    ``rank`` is null but for picks. ``distance`` and ``nearest`` tell how far the nearest labelled or picked image is;
    for a pick, how far it was when it was picked.
    """
    count, failed = len(pool.keys), len(pool.failures)
    rank: list[int | None] = [None] * count
    distance: list[float | None] = [float(each) if np.isfinite(each) else None for each in selection.distance]
    nearest = [pool.keys[each] if each >= 0 else None for each in selection.nearest]
    for number, pick in enumerate(selection.picks, start=1):
        rank[pick.index] = number
        distance[pick.index] = pick.distance
        nearest[pick.index] = pool.keys[pick.nearest] if pick.nearest is not None else None
    nothing = [None] * failed
    columns: dict[str, Any] = {
        "file_name": pool.keys + [key for key, _ in pool.failures],
        "status": ["ok"] * count + ["failed"] * failed,
        "error": [None] * count + [reason for _, reason in pool.failures],
        "width": pa.array([*pool.size[:, 0].tolist(), *nothing], pa.int32()),
        "height": pa.array([*pool.size[:, 1].tolist(), *nothing], pa.int32()),
        "num_boxes": pa.array([*pool.num_boxes.tolist(), *nothing], pa.int32()),
        **{name: pa.array([*values.tolist(), *nothing], pa.float64()) for name, values in pool.scores.items()},
        "rank": pa.array([*rank, *nothing], pa.int32()),
        "distance": pa.array([*distance, *nothing], pa.float64()),
        "nearest": pa.array([*nearest, *nothing], pa.string()),
    }
    output.write("images.parquet", _parquet(pa.table(columns)))


def write_embeddings(output: Storage, keys: list[str], embeddings: npt.NDArray[np.float32], digest: str) -> None:
    """Writes embeddings.parquet: file_name, and embedding as a fixed-size list.

    Args:
        output: Where to.
        keys: File names.
        embeddings: (n, d).
        digest: Of all that the embeddings depend on.
    """
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
    table = pa.table({"file_name": pa.array(keys, pa.string()), "embedding": vectors})
    output.write("embeddings.parquet", _parquet(table.replace_schema_metadata({_DIGEST: digest})))


def read_embeddings(output: Storage, digest: str) -> npt.NDArray[np.float32] | None:
    """Reads embeddings.parquet, in the order of its rows, if it was written with the same digest."""
    if output.stat("embeddings.parquet") is None:
        return None
    table = pq.read_table(io.BytesIO(read_required(output, "embeddings.parquet")))
    if (table.schema.metadata or {}).get(_DIGEST) != digest.encode():
        return None
    vectors = table["embedding"].combine_chunks()
    result: npt.NDArray[np.float32] = vectors.flatten().to_numpy().reshape(len(vectors), -1)
    return result


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
