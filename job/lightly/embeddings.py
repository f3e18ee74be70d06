"""Embeddings on the platform: one CSV file with one row per sample of the dataset, in the platform's order."""

import csv
import hashlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from job.lightly.api import Platform
from job.lightly.records import Dataset
from job.names import shorten
from job.parts import ledger
from job.parts.ledger import Ledger
from job.storage import Storage

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]


def upload(
    platform: Platform, dataset: Dataset, output: Storage, order: list[str], vectors: dict[str, Floats], space: str
) -> str | None:
    """Uploads embeddings, unless the platform has them.

    The platform requires one embedding per sample. Embeddings of samples outside this run are copied from the upload
    of an earlier run, if they are comparable.

    Args:
        platform: The platform.
        dataset: The dataset on the platform.
        output: Folder of the results.
        order: File names of all samples in the platform's order.
        vectors: (d,) embedding of each image of this run, by file name.
        space: Digest of everything that makes embeddings comparable.

    Returns:
        Id of the embeddings; None if some samples have no embedding.
    """
    prefix = f"coralpick-{space[:8]}-"
    name = prefix + _digest(order, vectors)
    piece = ledger.name_piece(platform.server, dataset.id, name)
    done = Ledger(output, "embedding", [piece])
    present = platform.embeddings(dataset)
    existing = next((embedding for embedding in present if embedding.name == name), None)
    if existing and (piece in done or existing.is_processed):
        if piece not in done:
            platform.project(dataset, existing.id)  # an interrupted start may have begun only some of the maps
            done.add(piece)
        return existing.id
    missing = {file_name for file_name in order if file_name not in vectors}
    for embedding in present:
        if missing and embedding.name.startswith(prefix) and embedding.is_processed:
            vectors = _read(platform.read_embedding(dataset, embedding), missing) | vectors
            missing -= vectors.keys()
    if missing:
        logger.warning(
            "Not uploading embeddings: Lightly requires one per sample, but its dataset %r has %d samples that are "
            "not among the images of this run, such as %s. Use a separate dataset.",
            dataset.name,
            len(missing),
            shorten(min(missing)),
        )
        return None
    if existing:
        platform.delete_embedding(dataset, existing)  # its file may be missing
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", suffix=".csv") as file:
        _write(file, order, vectors)
        file.flush()
        embedding_id, url = platform.create_embedding(dataset, name)
        platform.put(url, Path(file.name))
    platform.project(dataset, embedding_id)
    done.add(piece)
    return embedding_id


def _digest(order: list[str], vectors: dict[str, Floats]) -> str:
    digest = hashlib.sha256()
    for name in order:
        digest.update(name.encode() + b"\0")
        if name in vectors:
            digest.update(vectors[name].tobytes())
    return digest.hexdigest()[:8]


def _write(file: Any, order: list[str], vectors: dict[str, Floats]) -> None:
    """Writes the same file as lightly.utils.io.save_embeddings, without its copies in memory."""
    writer = csv.writer(file)
    dimension = len(vectors[order[0]])
    writer.writerow(["filenames", *(f"embedding_{number}" for number in range(dimension)), "labels"])
    for name in order:
        writer.writerow([name, *vectors[name].astype(str), 0])


def _read(content: bytes, wanted: set[str]) -> dict[str, Floats]:
    """The vectors of the wanted samples in a file of embeddings."""

    def rows() -> Iterator[tuple[str, Floats]]:
        reader = csv.reader(io.StringIO(content.decode(), newline=""))
        next(reader)
        for name, *values, _ in reader:
            if name in wanted:
                yield name, np.array(values, np.float32)

    return dict(rows())
