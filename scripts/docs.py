"""Writes the tables of the manual from the records in the code, between marker comments: `make docs`.

A page has a table where it has `<!-- NAME: written by make docs -->` and `<!-- end of NAME -->`, each on a line of its
own. NAME is one of `TABLES`.
"""

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks import figures as benchmark_figures
from benchmarks import quality_figures
from gpu import figures
from job import exports, publish, scores
from job.settings import resolve
from scripts import room

ROOT = Path(__file__).resolve().parent.parent
TABLES: dict[str, Callable[[], str]] = {
    "settings": resolve.markdown_table,
    "outputs": publish.markdown_table,
    "exports": exports.markdown_table,
    "scores": scores.markdown_table,
    "quality": quality_figures.markdown_tables,
    "gains": quality_figures.readme_paragraph,
    "gpu": figures.benchmark_table,
    "pieces": figures.pieces_table,
    "checks": figures.checks_table,
    "reduce": benchmark_figures.reduce_table,
    "blocks": benchmark_figures.blocks_list,
    "room": room.room_table,
}
_MARKER = ": written by make docs -->"
_TABLE = re.compile(rf"<!-- (\w+){_MARKER}\n.*?<!-- end of \1 -->\n", re.DOTALL)


def list_pages() -> list[Path]:
    """The pages that can have tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def find_tables(text: str) -> list[str]:
    """The names of the tables on a page."""
    return _TABLE.findall(text)


def update(text: str) -> str:
    """Rewrites the tables of a page.

    Raises:
        ValueError: If the name of a table is unknown, or a table has no end.
    """
    names = find_tables(text)
    if unknown := [name for name in names if name not in TABLES]:
        raise ValueError(f"There is no table {unknown[0]!r}: use {', '.join(TABLES)}, or add it to scripts/docs.py.")
    if text.count(_MARKER) != len(names):
        raise ValueError("A table has no end: add <!-- end of NAME --> on a line of its own.")
    return _TABLE.sub(lambda match: _render(match[1]), text)


def _render(name: str) -> str:
    return f"<!-- {name}{_MARKER}\n\n{TABLES[name]().strip()}\n\n<!-- end of {name} -->\n"


def main() -> None:
    """Rewrites the tables of all pages."""
    for page in list_pages():
        page.write_text(update(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
