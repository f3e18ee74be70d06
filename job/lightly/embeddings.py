"""Embeddings on the platform: one CSV file with a row for every sample of the dataset, in the platform's order."""

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

from job.lightly.api import Dataset, Platform
from job.parts import ledger
from job.parts.ledger import Ledger
from job.storage import Storage

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]


def upload(
    platform: Platform, dataset: Dataset, output: Storage, order: list[str], vectors: dict[str, Floats], space: str
) -> str | None:
    """Uploads embeddings, unless they are there.

    The platform wants them for every sample. Those of samples that this run does not know are taken from what an
    earlier run uploaded, if its vectors can be compared with these.

    Args:
        platform: Where to.
        dataset: Where there.
        output: Folder of the results.
        order: File names of all samples in the platform's order.
        vectors: (d,) of each image of this run, by file name.
        space: Digest of all that vectors must have in common to be comparable.

    Returns:
        Their id; None when some samples have none.
    """
    prefix = f"coralpick-{space[:8]}-"
    name = prefix + _digest(order, vectors)
    piece = ledger.name_piece(platform.server, dataset.id, name)
    done = Ledger(output, "embedding", [piece])
    present = platform.embeddings(dataset)
    ours = next((each for each in present if each.name == name), None)
    if ours and (piece in done or ours.is_processed):
        if piece not in done:
            platform.project(dataset, ours.id)  # perhaps only some of the maps were begun
            done.add(piece)
        return ours.id
    missing = {each for each in order if each not in vectors}
    for each in present:
        if missing and each.name.startswith(prefix) and each.is_processed:
            vectors = _read(platform.read_embedding(dataset, each), missing) | vectors
            missing -= vectors.keys()
    if missing:
        logger.warning(
            "The embeddings are not uploaded: Lightly wants one for each sample, and its dataset %r has %d that are "
            "not among the images of this run, such as %r. Use a dataset of its own.",
            *(dataset.name, len(missing), min(missing)),
        )
        return None
    if ours:
        platform.delete_embedding(dataset, ours)  # it may be without its file
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", suffix=".csv") as file:
        _write(file, order, vectors)
        file.flush()
        embedding, url = platform.create_embedding(dataset, name)
        platform.put(url, Path(file.name))
    platform.project(dataset, embedding)
    done.add(piece)
    return embedding


def _digest(order: list[str], vectors: dict[str, Floats]) -> str:
    digest = hashlib.sha256()
    for name in order:
        digest.update(name.encode() + b"\0")
        if name in vectors:
            digest.update(vectors[name].tobytes())
    return digest.hexdigest()[:8]


def _write(file: Any, order: list[str], vectors: dict[str, Floats]) -> None:
    """Writes the file as lightly.utils.io.save_embeddings does, without its copies in memory."""
    writer = csv.writer(file)
    dimension = len(vectors[order[0]])
    writer.writerow(["filenames", *(f"embedding_{number}" for number in range(dimension)), "labels"])
    for name in order:
        writer.writerow([name, *vectors[name].astype(str), 0])


def _read(content: bytes, wanted: set[str]) -> dict[str, Floats]:
    """The vectors of some samples in such a file."""

    def rows() -> Iterator[tuple[str, Floats]]:
        reader = csv.reader(io.StringIO(content.decode(), newline=""))
        next(reader)
        for name, *values, _ in reader:
            if name in wanted:
                yield name, np.array(values, np.float32)

    return dict(rows())
