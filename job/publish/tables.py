"""Results as files: the lists of picks, one row for every image, the embeddings."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from job import names
from job.context import Selected
from job.parts.pool import Pool
from job.storage import Storage

_TYPES = {
    "folder": pa.string(),
    "byte_size": pa.int64(),
    **dict.fromkeys(("width", "height", "num_boxes"), pa.int32()),
}
_OF_SELECTION = {
    "rank": pa.int32(),
    "value": pa.float64(),
    "distance": pa.float64(),
    "nearest": pa.string(),
    "reason": pa.string(),
    "factors": pa.string(),
}


def write_selected(output: Storage, selected: list[Selected]) -> None:
    """Writes selected.jsonl, selected.csv and selected.txt; in the CSV, factors and boxes are JSON."""
    rows = [_rounded(asdict(each)) for each in selected]
    output.write("selected.jsonl", _json_lines(rows))
    text = io.StringIO()
    columns = list(Selected.__dataclass_fields__)
    writer = csv.DictWriter(text, columns, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    nested = ("factors", "boxes")
    writer.writerows(row | {name: json.dumps(row[name], ensure_ascii=False) for name in nested} for row in rows)
    output.write("selected.csv", text.getvalue().encode())
    output.write("selected.txt", names.dump([each.file_name for each in selected]).encode())


def write_failures(output: Storage, failures: list[tuple[str, str]]) -> None:
    """Writes failures.jsonl: every image that could not be used, with the reason."""
    output.write("failures.jsonl", _json_lines([{"file_name": key, "reason": reason} for key, reason in failures]))


def write_images(
    output: Storage,
    pool: Pool,
    selected: Sequence[Selected],
    distance: npt.NDArray[np.float64],
    nearest: npt.NDArray[np.int64],
) -> None:
    """Writes images.parquet: one row an image, usable ones first, each group sorted by name.

    ``rank``, ``value``, ``reason`` and ``factors`` (JSON) are null but for picks. ``distance`` and ``nearest`` tell how
    far the nearest labelled or picked image is; for a pick, how far it was when it was picked.

    Args:
        output: Where to.
        pool: The images.
        selected: The picks.
        distance: (n,) to the nearest labelled or picked image; infinite where there is none.
        nearest: (n,) its row.
    """
    nothing = [None] * len(pool.failures)
    row = {key: number for number, key in enumerate(pool.file_names)}
    columns: dict[str, list[Any]] = {
        name: [None] * len(pool.file_names) for name in ("rank", "value", "reason", "factors")
    }
    columns["distance"] = [float(each) if np.isfinite(each) else None for each in distance]
    columns["nearest"] = [pool.file_names[each] if each >= 0 else None for each in nearest]
    for each in selected:
        of_pick = asdict(each) | {"factors": json.dumps(each.factors)}
        for name, values in columns.items():
            values[row[each.file_name]] = of_pick[name]
    known = {name: np.asarray(values).tolist() for name, values in pool.columns().items()}
    for name in ("width", "height"):
        known[name] = [each or None for each in known[name]]
    table = {
        "file_name": pool.file_names + [key for key, _ in pool.failures],
        "status": ["ok"] * len(pool.file_names) + ["failed"] * len(pool.failures),
        "error": pa.array([None] * len(pool.file_names) + [reason for _, reason in pool.failures], pa.string()),
        **{name: pa.array([*values, *nothing], _TYPES.get(name, pa.float64())) for name, values in known.items()},
        **{name: pa.array([*columns[name], *nothing], kind) for name, kind in _OF_SELECTION.items()},
    }
    output.write("images.parquet", _parquet(pa.table(table)))


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value
