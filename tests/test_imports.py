"""What imports what, besides the layers that `make check` looks at."""

import subprocess
import sys

from tests.conftest import ROOT


def loaded(code: str) -> set[str]:
    """The modules that are loaded after some code was run in a process of its own."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"]
    return set(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split())


def test_the_command_line_loads_no_large_library() -> None:
    """So that `--help` answers at once, on a cold machine, too."""
    modules = loaded("import job.cli")
    assert "job.settings.resolve" in modules
    assert modules.isdisjoint({"numpy", "pyarrow", "torch", "boto3", "requests", "PIL"})
