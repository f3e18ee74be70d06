"""Writes the tables of the results: the picks, all images, the failures."""

import csv
import io
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from job import names
from job.context import Selected
from job.parts.pool import Pool
from job.publish import FAILURES, IMAGES, SELECTED_CSV, SELECTED_JSONL, SELECTED_TXT
from job.storage import Storage

_TYPES = {
    "folder": pa.string(),
    "byte_size": pa.int64(),
    **dict.fromkeys(("width", "height", "num_boxes"), pa.int32()),
}
_SELECTION_TYPES = {
    "rank": pa.int32(),
    "value": pa.float64(),
    "distance": pa.float64(),
    "nearest": pa.string(),
    "reason": pa.string(),
    "factors": pa.string(),
}


# A spreadsheet takes a cell that begins so for a formula, quoted or not.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_SPREADSHEET_NAME = "spreadsheet_name"


def write_selected(output: Storage, selected: list[Selected]) -> None:
    """Writes selected.jsonl, selected.csv and selected.txt.

    In the CSV, factors and boxes are JSON, and one more column has the file name as a spreadsheet may open it.
    """
    rows = [_round(asdict(pick)) for pick in selected]
    output.write(SELECTED_JSONL, _json_lines(rows))
    text = io.StringIO()
    columns = [*Selected.__dataclass_fields__, _SPREADSHEET_NAME]
    writer = csv.DictWriter(text, columns, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    nested = ("factors", "boxes")
    for row in rows:
        texts = {name: json.dumps(row[name], ensure_ascii=False) for name in nested}
        writer.writerow(row | texts | {_SPREADSHEET_NAME: _make_harmless(row["file_name"])})
    output.write(SELECTED_CSV, text.getvalue().encode())
    output.write(SELECTED_TXT, names.dump([pick.file_name for pick in selected]).encode())


def _make_harmless(file_name: str) -> str:
    """Puts an apostrophe in front of a name that a spreadsheet would take for a formula."""
    return "'" + file_name if file_name.startswith(_FORMULA) else file_name


def write_failures(output: Storage, failures: list[tuple[str, str]]) -> None:
    """Writes failures.jsonl: file name and reason of every image that could not be used."""
    rows = [{"file_name": file_name, "reason": reason} for file_name, reason in failures]
    output.write(FAILURES, _json_lines(rows))


def write_images(
    output: Storage,
    pool: Pool,
    selected: Sequence[Selected],
    distance: npt.NDArray[np.float64],
    nearest: Sequence[str | None],
    labelled: Collection[str],
    points: npt.NDArray[np.float64] | None,
) -> None:
    """Writes images.parquet: one row per image, usable images first, both groups sorted by file name.

    ``rank``, ``value``, ``reason`` and ``factors`` (JSON) are null except for picks. ``distance`` and ``nearest``
    describe the nearest labelled or picked image; for a pick, they are as of the moment it was picked.

    Args:
        output: Folder of the results.
        pool: The images.
        selected: The picks.
        distance: (n,) distance to the nearest labelled or picked image, 0 to 2; infinite if there is none.
        nearest: (n,) file name of that image; None if there is none.
        labelled: File names of the images that have labels.
        points: (n, 2) coordinates on the map of the embeddings; None without embeddings.
    """
    row = {file_name: number for number, file_name in enumerate(pool.file_names)}
    columns: dict[str, list[Any]] = {
        name: [None] * len(pool.file_names) for name in ("rank", "value", "reason", "factors")
    }
    columns["distance"] = [float(value) if np.isfinite(value) else None for value in distance]
    columns["nearest"] = list(nearest)
    for pick in selected:
        values = asdict(pick) | {"factors": json.dumps(pick.factors)}
        for name, column in columns.items():
            column[row[pick.file_name]] = values[name]
    image_values = {name: np.asarray(column).tolist() for name, column in pool.columns().items()}
    for name in ("width", "height"):
        image_values[name] = [pixels or None for pixels in image_values[name]]
    nulls = [None] * len(pool.failures)
    errors = [None] * len(pool.file_names) + [reason for _, reason in pool.failures]
    file_names = pool.file_names + [file_name for file_name, _ in pool.failures]
    labelled = frozenset(labelled)
    map_columns = [[None] * len(pool.file_names)] * 2 if points is None else points.T.tolist()
    table = {
        "file_name": file_names,
        "status": ["ok"] * len(pool.file_names) + ["failed"] * len(pool.failures),
        "error": pa.array(errors, pa.string()),
        **{name: pa.array([*values, *nulls], _TYPES.get(name, pa.float64())) for name, values in image_values.items()},
        **{name: pa.array([*columns[name], *nulls], kind) for name, kind in _SELECTION_TYPES.items()},
        "labelled": pa.array([file_name in labelled for file_name in file_names], pa.bool_()),
        **{
            name: pa.array([*values, *nulls], pa.float64())
            for name, values in zip(("map_x", "map_y"), map_columns, strict=True)
        },
        **{
            name: pa.concat_arrays([values, pa.nulls(len(nulls), values.type)])
            for name, values in pool.metadata.items()
        },
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer, compression="zstd")
    output.write(IMAGES, buffer.getvalue())


def _json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _round(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _round(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_round(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value
