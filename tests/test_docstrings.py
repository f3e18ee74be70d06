"""Rules for docstrings that ruff does not know."""

import ast
import re
from collections.abc import Iterator

from tests.conftest import ROOT

_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "job").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
                yield f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'module')}", text


def test_each_line_of_raises_can_be_read_alone() -> None:
    """It begins with "If", as in "SettingsError: If the output holds parts made with another detector"."""
    conditions = []
    for place, text in docstrings():
        if section := re.search(r"^Raises:\n((?:[ ]+.*\n?|\n)+)", text, re.MULTILINE):
            conditions += [(place, line) for line in re.findall(r"^    \w+: (.*)$", section[1], re.MULTILINE)]
    assert len(conditions) > 100
    assert [condition for condition in conditions if not condition[1].startswith("If ")] == []
