"""Writes the tables of the results: the picks, all images, the failures."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from job import names
from job.context import Selected, SelectionInputs
from job.parts.columns import copy_texts
from job.parts.pool import Pool
from job.publish import FAILURES, IMAGES, SELECTED_CSV, SELECTED_JSONL, SELECTED_TXT
from job.report.content import PickLines
from job.spool import Spool
from job.storage import Storage

_TYPES = {
    "folder": pa.string(),
    "byte_size": pa.int64(),
    **dict.fromkeys(("width", "height", "num_boxes"), pa.int32()),
}
_SIDES = ("width", "height")  # 0 if unknown
_GROUP_ROWS = 1 << 17  # of images.parquet
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
    output.write(SELECTED_JSONL, _json_lines([_round(asdict(pick)) for pick in selected]))
    lines = format_picks(selected)
    output.write(SELECTED_CSV, "".join(line.csv for line in lines).encode())
    output.write(SELECTED_TXT, "".join(line.txt for line in lines).encode())


def format_picks(selected: Sequence[Selected]) -> list[PickLines]:
    """Formats the header and each pick as lines of selected.txt and selected.csv."""
    columns = [*Selected.__dataclass_fields__, _SPREADSHEET_NAME]
    lines = [PickLines("", _format_csv(columns))]
    for pick in selected:
        row = _round(asdict(pick))
        row |= {name: json.dumps(row[name], ensure_ascii=False) for name in ("factors", "boxes")}
        row[_SPREADSHEET_NAME] = _make_harmless(pick.file_name)
        lines.append(PickLines(names.dump([pick.file_name]), _format_csv([row[name] for name in columns])))
    return lines


def _format_csv(values: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerow(values)
    return text.getvalue()


def _make_harmless(file_name: str) -> str:
    """Puts an apostrophe in front of a name that a spreadsheet would take for a formula."""
    return "'" + file_name if file_name.startswith(_FORMULA) else file_name


def write_failures(output: Storage, failures: list[tuple[str, str]]) -> None:
    """Writes failures.jsonl: file name and reason of every image that could not be used."""
    rows = [{"file_name": file_name, "reason": reason} for file_name, reason in failures]
    output.write(FAILURES, _json_lines(rows))


def write_images(
    output: Storage,
    inputs: SelectionInputs,
    selected: Sequence[Selected],
    distance: npt.NDArray[np.float64],
    nearest: npt.NDArray[np.int64],
    points: npt.NDArray[np.float64] | None,
) -> None:
    """Writes images.parquet: one row per image, usable images first, both groups sorted by file name.

    ``rank``, ``value``, ``reason`` and ``factors`` (JSON) are null except for picks. ``distance`` and ``nearest``
    describe the nearest labelled or picked image; for a pick, they are as of the moment it was picked. Only one group
    of rows is in memory.

    Args:
        output: Folder of the results.
        inputs: What the selection is based on.
        selected: The picks.
        distance: (n,) distance to the nearest labelled or picked image, 0 to 2; infinite if there is none.
        nearest: (n,) row of that image, n + i for the i-th image elsewhere; -1 if there is none.
        points: (n, 2) coordinates on the map of the embeddings; None without embeddings.
    """
    pool, made = inputs.pool, Spool()
    count, total = len(pool.file_names), len(pool.file_names) + len(pool.failures)
    rows_of_picks = pool.file_names.find([pick.file_name for pick in selected]).tolist()
    picks = dict(zip(rows_of_picks, selected, strict=True))
    labelled = frozenset(inputs.labelled)
    is_labelled = np.zeros(count, bool)
    is_labelled[inputs.find_labelled()] = True
    schema = _make_schema(pool)
    with pq.ParquetWriter(made.file, schema, compression="zstd") as writer:
        for start in range(0, total, _GROUP_ROWS):
            stop = min(start + _GROUP_ROWS, total)
            rows = slice(min(start, count), min(stop, count))
            failures = pool.failures[max(0, start - count) : max(0, stop - count)]
            columns = {
                "file_name": copy_texts(pool.file_names.array, rows.start, rows.stop),
                "status": ["ok"] * (rows.stop - rows.start),
                **pool.columns(rows),
                **_describe_selection(inputs, picks, distance, nearest, rows),
                "labelled": is_labelled[rows],
                **({} if points is None else {"map_x": points[rows, 0], "map_y": points[rows, 1]}),
                **{name: values[rows] for name, values in pool.metadata.items()},
            }
            of_failures = {
                "file_name": [name for name, _ in failures],
                "status": ["failed"] * len(failures),
                "error": [error for _, error in failures],
                "labelled": [name in labelled for name, _ in failures],
            }
            both = [
                _make_table(columns, rows.stop - rows.start, schema),
                _make_table(of_failures, len(failures), schema),
            ]
            writer.write_table(pa.concat_tables(both).combine_chunks())
        if not total:
            writer.write_table(schema.empty_table())
    output.write(IMAGES, made)


def _make_schema(pool: Pool) -> pa.Schema:
    names = pool.columns(slice(0))
    return pa.schema(
        {
            "file_name": pa.string(),
            "status": pa.string(),
            "error": pa.string(),
            **{name: _TYPES.get(name, pa.float64()) for name in names},
            **_SELECTION_TYPES,
            "labelled": pa.bool_(),
            "map_x": pa.float64(),
            "map_y": pa.float64(),
            **{name: values.type for name, values in pool.metadata.items()},
        }
    )


def _make_table(columns: Mapping[str, Any], count: int, schema: pa.Schema) -> pa.Table:
    """Makes a table of some columns, and of nulls in all others."""
    arrays = []
    for column in schema:
        values = columns.get(column.name)
        if values is None:
            arrays.append(pa.nulls(count, column.type))
        elif column.name in _SIDES:
            arrays.append(pa.array(values, column.type, mask=values == 0))
        else:
            is_arrow = isinstance(values, pa.Array | pa.ChunkedArray)
            arrays.append(values.cast(column.type) if is_arrow else pa.array(values, column.type))
    return pa.table(arrays, schema=schema)


def _describe_selection(
    inputs: SelectionInputs,
    picks: Mapping[int, Selected],
    distance: npt.NDArray[np.float64],
    nearest: npt.NDArray[np.int64],
    rows: slice,
) -> dict[str, Any]:
    """The columns of `_SELECTION_TYPES` for some usable images."""
    centers, index = np.unique(nearest[rows], return_inverse=True)
    names = pa.array([None if center < 0 else inputs.name_center(center) for center in centers.tolist()], pa.string())
    columns: dict[str, Any] = {
        "distance": pa.array(distance[rows], mask=~np.isfinite(distance[rows])),
        "nearest": names.take(pa.array(index)),
    }
    own = {row - rows.start: pick for row, pick in picks.items() if rows.start <= row < rows.stop}
    if not own:
        return columns
    values = [asdict(pick) | {"factors": json.dumps(pick.factors)} for pick in own.values()]
    for name, kind in _SELECTION_TYPES.items():
        of_picks = pa.array([value[name] for value in values], kind)
        is_pick = np.zeros(rows.stop - rows.start, bool)
        is_pick[list(own)] = True
        present = columns.get(name, pa.nulls(len(is_pick), kind))
        in_order = of_picks.take(pa.array(np.argsort(list(own))))
        columns[name] = pc.replace_with_mask(present, pa.array(is_pick), in_order)
    return columns


def _json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _round(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _round(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_round(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value
