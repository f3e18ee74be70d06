"""What the map step leaves: parts, the listings of shards, and what is read back from them."""

from job.parts.columns import flatten_lists
from job.parts.part import (
    DEFAULT_SIZE,
    FOLDER,
    NO_DETECTOR,
    RENAMED,
    Part,
    Row,
    check_same,
    choose_size,
    count_ahead,
    file_etag,
    find_done,
    list_files,
    read,
    renamed_etag,
    set_aside,
    write,
    write_table,
)
from job.parts.provenance import SCHEMA_VERSION, Provenance, describe_difference

__all__ = [
    "DEFAULT_SIZE",
    "FOLDER",
    "NO_DETECTOR",
    "RENAMED",
    "SCHEMA_VERSION",
    "Part",
    "Provenance",
    "Row",
    "check_same",
    "choose_size",
    "count_ahead",
    "describe_difference",
    "file_etag",
    "find_done",
    "flatten_lists",
    "list_files",
    "read",
    "renamed_etag",
    "set_aside",
    "write",
    "write_table",
]
