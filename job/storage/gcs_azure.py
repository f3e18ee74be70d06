"""Google Cloud Storage and Azure Blob Storage, by obstore and with the environment variables that it documents."""

import contextlib
import errno
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from job.errors import AccessDenied, ServiceUnavailable, SettingsError, first_line
from job.retry import Attempt, Patience, Requests, TransientError
from job.spool import Spool
from job.storage.base import Content, Entry, keep_all, name_for_keep, refuse_size

try:
    import obstore
    from obstore.exceptions import BaseError, InvalidPathError, PermissionDeniedError, UnauthenticatedError
    from obstore.store import AzureStore, GCSStore, ObjectStore
except ImportError:  # `_explain_failure` reports it
    obstore = None  # type: ignore[assignment]

T = TypeVar("T")

_MAX_REQUEST = timedelta(minutes=30)  # each attempt has its own, shorter limit; this one ends abandoned requests


def open_google(bucket: str) -> "ObjectStore":
    """Opens a bucket of Google Cloud Storage.

    Raises:
        SettingsError: If obstore is not installed, or if a variable that it reads is wrong.
    """
    with _explain_failure(f"gs://{bucket}"):
        return GCSStore(bucket, **_options())


def open_azure(container: str) -> "ObjectStore":
    """Opens a container of Azure Blob Storage.

    Raises:
        SettingsError: If obstore is not installed, or if a variable that it reads is wrong.
    """
    with _explain_failure(f"az://{container}"):
        return AzureStore(container, **_options())


@contextlib.contextmanager
def _explain_failure(uri: str) -> Iterator[None]:
    if obstore is None:
        raise SettingsError(f"{uri} needs the package obstore, which is not installed: pip install obstore.")
    try:
        yield
    except (BaseError, ValueError) as error:
        raise SettingsError(f"{uri} cannot be used: {first_line(error)}.") from None


def _options() -> Any:
    return {
        "client_options": {
            "timeout": _MAX_REQUEST,
            "connect_timeout": timedelta(seconds=5),
            "allow_http": True,  # the default endpoints are https; the user may give another
        },
        "retry_config": {"max_retries": 0},  # `run_with_retries` retries
    }


