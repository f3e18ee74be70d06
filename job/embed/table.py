"""embeddings.parquet: written, and read back if it was made from the same inputs."""

import io
import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from job.parts import checked
from job.parts.checked import DamagedTableError
from job.storage import Storage, read_required

logger = logging.getLogger(__name__)

NAME = "embeddings.parquet"
_DIGEST = b"digest"


def write(output: Storage, file_names: Sequence[str], embeddings: npt.NDArray[np.float32], digest: str) -> None:
    """Writes embeddings.parquet: file_name, and embedding as a list of fixed size.

    Args:
        output: Folder of the results.
        file_names: File names of the n images.
        embeddings: (n, d) in their order.
        digest: Digest of everything that the embeddings depend on.
    """
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
    table = pa.table({"file_name": pa.array(file_names, pa.string()), "embedding": vectors})
    output.write(NAME, checked.dump(table, {_DIGEST: digest}))


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
