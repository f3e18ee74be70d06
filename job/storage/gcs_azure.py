"""Google Cloud Storage and Azure Blob Storage, by obstore, with the variables of the environment that it documents."""

import contextlib
import errno
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from job.errors import AccessDenied, ServiceUnavailable, SettingsError, first_line
from job.retry import Attempt, Patience, Requests, TransientError
from job.storage.base import Entry, keep_all

try:
    import obstore
    from obstore.exceptions import BaseError, InvalidPathError, PermissionDeniedError, UnauthenticatedError
    from obstore.store import AzureStore, GCSStore, ObjectStore
except ImportError:  # told in one sentence to whom it concerns, in `store_of`
    obstore = None  # type: ignore[assignment]

T = TypeVar("T")

_LONGEST_REQUEST = timedelta(minutes=30)  # each attempt has its own, shorter limit; this ends those left behind


def store_of(scheme: str, bucket: str) -> "ObjectStore":
    """The store of a bucket of Google Cloud Storage, or of a container of Azure.

    Raises:
        SettingsError: obstore is not installed, or a variable that it reads is wrong.
    """
    if obstore is None:
        raise SettingsError(f"{scheme}:// needs the package obstore, which is not installed: pip install obstore.")
    options: Any = {
        "client_options": {
            "timeout": _LONGEST_REQUEST,
            "connect_timeout": timedelta(seconds=5),
            "allow_http": True,  # the endpoints are https, but for those that the user gives otherwise
        },
        "retry_config": {"max_retries": 0},  # `run_with_retries` does it
    }
    try:
        return GCSStore(bucket, **options) if scheme == "gs" else AzureStore(bucket, **options)
    except (BaseError, ValueError) as error:
        raise SettingsError(f"{scheme}://{bucket} cannot be used: {first_line(error)}.") from None


class CloudFolder:
    """A folder of a bucket; `job.storage.base.Storage` says what its methods do.

    Args:
        uri: Of the folder, as it is shown.
        store: The bucket.
        folder: Path prefix without the last ``/``; empty for the whole bucket.
        stop: When set, reading ends.
        patience: How long to try.

    Attributes:
        uri: Of the folder.
    """

    def __init__(
        self, uri: str, store: "ObjectStore", folder: str, *, stop: threading.Event, patience: Patience
    ) -> None:
        self.uri = uri
        self._store, self._prefix = store, folder + "/" if folder else ""
        self._requests = Requests(patience, stop)

    def list(self, prefix: str = "", keep: Callable[[str], bool] = keep_all) -> Iterator[Entry]:
        """Yields the objects below the folder."""
        stream: Any = None
        last: str | None = None

        def page(attempt: Attempt) -> tuple[Any, Any]:
            # Another attempt begins anew, behind the last name: these stores list in the order of names.
            again = attempt.number > 1 or stream is None
            current = iter(self._stream(self._prefix + prefix, last)) if again else stream
            return current, next(current, None)

        while True:
            stream, found = self._call(page, "listed")
            if not found:
                return
            for each in found:
                last = each["path"]
                if keep(key := each["path"].removeprefix(self._prefix)):
                    yield Entry(key, _etag(each), each["size"])

    def _stream(self, prefix: str, after: str | None) -> Any:
        return obstore.list(self._store, prefix=prefix, offset=after, chunk_size=1000)

    def stat(self, key: str) -> Entry | None:
        """The entry of one object."""
        try:
            found = self._call(lambda attempt: obstore.head(self._store, self._prefix + key), "read")
        except FileNotFoundError:
            return None
        return Entry(key, _etag(found), found["size"])

    def read(self, key: str, etag: str | None = None) -> bytes:
        """The whole content of an object."""

        def get(attempt: Attempt) -> bytes:
            result = obstore.get(self._store, self._prefix + key)
            if etag and _etag(result.meta) != etag:
                raise OSError(errno.ESTALE, "it has changed since the listing")
            attempt.expect(result.meta["size"])
            data = result.bytes().to_bytes()
            if len(data) != result.meta["size"]:
                raise TransientError("the body is not as long as it should be")
            return data

        return self._read(get)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Some bytes of an object."""

        def get(attempt: Attempt) -> bytes:
            attempt.expect(length)
            return obstore.get_range(self._store, self._prefix + key, start=start, length=length).to_bytes()

        return self._read(get)

    def write(self, key: str, data: bytes) -> None:
        """Writes an object; large ones go up in parts that become visible together."""

        def put(attempt: Attempt) -> None:
            attempt.expect(len(data))
            obstore.put(self._store, self._prefix + key, data)

        try:
            self._call(put, "written")
        except FileNotFoundError:
            raise SettingsError(f"{self.uri}: there is no such bucket.") from None

    def delete(self, key: str) -> None:
        """Removes an object."""
        with contextlib.suppress(FileNotFoundError):
            self._call(lambda attempt: obstore.delete(self._store, self._prefix + key), "removed")

    def _read(self, get: Callable[[Attempt], bytes]) -> bytes:
        try:
            return self._send(get)
        except TransientError as error:
            # An outage of the whole store must end the job, or every image would count as failed.
            next(self.list(), None)
            raise OSError(errno.EIO, f"the store lists it but does not give it ({error})") from None

    def _call(self, function: Callable[[Attempt], T], done: str) -> T:
        try:
            return self._send(function)
        except TransientError as error:
            raise ServiceUnavailable(f"{self.uri} cannot be reached ({error}).") from None
        except PermissionError:
            raise AccessDenied(f"{self.uri} may not be {done}: the credentials lack that permission.") from None

    def _send(self, function: Callable[[Attempt], T]) -> T:
        def translating(attempt: Attempt) -> T:
            try:
                return function(attempt)
            except FileNotFoundError:  # obstore's own, whose text is a page
                raise FileNotFoundError(errno.ENOENT, "there is no such object") from None
            except (BaseError, ValueError) as error:
                raise self._translated(error) from None

        return self._requests.send(translating)

    def _translated(self, error: Exception) -> Exception:
        """What an error of obstore means to the job. Its texts may quote the request, so little of them is shown."""
        if isinstance(error, (InvalidPathError, ValueError)):
            return SettingsError(
                f"{self.uri} holds a name that obstore cannot handle, such as one with // or a control character: "
                f"{first_line(error)}. Rename it, or give a list of the other files."
            )
        if isinstance(error, UnauthenticatedError):
            return AccessDenied(f"{self.uri}: the store does not accept the credentials: renew or correct them.")
        if isinstance(error, PermissionDeniedError):
            return PermissionError(errno.EACCES, "access denied")
        # What follows the dash is the answer, without the address, which may be signed.
        found = re.search(r" - ([^<\n]{1,100})", str(error))
        reason = found[1].removeprefix("Server returned non-2xx status code: ").strip(" :") if found else "GenericError"
        if reason.startswith(("401", "403")):  # of a listing, which has no kinds of errors
            return PermissionError(errno.EACCES, "access denied")
        if reason.startswith("404"):
            return SettingsError(f"{self.uri}: there is no such bucket.")
        return TransientError(reason)


def _etag(meta: Any) -> str:
    return str(meta["e_tag"] or meta["last_modified"].isoformat()).strip('"')
