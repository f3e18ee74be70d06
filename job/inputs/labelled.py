"""Reads CORAL_LABELLED and CORAL_REJECTED: names of images, in the forms that labelling tools and this job write."""

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

from job import columns, names
from job.errors import SettingsError, one_line
from job.inputs.match import Match, compare
from job.names import shorten
from job.storage import Listing, read_file

_PICKS = "selected.txt"


def match(uri: str, listing: Listing, input_uri: str, setting: str = "CORAL_LABELLED") -> Match:
    """Reads the names of the labelled or rejected images, and compares them with the images of the input.

    Args:
        uri: Path or URI of a list, or of the output of an earlier run.
        listing: The images.
        input_uri: CORAL_INPUT.
        setting: Name of the setting, for messages.

    Raises:
        SettingsError: If the list cannot be read.
        JobError: If the store cannot be used.
    """
    return compare(f"{setting}={uri!r}", read(uri, setting), listing, input_uri)


def read(uri: str, setting: str = "CORAL_LABELLED") -> list[str]:
    """Reads the names of the labelled or rejected images, as they are written.

    The forms are lines (any extension), ``.csv`` with a column ``file_name``, ``.jsonl`` with strings or objects that
    have a ``file_name``, a JSON list of these, COCO JSON (all its images), and the output of a run (its picks). Without
    a ``file_name``, the other usual names of such a column are accepted (`job.columns.NAME_COLUMNS`).

    Raises:
        SettingsError: If the list cannot be read, or has none of these forms.
        JobError: If the store cannot be used.
    """
    try:
        return _parse(_read_text(uri), uri.lower())
    except (OSError, ValueError, RecursionError) as error:  # the last of JSON that is nested too deeply
        reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error).rstrip(".")
        raise SettingsError(
            f"{setting}={uri!r} cannot be read: {reason}. Give a list of file names (.txt), a .csv or .jsonl with "
            "file_name, a COCO JSON file, or an earlier CORAL_OUTPUT."
        ) from None


def _read_text(uri: str) -> str:
    try:
        return read_file(uri).decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        try:
            return read_file(f"{uri.rstrip('/')}/{_PICKS}").decode()
        except (FileNotFoundError, NotADirectoryError):
            raise error from None


def _parse(text: str, uri: str) -> list[str]:
    if uri.endswith(".csv"):
        return _parse_csv(text)
    if uri.endswith((".jsonl", ".ndjson")):
        return _find_names(json.loads(line) for line in text.split("\n") if line.strip())
    if uri.endswith(".json") or text.lstrip().startswith(("{", "[")):
        try:
            content: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            if uri.endswith(".json"):
                raise ValueError(f"it is not valid JSON ({one_line(error)})") from None
        else:
            return _parse_json(content)
    return names.parse(text)


def _parse_csv(text: str) -> list[str]:
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        title = _find_title(list(rows.fieldnames or ()), "it")
        return [row[title] for row in rows if row[title]]
    except csv.Error as error:
        raise ValueError(f"it is not valid CSV ({error})") from None


def _find_title(fields: list[str], subject: str) -> str:
    try:
        return columns.prefer_file_name(fields)
    except ValueError as error:
        raise ValueError(f"{subject} {error}") from None


def _parse_json(content: Any) -> list[str]:
    if isinstance(content, list):
        return _find_names(content)
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        return _find_names(content["images"])
    raise ValueError("it is JSON without images that have a file_name")


def _find_names(entries: Iterable[Any]) -> list[str]:
    found = []
    for number, entry in enumerate(entries, start=1):
        fields = [str(field) for field, value in entry.items() if value] if isinstance(entry, dict) else []
        name = entry.get(_find_title(fields, f"entry {number}")) if isinstance(entry, dict) else entry
        if not isinstance(name, str) or not name:
            raise ValueError(f"entry {number} has no {columns.NAME_COLUMNS[0]}: {shorten(entry)}")
        found.append(name)
    return found
