"""Where images come from and results go to: local folders, buckets, and lists of files that lie in them."""

import contextlib
import threading
from collections.abc import Iterator

from job.errors import AccessDenied, ServiceUnavailable, SettingsError
from job.retry import Patience
from job.storage.base import Entry, Source, Storage
from job.storage.listing import Listing
from job.storage.local import LocalFolder
from job.uris import Location, normalize

__all__ = [
    "Entry", "Listing", "Source", "Storage",
    "expect_readable", "open_folder", "open_location", "open_source", "read_file", "read_required",
]  # fmt: skip


def open_folder(uri: str, *, stop: threading.Event | None = None, patience: Patience | None = None) -> Storage:
    """Opens a folder; the libraries for it are loaded only now.

    Args:
        uri: A path, or a URI of a bucket.
        stop: When set, waiting for a bucket ends; None where what was begun must come to its end.
        patience: How long to try.

    Raises:
        SettingsError: There can be no such place.
    """
    return open_location(Location.parse(uri), stop=stop, patience=patience)


def open_location(
    location: Location, *, stop: threading.Event | None = None, patience: Patience | None = None
) -> Storage:
    """Opens a folder whose URI is taken apart already."""
    stop, patience = stop or threading.Event(), patience or Patience()
    if location.scheme == "s3":
        from job.storage.s3 import S3Folder

        return S3Folder(location.bucket, location.path, stop=stop, patience=patience)
    if location.scheme:
        from job.storage.gcs_azure import CloudFolder, store_of

        store = store_of(location.scheme, location.bucket)
        return CloudFolder(location.normalized, store, location.path, stop=stop, patience=patience)
    return LocalFolder(location.path)


def open_source(uri: str, stop: threading.Event) -> Source:
    """Opens the input: a folder, or a list of files (``.txt``, ``.jsonl``).

    Args:
        uri: A path, or a URI of a bucket.
        stop: When set, waiting for a bucket ends.

    Raises:
        SettingsError: There can be no such place, or the list cannot be read.
    """
    if not uri.endswith((".txt", ".jsonl")):
        return open_folder(uri, stop=stop)
    from job.storage.filelist import FileList

    try:
        text = read_file(uri).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"CORAL_INPUT={uri!r} cannot be read: {reason}.") from None
    base, _ = Location.parse(uri).split()
    return FileList(normalize(uri), text, base, lambda location: open_location(location, stop=stop))


def read_file(uri: str) -> bytes:
    """The content of one file, wherever it is.

    Raises:
        OSError: It cannot be read.
        AccessDenied: It may not be read.
        JobError: Its store cannot be used.
    """
    folder, name = Location.parse(uri).split()
    try:
        return open_location(folder).read(name)
    except PermissionError as error:
        raise AccessDenied(f"{normalize(uri)} may not be read: {error.strerror}.") from None


def read_required(storage: Storage, key: str) -> bytes:
    """The content of a file without which the job cannot go on; raises as `expect_readable` does."""
    with expect_readable(storage, key):
        return storage.read(key)


@contextlib.contextmanager
def expect_readable(storage: Storage, key: str) -> Iterator[None]:
    """Reads of a file without which the job cannot go on.

    Raises:
        AccessDenied: It may not be read.
        ServiceUnavailable: It cannot be read.
    """
    try:
        yield
    except PermissionError as error:
        raise AccessDenied(f"{storage.uri}/{key} may not be read: {error.strerror}.") from None
    except OSError as error:
        raise ServiceUnavailable(f"{storage.uri}/{key} cannot be read: {error.strerror}.") from None
