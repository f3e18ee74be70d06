"""`make reselect`: selects again in the output of a run, with its settings, and without rejected picks."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from job.errors import JobError
from job.publish import manifest
from job.settings.knob import PREFIX
from job.storage import open_folder

ROOT = Path(__file__).resolve().parent.parent


def to_text(value: Any) -> str:
    """Writes a setting of run.json as the text of a variable."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, dict):
        return ",".join(f"{name}={part}" for name, part in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def main(output: str, rejected: str) -> int:
    """Runs `select`; returns its exit code, or 64 if the output has no run.

    Args:
        output: Path or URI of the results.
        rejected: Path or URI of the list of rejected picks.
    """
    try:
        content = manifest.read(open_folder(output))
    except JobError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if not content:
        print(f"{output} has no run.json: set OUTPUT to the results of a run.", file=sys.stderr)
        return 64
    settings = {name: value for name, value in content["settings"].items() if name.startswith(PREFIX)}
    variables = {name: to_text(value) for name, value in settings.items() if value is not None}
    variables["CORAL_REJECTED"] = rejected
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    command = [sys.executable, str(ROOT / "entrypoint.py"), "select"]
    return subprocess.run(command, env=kept | variables, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
