"""Labelled images that are not in CORAL_INPUT: their embeddings, from earlier outputs or from the file of embeddings.

Such images keep the picks at a distance, as labelled images of the pool do. Only embeddings of one model can be
compared, so an earlier output counts only if its embeddings were made as those of this run.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from job.context import LabelledElsewhere
from job.embed import from_file, table
from job.errors import DamagedFileError, SettingsError, one_line
from job.inputs.match import Match, compare
from job.names import quantify, shorten
from job.parts import Provenance, describe_difference
from job.settings import Settings
from job.storage import Listing, Storage, open_folder
from job.storage.rangefile import RangeFile

logger = logging.getLogger(__name__)

_RUN, _SUCCESS = "run.json", "_SUCCESS"
_ROWS_PER_READ = 1 << 14
_ADVICE = "run that job again, or remove it from CORAL_PREVIOUS"


@dataclass(frozen=True)
class Found:
    """A place that has labelled images which are not in CORAL_INPUT.

    Attributes:
        setting: The setting that names the place, with its value, for messages.
        output: The output of an earlier run; None for the file of embeddings.
        match: How the names that are not in CORAL_INPUT meet the images there.
    """

    setting: str
    output: Storage | None
    match: Match


def find_required(settings: Settings, match: Match) -> list[Found]:
    """Looks for labelled images that are not in CORAL_INPUT in CORAL_PREVIOUS, and in a file of embeddings.

    Args:
        settings: The settings.
        match: How the names in CORAL_LABELLED meet the images of the input.

    Returns:
        The places that have such images.

    Raises:
        SettingsError: If no labelled image is known anywhere. With CORAL_ALLOW_MISSING, they may be those of a shard
            that has not finished.
        JobError: If a store cannot be used.
    """
    found = _find(settings, match) if match.unknown else []
    if not found and not settings.allow_missing:
        match.require_any()
    return found


def read(
    settings: Settings, found: Sequence[Found], embedding: Mapping[str, Any], provenance: Provenance, dimension: int
) -> LabelledElsewhere:
    """Reads the embeddings of labelled images that are not in CORAL_INPUT; the first place that has an image counts.

    A place whose embeddings cannot be compared with those of this run is skipped with a warning.

    Args:
        settings: The settings.
        found: The places that have such images.
        embedding: How the embeddings of this run were made, as `job.embed.embed` describes it.
        provenance: What the detections of this run were made with.
        dimension: Dimension of the embeddings of this run.

    Raises:
        JobError: If a store cannot be used.
    """
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    for place in found if embedding["method"] != "none" else ():
        if place.output is None:
            names, values, _ = from_file.read(settings.embedding)
            row_of = {name: row for row, name in enumerate(names)}
            known = {name: values[row_of[name]] for name in place.match.file_names.values()}
        elif problem := _compare(place.output, embedding, provenance):
            logger.warning(
                "%s has %d of the labelled images that are not in CORAL_INPUT, but the picks keep no distance to them: "
                "%s.",
                place.setting,
                len(place.match.file_names),
                problem,
            )
            continue
        else:
            known = _read_vectors(place.output, set(place.match.file_names.values()), dimension)
        new = {name: known[other] for name, other in place.match.file_names.items() if name not in vectors}
        vectors |= new
        logger.info(
            "The picks keep a distance to %s not in CORAL_INPUT, by the embeddings in %s.",
            quantify(len(new), "labelled image that is", "labelled images that are"),
            place.setting,
        )
    in_order = sorted(vectors, key=str.encode)
    return LabelledElsewhere(in_order, np.array([vectors[name] for name in in_order]).reshape(-1, dimension))


def _find(settings: Settings, match: Match) -> list[Found]:
    found = []
    if settings.has_embedding_file:
        names = from_file.read(settings.embedding)[0]
        others = from_file.match_names(settings.embedding, names, match.listing, settings.input).unknown
        meeting = compare(match.setting, match.unknown, Listing.from_names(others), settings.input)
        found.append(Found(f"CORAL_EMBEDDING={settings.embedding!r}", None, meeting))
    for uri in settings.previous:
        output = open_folder(uri)
        input_uri = _read_run(output).get("settings", {}).get("CORAL_INPUT") or settings.input
        meeting = compare(match.setting, match.unknown, Listing.from_names(_read_names(output)), input_uri)
        found.append(Found(f"CORAL_PREVIOUS={output.uri!r}", output, meeting))
    return [place for place in found if place.match.file_names]


def _compare(output: Storage, embedding: Mapping[str, Any], provenance: Provenance) -> str | None:
    """Says why the embeddings of an earlier output cannot be compared with those of this run; None if they can."""
    run = _read_run(output)
    if output.stat(_SUCCESS) is None or not run:
        return "that run has not finished"
    earlier = run["embedding"]
    if earlier["method"] != embedding["method"]:
        kinds = f"{shorten(earlier['method'])}, those of this run {shorten(embedding['method'])}"
        return f"their embeddings are of the kind {kinds}"
    if embedding["method"] == "detector" and not provenance.embedder:
        fields = {name: value for name, value in run["detector"].items() if name != "digest"}
        try:
            made_with = Provenance.from_json(json.dumps(fields), f"{output.uri}/run.json")
        except (SettingsError, KeyError, TypeError):
            return "that run was made by another version of coralpick"
        return None if made_with.matches(provenance) else describe_difference(made_with, provenance)
    if earlier["space"] == embedding["space"]:
        return None
    if embedding["method"] == "simclr":
        return "SimCLR was trained on other images, which gives other embeddings"
    return f"that run had another {'file of embeddings' if embedding['method'] == 'own' else 'model of the embeddings'}"


def _read_run(output: Storage) -> dict[str, Any]:
    try:
        content = json.loads(output.read(_RUN))
    except (OSError, ValueError, RecursionError):
        return {}
    parts_of_run = ("settings", "detector", "embedding")
    is_whole = isinstance(content, dict) and all(isinstance(content.get(name), dict) for name in parts_of_run)
    return content if is_whole and {"method", "space"} <= content["embedding"].keys() else {}


def _read_batches(output: Storage, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yields the embeddings of an output; only one group of rows is in memory at a time."""
    entry = output.stat(table.NAME)
    if entry is None:
        return
    try:
        source = RangeFile(output, entry.key, entry.size)
        file = pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)
        for group in range(file.num_row_groups):  # `iter_batches` would keep all groups that it has read
            yield from file.read_row_group(group, columns).to_batches(_ROWS_PER_READ)
    except (pa.ArrowException, OSError) as error:
        raise DamagedFileError.of(output.uri, table.NAME, one_line(error), _ADVICE) from error


def _read_names(output: Storage) -> list[str]:
    return [name for batch in _read_batches(output, ["file_name"]) for name in batch["file_name"].to_pylist()]


def _read_vectors(output: Storage, names: set[str], dimension: int) -> dict[str, npt.NDArray[np.float32]]:
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    wanted = pa.array(names, pa.string())
    for batch in _read_batches(output, ["file_name", "embedding"]):
        rows = batch.filter(pc.is_in(batch["file_name"], value_set=wanted))
        values = rows["embedding"].flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        if values.size != len(rows) * dimension or not np.isfinite(values).all():
            raise DamagedFileError.of(output.uri, table.NAME, "its embeddings are not those of run.json", _ADVICE)
        vectors |= dict(zip(rows["file_name"].to_pylist(), values.reshape(len(rows), dimension), strict=True))
    return vectors
