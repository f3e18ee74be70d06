"""The places that images are read from and results are written to: local folders, buckets, and lists of files."""

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from job.errors import AccessDenied, ServiceUnavailable, SettingsError
from job.retry import Patience
from job.storage.base import Entry, Source, Storage
from job.storage.listing import Listing
from job.storage.stores import STORES
from job.uris import Location, normalize
from job.video import Sampling

if TYPE_CHECKING:
    from job.storage.frames import VideoSource

__all__ = [
    "STORES", "Entry", "Listing", "Source", "Storage",
    "expect_readable", "open_folder", "open_location", "open_output", "open_source", "read_file",
    "read_required",
]  # fmt: skip


def open_folder(uri: str, *, stop: threading.Event | None = None, patience: Patience | None = None) -> Storage:
    """Opens a folder.

    Args:
        uri: A path, or the URI of a bucket or of a folder in it.
        stop: When set, waiting for the store ends; None to wait until an operation has succeeded or failed.
        patience: How long to try.

    Raises:
        SettingsError: If the store's own variables or configuration files are wrong, or its library is missing.
        ValueError: If the URI is invalid.
    """
    return open_location(Location.parse(uri), stop=stop, patience=patience)


def open_location(
    location: Location,
    *,
    stop: threading.Event | None = None,
    patience: Patience | None = None,
    max_bytes: int | None = None,
) -> Storage:
    """Opens a folder as `open_folder` does, from a URI that is parsed already.

    Args:
        location: The folder.
        stop: When set, waiting for the store ends; None to wait until an operation has succeeded or failed.
        patience: How long to try.
        max_bytes: Larger files are not read whole; None for no limit.
    """
    store = STORES[location.scheme]
    return store.open(location, stop=stop or threading.Event(), patience=patience or Patience(), max_bytes=max_bytes)


def open_output(uri: str, *, stop: threading.Event, patience: Patience) -> Storage:
    """Opens the output as `open_folder` does, but does not follow symbolic links in it: they lead to files of others.

    Args:
        uri: A path, or the URI of a bucket or of a folder in it.
        stop: When set, waiting for the store ends.
        patience: How long to try.

    Raises:
        SettingsError: If the store's own variables or configuration files are wrong, or its library is missing.
    """
    location = Location.parse(uri)
    if location.scheme:
        return open_location(location, stop=stop, patience=patience)
    from job.storage.local import LocalFolder

    return LocalFolder(location.path, follows_links=False, stop=stop, patience=patience)


def open_source(uri: str, stop: threading.Event, sampling: Sampling) -> "VideoSource":
    """Opens the input: a folder, or a list of files (``.txt``, ``.jsonl``). Files too large for an image are not read.

    Args:
        uri: A path, or a URI of a bucket.
        stop: When set, waiting for a store ends.
        sampling: Which frames of videos are images.

    Raises:
        SettingsError: If the folder cannot be opened, or if the list cannot be read or parsed.
    """
    # The libraries of images take long to import, and other folders do not need them.
    from job.images import MAX_BYTES
    from job.storage.frames import VideoSource

    def open_limited(location: Location) -> Storage:
        return open_location(location, stop=stop, max_bytes=MAX_BYTES)

    if not uri.endswith((".txt", ".jsonl")):
        return VideoSource(open_limited(Location.parse(uri)), sampling, stop)
    from job.storage.filelist import FileList

    try:
        text = read_file(uri).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"CORAL_INPUT={uri!r} cannot be read: {reason}.") from None
    base, _ = Location.parse(uri).split()
    return VideoSource(FileList(normalize(uri), text, base, open_limited), sampling, stop)


def read_file(uri: str) -> bytes:
    """Reads one file from any store.

    Args:
        uri: A path, or a URI of a bucket.

    Returns:
        Content of the file.

    Raises:
        AccessDenied: If the permission to read the file is missing.
        OSError: If the file does not exist or cannot be read.
        JobError: If the store cannot be used.
    """
    folder, name = Location.parse(uri).split()
    try:
        return open_location(folder).read(name)
    except PermissionError as error:
        raise AccessDenied(f"Cannot read {normalize(uri)}: {error.strerror}.") from None


def read_required(storage: Storage, key: str) -> bytes:
    """Reads a file that the job cannot do without; raises what `expect_readable` raises."""
    with expect_readable(storage, key):
        return storage.read(key)


@contextlib.contextmanager
def expect_readable(storage: Storage, key: str) -> Iterator[None]:
    """Ends the job if a read within the context fails.

    Args:
        storage: Folder that holds the file.
        key: The file that is read.

    Raises:
        AccessDenied: If the permission to read the file is missing.
        ServiceUnavailable: If the file does not exist or cannot be read.
    """
    try:
        yield
    except PermissionError as error:
        raise AccessDenied(f"Cannot read {storage.uri}/{key}: {error.strerror}.") from None
    except OSError as error:
        raise ServiceUnavailable(f"Cannot read {storage.uri}/{key}: {error.strerror}.") from None
