"""Selection: arrays in, picks and their reasons out. Nothing here reads or writes files."""

from job.select.engine import Pick, Selection, select

__all__ = ["Pick", "Selection", "select"]
