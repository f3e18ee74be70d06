"""`job.select` is a library: it imports nothing else of the job, and torch only for tensors."""

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.conftest import ROOT

MODULES = sorted((ROOT / "job" / "select").rglob("*.py"))
LOADED = "import job.select, sys; print(*sorted(sys.modules), sep='\\n')"


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(nodes: Iterable[ast.AST]) -> set[str]:
    """Names of all modules, and of what is imported from them."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_nothing_else_of_the_job_is_imported(path: Path) -> None:
    of_job = {name for name in imports(ast.walk(parse(path))) if name.partition(".")[0] == "job"}
    assert all(name == "job.select" or name.startswith("job.select.") for name in of_job), of_job


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_torch_is_imported_only_for_tensors(path: Path) -> None:
    # Imports at the top level: not those in functions, nor those under TYPE_CHECKING.
    names = imports(parse(path).body)
    assert ("torch" in names) == (path.stem == "tensors")
    assert "job.select.tensors" not in names


def test_importing_the_library_loads_neither_torch_nor_the_rest_of_the_job() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "job.select" in loaded
    assert [name for name in loaded if name.partition(".")[0] in ("torch", "detectron2")] == []
    assert [name for name in loaded if name.startswith("job.") and name.split(".")[1] != "select"] == []
