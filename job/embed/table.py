"""embeddings.parquet: written, and read back if it was made from the same inputs."""

import logging

from job.parts import checked
from job.parts.checked import DamagedTableError
from job.select.points import Points
from job.spool import SpooledRows
from job.storage import Storage
from job.storage.rangefile import RangeFile
from job.texts import Texts

logger = logging.getLogger(__name__)

NAME = "embeddings.parquet"
_DIGEST = b"digest"


def write(output: Storage, file_names: Texts, embeddings: Points, digest: str) -> None:
    """Writes embeddings.parquet: file_name, and embedding as a list of fixed size. Only blocks of it are in memory.

    Args:
        output: Folder of the results.
        file_names: File names of the n images.
        embeddings: (n, d) in their order.
        digest: Digest of everything that the embeddings depend on.
    """
    output.write(NAME, checked.dump_vectors(file_names.array, embeddings, {_DIGEST: digest}))


def read(output: Storage, digest: str) -> SpooledRows | None:
    """Reads the (n, d) embeddings of embeddings.parquet; None if it is missing, damaged or has another digest."""
    entry = output.stat(NAME)
    if entry is None:
        return None
    try:
        vectors, metadata = checked.load_vectors(RangeFile(output, NAME, entry.size))
    except DamagedTableError as error:
        logger.warning("%s/%s is damaged (%s): the embeddings are made again.", output.uri, NAME, error)
        return None
    return vectors if metadata.get(_DIGEST) == digest.encode() else None
