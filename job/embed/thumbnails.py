"""The thumbnails of the pool as pictures, which wait as JPEG files in a temporary file."""

from collections.abc import Sequence
from typing import Any

import PIL.Image

from job.images import read_thumbnail
from job.parts import pool as pools
from job.parts.pool import Pool
from job.spool import SpooledBytes
from job.storage import Storage


class Thumbnails(Sequence[PIL.Image.Image]):
    """RGB pictures, decoded when they are asked for: that takes a tenth of the time of one view of SimCLR.

    Args:
        files: Their JPEG files.
    """

    def __init__(self, files: SpooledBytes) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, row: Any) -> Any:
        return read_thumbnail(self._files[row])


def read_files(output: Storage, pool: Pool) -> SpooledBytes:
    """Reads the JPEG files of all usable images, in the order of the pool; only those of one part are in memory.

    Raises:
        JobError: If a part cannot be read, or there is no room for the temporary file.
    """
    files = SpooledBytes(len(pool.file_names))
    for _, rows, table in pools.read_rows(output, pool, range(len(files)), ["thumbnail"]):
        for row, thumbnail in zip(rows.tolist(), table["thumbnail"].to_pylist(), strict=True):
            files.write(row, thumbnail or b"")
    return files
