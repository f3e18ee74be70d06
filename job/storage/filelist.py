"""A list of files as the input: each line of it names one, in any place."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from job import names
from job.errors import AccessDenied, SettingsError
from job.prefetch import prefetch
from job.storage.base import Entry, Storage, keep_all
from job.uris import Location

_SIMULTANEOUS = 32


class FileList:
    """Files named one by one; `job.storage.base.Source` says what its methods do.

    The key of a file is its URI as it stands in the list.

    Args:
        uri: Of the list, as it is shown.
        text: Content of the list: a path or URI a line. In a ``.jsonl`` a line is a JSON string, or an object whose
            ``uri`` is one; when it has an ``etag`` and a ``size``, the store is not asked for them.
        base: Folder that relative paths in it start from.
        open_location: Opens a folder.

    Raises:
        SettingsError: A line is none of these.
    """

    def __init__(self, uri: str, text: str, base: Location, open_location: Callable[[Location], Storage]) -> None:
        self.uri = uri
        self._base, self._open = base, open_location
        self._folders: dict[Location, Storage] = {}
        self._lock = threading.Lock()
        self._known: dict[str, Entry | None] = {}
        try:
            for line in _lines(text, json_lines=uri.endswith(".jsonl")):
                key = line["uri"]
                self._locate(key)
                whole = isinstance(line.get("etag"), str) and isinstance(line.get("size"), int)
                self._known[key] = Entry(key, line["etag"].strip('"'), line["size"]) if whole else None
        except (ValueError, KeyError, TypeError) as error:
            count = len(self._known) + 1
            raise SettingsError(
                f"CORAL_INPUT={uri!r} is not a list of files: entry {count} {_reason(error)}. "
                "Give one path or URI a line."
            ) from None

    def list(self, prefix: str = "", keep: Callable[[str], bool] = keep_all) -> Iterator[Entry]:
        """Yields the files of the list; those of which it says no more are asked for in their stores."""
        wanted = [key for key in self._known if key.startswith(prefix) and keep(key)]
        with ThreadPoolExecutor(_SIMULTANEOUS, thread_name_prefix="stat") as pool:
            yield from prefetch(pool, self._entry, wanted, ahead=4 * _SIMULTANEOUS)

    def read(self, key: str, etag: str | None = None) -> bytes:
        """The whole content of a file."""
        folder, name = self._find(key)
        return folder.read(name, etag)

    def _entry(self, key: str) -> Entry:
        if (known := self._known[key]) is not None:
            return known
        folder, name = self._find(key)
        # One that is not there, or may not be looked at, is listed and fails when it is read: it must not vanish.
        try:
            found = folder.stat(name)
        except AccessDenied:
            found = None
        return Entry(key, found.etag, found.size) if found else Entry(key, "", 0)

    def _find(self, key: str) -> tuple[Storage, str]:
        location = self._locate(key)
        # One client for a bucket, however many folders of it are named.
        root = Location(location.scheme, location.bucket, "" if location.scheme else "/")
        with self._lock:
            if root not in self._folders:
                self._folders[root] = self._open(root)
        return self._folders[root], location.path if location.scheme else location.normalized.removeprefix("/")

    def _locate(self, key: str) -> Location:
        location = Location.parse(key)
        if location.scheme or location.path.startswith("/"):
            return location
        path = f"{self._base.path}/{location.path}" if self._base.path else location.path
        return Location(self._base.scheme, self._base.bucket, path)


def _lines(text: str, *, json_lines: bool) -> Iterator[dict[str, Any]]:
    if not json_lines:
        yield from ({"uri": each} for each in names.parse(text))
        return
    for line in text.split("\n"):
        if line.strip():
            value = json.loads(line)
            yield {"uri": value} if isinstance(value, str) else value


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return "is no JSON"
    return str(error) if type(error) is ValueError else "has no uri"
