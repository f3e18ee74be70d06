"""A list of files as the input: each line names one file, in any store."""

import json
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from job import names
from job.errors import AccessDenied, SettingsError
from job.prefetch import prefetch
from job.storage.base import Entry, Storage, keep_all
from job.uris import Location

_MAX_SIMULTANEOUS = 32
_MAX_SIZE = (1 << 63) - 1  # bytes; what a column of a table can hold


class FileList:
    """Files that are named one by one; `job.storage.base.Source` describes the methods.

    The key of a file is its path or URI as the list gives it.

    Args:
        uri: Path or URI of the list, in the form that is shown.
        text: Content of the list: a path or URI per line. In a ``.jsonl``, a line is a JSON string, or an object with
            the string ``uri``. If the object also has ``etag`` and ``size``, the store is not asked for them.
        base: Folder that relative paths start from.
        open_location: Opens a folder.

    Attributes:
        uri: Path or URI of the list.

    Raises:
        SettingsError: If a line has another form.
    """

    def __init__(self, uri: str, text: str, base: Location, open_location: Callable[[Location], Storage]) -> None:
        self.uri = uri
        self._base, self._open = base, open_location
        self._folders: dict[Location, Storage] = {}
        self._lock = threading.Lock()
        self._entries: dict[str, Entry | None] = {}  # None if the store must be asked
        json_lines = uri.endswith(".jsonl")
        for number, text_line in enumerate(_split(text, json_lines=json_lines), start=1):
            try:
                line = _parse(text_line, json_lines=json_lines)
                key = line["uri"]
                if isinstance(key, str) and key and not names.is_text(key):
                    raise ValueError("has a uri that is not valid Unicode")
                self._locate(key)
                self._entries[key] = _read_entry(key, line)
            except (ValueError, KeyError, TypeError) as error:
                reason = str(error) if isinstance(error, ValueError) else "has no uri"
                raise SettingsError(
                    f"CORAL_INPUT={uri!r} is not a list of files: entry {number} {reason}. "
                    "Write one path or URI per line."
                ) from None

    @property
    def is_empty(self) -> bool:
        """Whether the list names no files."""
        return not self._entries

    def list(self, prefix: str = "", keep: Callable[[str], bool] = keep_all) -> Iterator[Entry]:
        """Yields the files of the list; asks the stores for the entries that the list does not give."""
        wanted = [key for key in self._entries if key.startswith(prefix) and keep(key)]
        with ThreadPoolExecutor(_MAX_SIMULTANEOUS, thread_name_prefix="stat") as executor:
            yield from prefetch(executor, self.entry, wanted, ahead=4 * _MAX_SIMULTANEOUS)

    def read(self, key: str, etag: str | None = None) -> bytes:
        """Reads a whole file."""
        folder, name = self._find(key)
        return folder.read(name, etag)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Reads a part of a file."""
        folder, name = self._find(key)
        return folder.read_range(name, start, length)

    def keys(self) -> Collection[str]:
        """The files as the list names them, without asking a store."""
        return self._entries.keys()

    def entry(self, key: str) -> Entry:
        """Returns the entry of a file of the list; asks its store if the list does not give it."""
        if (entry := self._entries.get(key)) is not None:
            return entry
        folder, name = self._find(key)
        # A file that does not exist, or that cannot be looked at, must not vanish: it is listed, and its read fails.
        try:
            status = folder.stat(name)
        except AccessDenied:
            status = None
        return Entry(key, status.etag, status.size) if status else Entry(key, "", 0)

    def _find(self, key: str) -> tuple[Storage, str]:
        location = self._locate(key)
        # One client per bucket, however many of its folders the list names.
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


def _split(text: str, *, json_lines: bool) -> list[str]:
    return [line for line in text.split("\n") if line.strip()] if json_lines else names.split(text)


def _parse(line: str, *, json_lines: bool) -> dict[str, Any]:
    try:
        value: Any = json.loads(line) if json_lines else names.parse_line(line)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError:
        raise ValueError("is not valid JSON") from None
    return {"uri": value} if isinstance(value, str) else value


def _read_entry(key: str, line: dict[str, Any]) -> Entry | None:
    """Reads the entry that a line gives; None if there is none, or one that cannot be true."""
    etag, size = line.get("etag"), line.get("size")
    if not names.is_text(etag) or type(size) is not int or not 0 <= size <= _MAX_SIZE:
        return None
    return Entry(key, etag.strip('"'), size)
