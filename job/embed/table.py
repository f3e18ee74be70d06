"""embeddings.parquet: written, and read back if it was made from the same inputs."""

import io
import logging

import numpy as np
import numpy.typing as npt

from job.parts import checked
from job.parts.checked import DamagedTableError
from job.select.points import Points
from job.storage import Storage, read_required
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


def read(output: Storage, digest: str) -> npt.NDArray[np.float32] | None:
    """Reads the (n, d) embeddings of embeddings.parquet; None if it is missing, damaged or has another digest."""
    if output.stat(NAME) is None:
        return None
    try:
        table = checked.load(io.BytesIO(read_required(output, NAME)))
    except DamagedTableError as error:
        logger.warning("%s/%s is damaged (%s): the embeddings are made again.", output.uri, NAME, error)
        return None
    if (table.schema.metadata or {}).get(_DIGEST) != digest.encode():
        return None
    vectors = table["embedding"].combine_chunks()
    result: npt.NDArray[np.float32] = vectors.flatten().to_numpy().reshape(len(vectors), -1)
    return result