class CloudFolder:
    """A folder of a bucket; `job.storage.base.Storage` describes the methods.

    Args:
        uri: URI of the folder, in the form that is shown.
        store: The bucket.
        folder: Path prefix without the last ``/``; empty for the whole bucket.
        stop: When set, waiting for the store ends.
        patience: How long to try.
        max_bytes: Larger objects are not read whole; None for no limit.

    Attributes:
        uri: URI of the folder.
    """

    def __init__(
        self,
        uri: str,
        store: "ObjectStore",
        folder: str,
        *,
        stop: threading.Event,
        patience: Patience,
        max_bytes: int | None = None,
    ) -> None:
        self.uri = uri
        self._store, self._prefix = store, folder + "/" if folder else ""
        self._requests = Requests(patience, stop)
        self._max_bytes = max_bytes

    def list(self, prefix: str = "", keep: Callable[[str], bool] = keep_all) -> Iterator[Entry]:
        """Yields the objects below the folder."""
        stream: Any = None
        last: str | None = None

        def next_page(attempt: Attempt) -> tuple[Any, Any]:
            # A retry starts a new listing after the last name: these stores list in the order of names.
            restart = attempt.number > 1 or stream is None
            current = iter(self._stream(self._prefix + prefix, last)) if restart else stream
            return current, next(current, None)

        while True:
            stream, page = self._call(next_page, "list")
            if not page:
                return
            for item in page:
                last = item["path"]
                key = last.removeprefix(self._prefix)
                if keep(name_for_keep(key, item["size"])):
                    yield Entry(key, _etag(item), item["size"])

    def _stream(self, prefix: str, after: str | None) -> Any:
        return obstore.list(self._store, prefix=prefix, offset=after, chunk_size=1000)

    def stat(self, key: str) -> Entry | None:
        """Returns the entry of one object."""
        try:
            meta = self._call(lambda attempt: obstore.head(self._store, self._prefix + key), "read")
        except FileNotFoundError:
            return None
        return Entry(key, _etag(meta), meta["size"])

    def read(self, key: str, etag: str | None = None) -> bytes:
        """Reads a whole object."""

        def get(attempt: Attempt) -> bytes:
            result = obstore.get(self._store, self._prefix + key)
            if etag and _etag(result.meta) != etag:
                raise OSError(errno.ESTALE, "it has changed since the listing")
            refuse_size(result.meta["size"], self._max_bytes)
            attempt.expect(result.meta["size"])
            data = result.bytes().to_bytes()
            if len(data) != result.meta["size"]:
                raise TransientError("the body is truncated")
            return data

        return self._read(get)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Reads a part of an object."""

        def get(attempt: Attempt) -> bytes:
            attempt.expect(length)
            return obstore.get_range(self._store, self._prefix + key, start=start, length=length).to_bytes()

        return self._read(get)

    def write(self, key: str, data: Content) -> None:
        """Writes an object. Large ones are uploaded in parts, which become visible together."""

        def put(attempt: Attempt) -> None:
            attempt.expect(len(data))
            obstore.put(self._store, self._prefix + key, data.open() if isinstance(data, Spool) else data)

        try:
            self._call(put, "write")
        except FileNotFoundError:
            raise SettingsError(f"{self.uri}: there is no such bucket.") from None

    def delete(self, key: str) -> None:
        """Deletes an object."""
        with contextlib.suppress(FileNotFoundError):
            self._call(lambda attempt: obstore.delete(self._store, self._prefix + key), "delete")

    def _read(self, get: Callable[[Attempt], bytes]) -> bytes:
        try:
            return self._send(get)
        except TransientError as error:
            # An outage of the whole store must end the job; otherwise every image would count as failed.
            next(self.list(), None)
            raise OSError(errno.EIO, f"it is listed but cannot be read ({error})") from None

    def _call(self, function: Callable[[Attempt], T], action: str) -> T:
        try:
            return self._send(function)
        except TransientError as error:
            raise ServiceUnavailable(f"{self.uri} cannot be reached ({error}).") from None
        except PermissionError:
            raise AccessDenied(f"{self.uri}: permission denied: the credentials cannot {action} objects.") from None

    def _send(self, function: Callable[[Attempt], T]) -> T:
        def translating(attempt: Attempt) -> T:
            try:
                return function(attempt)
            except FileNotFoundError:  # obstore's own, whose text fills a page
                raise FileNotFoundError(errno.ENOENT, "there is no such object") from None
            except (BaseError, ValueError) as error:
                raise self._translate(error) from None

        return self._requests.send(translating)

    def _translate(self, error: Exception) -> Exception:
        """Converts an error of obstore. Its texts may quote the request, so that little of them is shown."""
        if isinstance(error, (InvalidPathError, ValueError)):
            return SettingsError(
                f"{self.uri} contains a name that obstore cannot handle, such as one with // or a control character: "
                f"{first_line(error)}. Rename the object, or set CORAL_INPUT to a list of the other files."
            )
        if isinstance(error, UnauthenticatedError):
            return AccessDenied(f"{self.uri}: the store does not accept the credentials: renew or correct them.")
        if isinstance(error, PermissionDeniedError):
            return PermissionError(errno.EACCES, "permission denied")
        # The answer follows the dash. The address before it is not shown, as it may be signed.
        answer = re.search(r" - ([^<\n]{1,100})", str(error))
        if not answer:
            return TransientError("GenericError")
        reason = answer[1].removeprefix("Server returned non-2xx status code: ").strip(" :")
        if reason.startswith(("401", "403")):  # from a listing, whose errors have no classes
            return PermissionError(errno.EACCES, "permission denied")
        if reason.startswith("404"):
            return SettingsError(f"{self.uri}: there is no such bucket.")
        return TransientError(reason)


def _etag(meta: Any) -> str:
    return str(meta["e_tag"] or meta["last_modified"].isoformat()).strip('"')
