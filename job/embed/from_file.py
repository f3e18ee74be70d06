"""Reads embeddings that were made elsewhere: a file with one vector per file name."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from job.embed import arrays, tabular
from job.embed.size import check_dimensions
from job.errors import SettingsError, one_line
from job.inputs.match import Match, compare
from job.names import quantify, shorten
from job.storage import Listing, read_file

_MAX_EXAMPLES = 3


def read(uri: str) -> tuple[list[str], npt.NDArray[np.float32], str]:
    """Reads a file of embeddings.

    - ``.parquet`` and ``.csv``: a column of file names (`job.columns.NAME_COLUMNS`), and a column of vectors
      (`job.columns.VECTOR_COLUMNS`) or else one column per dimension. A column ``labels`` is left out then.
    - ``.npz``: two arrays with the same names.
    - ``.npy``: an array, and a ``.txt`` file of the same name with the file names, one per line.

    Args:
        uri: Path or bucket URI of the file.

    Returns:
        The file names; the embeddings (n, d) in the same order; and the SHA-256 of the file.

    Raises:
        SettingsError: If the file cannot be read or its content is invalid.
    """
    data = _read_file(uri, uri)
    name_list = _read_file(uri, f"{uri[:-4]}.txt") if uri.endswith(".npy") else b""
    try:
        names, values = _parse(uri, data, name_list)
        check_dimensions(values.shape[1])
    except MemoryError:  # Arrow's are among its other errors
        raise
    except (OSError, pa.ArrowException) as error:
        raise _invalid(uri, f"cannot be read: {one_line(error).rstrip('.')}") from None
    except UnicodeDecodeError as error:
        raise _invalid(uri, f"holds text that is not UTF-8 ({error.reason} at byte {error.start})") from None
    except ValueError as error:
        raise _invalid(uri, str(error)) from None
    if len(names) != len(values):
        raise _invalid(uri, f"has {quantify(len(values), 'embedding')} for {quantify(len(names), 'file name')}")
    if not values.shape[1]:
        raise _invalid(uri, "has embeddings without numbers")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is refused
        vectors = values.astype(np.float32)
    not_finite = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(not_finite):
        examples = ", ".join(shorten(names[row]) for row in not_finite[:_MAX_EXAMPLES])
        raise _invalid(uri, f"has numbers that are not finite for {examples}")
    return names, vectors, hashlib.sha256(data + name_list).hexdigest()


def _read_file(uri: str, part: str) -> bytes:
    try:
        return read_file(part)
    except OSError as error:
        reason = getattr(error, "strerror", None) or one_line(error).rstrip(".")
        needed = "" if part == uri else f"needs {part!r} with the file names, one per line, which "
        raise _invalid(uri, f"{needed}cannot be read: {reason}") from None


def _parse(uri: str, data: bytes, name_list: bytes) -> tuple[list[str], npt.NDArray[np.floating]]:
    if uri.endswith(".npy"):
        return arrays.read_npy(data, name_list.decode())
    if uri.endswith(".npz"):
        return arrays.read_npz(data)
    return tabular.read_parquet(data) if uri.endswith(".parquet") else tabular.read_csv(data)


def match_names(uri: str, names: Sequence[str], listing: Listing, input_uri: str) -> Match:
    """Compares the names in a file of embeddings with the images.

    Args:
        uri: Path or bucket URI of the file, for the error message.
        names: File names in it.
        listing: The images.
        input_uri: CORAL_INPUT.

    Raises:
        SettingsError: If an image is named twice.
    """
    match = compare(f"CORAL_EMBEDDING={uri!r}", names, listing, input_uri)
    match.require_distinct()
    return match


def require_most(uri: str, missing: Sequence[str], count: int, max_failed: float) -> None:
    """Refuses a file that lacks too many images, before any work.

    Images that later turn out to be unusable need no embedding, so as many may be missing as may be unusable.

    Args:
        uri: Path or bucket URI of the file, for the error message.
        missing: File names of the images that it lacks.
        count: Number of images.
        max_failed: Largest share of the images that may be unusable, in [0, 1].

    Raises:
        SettingsError: If more embeddings are missing than images may be unusable.
    """
    if len(missing) > max_failed * count:
        raise _incomplete(uri, missing, count)


def read_for_pool(
    uri: str, file_names: Sequence[str], unusable: Sequence[str], input_uri: str
) -> tuple[npt.NDArray[np.float32], str, Match]:
    """Reads the embeddings of a pool.

    Args:
        uri: Path or bucket URI of the file.
        file_names: File names of the pool.
        unusable: File names of the images that could not be used and need no embedding.
        input_uri: CORAL_INPUT.

    Returns:
        The embeddings (n, d) in the order of the pool, the SHA-256 of the file, and how its names meet the images.

    Raises:
        SettingsError: If the file is invalid, or an image has no embedding.
    """
    names, vectors, digest = read(uri)
    listing = Listing.from_names((*file_names, *unusable))
    match = match_names(uri, names, listing, input_uri)
    match.require_any()
    row_of = {match.file_names[name]: row for row, name in enumerate(names) if name in match.file_names}
    if missing := [name for name in file_names if name not in row_of]:
        raise _incomplete(uri, missing, len(file_names))
    return vectors[[row_of[name] for name in file_names]], digest, match


def _incomplete(uri: str, missing: Sequence[str], count: int) -> SettingsError:
    examples = ", ".join(map(shorten, missing[:_MAX_EXAMPLES])) + (" ..." if len(missing) > _MAX_EXAMPLES else "")
    return _invalid(uri, f"has no embedding for {len(missing)} of {count} images: {examples}")


def _invalid(uri: str, problem: str) -> SettingsError:
    return SettingsError(f"CORAL_EMBEDDING={uri!r} {problem}. Give a file with one embedding per image.")
