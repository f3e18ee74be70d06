"""What the map step leaves: parts, the listings of shards, and what is read back from them."""

from job.parts.part import (
    FOLDER,
    NO_DETECTOR,
    RENAMED,
    SCHEMA_VERSION,
    Part,
    Provenance,
    Row,
    check_same,
    describe_difference,
    find_done,
    flatten_lists,
    list_files,
    read,
    set_aside,
    write,
    write_table,
)

__all__ = [
    "FOLDER",
    "NO_DETECTOR",
    "RENAMED",
    "SCHEMA_VERSION",
    "Part",
    "Provenance",
    "Row",
    "check_same",
    "describe_difference",
    "find_done",
    "flatten_lists",
    "list_files",
    "read",
    "set_aside",
    "write",
    "write_table",
]
