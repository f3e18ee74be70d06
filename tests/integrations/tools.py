"""The tools that `make test-integrations` installs, each in a folder of its own, outside of the environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / ".cache" / "integrations"
EXAMPLES = ROOT / "docs" / "integrations"


def find_tool(name: str) -> Path:
    """The folder of a tool; the test is skipped if it is not installed."""
    if not (FOLDER / name).is_dir():
        pytest.skip(f"{name} is not installed: run `make test-integrations`")
    return FOLDER / name


def use_tool(name: str, home: Path) -> dict[str, str]:
    """The environment of a process that can import a tool, with a home of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_", "DVC_", "MLFLOW_"))}
    ours = {"PYTHONPATH": str(find_tool(name)), "HOME": str(home), "AIRFLOW_HOME": str(home), "DVC_NO_ANALYTICS": "1"}
    return kept | ours | {"SKYPILOT_DISABLE_USAGE_COLLECTION": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


def run_python(name: str, home: Path, *arguments: str | Path) -> str:
    """Runs Python with a tool in the folder `home`, and returns what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=home, env=use_tool(name, home), capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout
