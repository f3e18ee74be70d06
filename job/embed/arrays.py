"""Embeddings in numpy's own files: .npz with two arrays, and .npy with the file names in a text file next to it."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from job import columns, names
from job.columns import VECTOR_COLUMNS
from job.embed.size import check_memory
from job.errors import one_line
from job.names import shorten

Array = npt.NDArray[Any]


def read_npz(data: bytes) -> tuple[list[str], Array]:
    """Reads a .npz file: file names, and (n, d) embeddings.

    Raises:
        ValueError: If the content is invalid, or holds Python objects.
    """
    archive = _load(data)
    if isinstance(archive, np.ndarray):
        raise ValueError("is one array, as in a .npy file: give it that ending, and its file names in a .txt file")
    columns.check_columns(archive.files)
    check_memory(sum(member.file_size for member in archive.zip.infolist()))
    name_title = columns.find_name_column(archive.files)
    title = columns.find_column(archive.files, VECTOR_COLUMNS)
    if title is None:
        raise ValueError(f"has no array {VECTOR_COLUMNS[0]}, only {columns.list_names(archive.files)}")
    return _read_names(_extract(archive, name_title), name_title), _check(_extract(archive, title), title)


def read_npy(data: bytes, name_list: str) -> tuple[list[str], Array]:
    """Reads a .npy file.

    Args:
        data: Content of the file.
        name_list: Content of the text file with the file names, one per line.

    Raises:
        ValueError: If the content is invalid, or holds Python objects.
    """
    array = _load(data)
    if not isinstance(array, np.ndarray):
        raise ValueError("holds several arrays, as a .npz file does: give it that ending")
    file_names = names.parse(name_list)
    columns.check_names(file_names, "its .txt file")
    return file_names, _check(array, "its array")


def _load(data: bytes) -> Any:
    return _explain(lambda: np.load(io.BytesIO(data), allow_pickle=False))


def _extract(archive: Any, title: str) -> Array:
    array: Array = _explain(lambda: archive[title])
    return array


def _explain(load: Any) -> Any:
    """Calls a function that loads an array, and says what is wrong if it fails."""
    try:
        return load()
    except MemoryError:
        raise
    except Exception as error:  # of numpy, zipfile, zlib, and Python's tokenizer, which parses a damaged header
        if "pickle" in str(error):  # numpy advises to allow pickles
            raise ValueError(
                "holds Python objects, which are not loaded because they can execute code: save the names as "
                "np.array(names, dtype=str)"
            ) from None
        raise ValueError(f"cannot be read: {one_line(error).rstrip('.')}") from None


def _read_names(array: Array, title: str) -> list[str]:
    if array.dtype.kind not in "US" or array.ndim != 1:
        raise ValueError(
            f"has {array.dtype} of the shape {array.shape} in {shorten(title)}, from row 1 on, where a list of file "
            "names should be"
        )
    values = [value.decode() if isinstance(value, bytes) else value for value in array.tolist()]
    columns.check_names(values, title)
    return values


def _check(array: Array, title: str) -> Array:
    if array.dtype.kind not in "fiu":
        raise ValueError(f"has embeddings that are not numbers: {array.dtype} in {shorten(title)}, from row 1 on")
    if array.ndim != 2:
        raise ValueError(f"has an array of the shape {array.shape} in {shorten(title)}: give one row per image")
    return array
