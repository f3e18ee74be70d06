"""Settings of the runs that are killed, what must hold between a kill and the next start, and what is compared."""

import json
from typing import Any

from tests.conftest import demo_variables

# They hold times, and so do the report and the digests of files, through run.json.
WITH_TIMES = {"run.json", "report.html", "status.json", "parts/owner.json", ".coralpick/files.json"}
OTHER = {"CORAL_N_SAMPLES": 3, "CORAL_STRATEGY": "coreset"}


def variables(source: Any, output: Any, **more: Any) -> dict[str, Any]:
    """The variables of a run that writes every kind of file."""
    given = {"CORAL_N_SAMPLES": 4, "CORAL_COPY_SELECTED": 1, "CORAL_PART_SIZE": 3, "CORAL_LOG_FORMAT": "text"}
    given |= {"CORAL_LIGHTLY_PREDICTIONS": 1}
    return demo_variables(source, output, **given | more)


def without_times(files: dict[str, bytes]) -> dict[str, bytes]:
    """All files but those with times and those that no reader sees."""
    return {
        path: data
        for path, data in files.items()
        if path not in WITH_TIMES and not path.endswith(".tmp") and "parts/begun-" not in path
    }


def check_between(found: dict[str, bytes], first: dict[str, bytes], second: dict[str, bytes]) -> None:
    """Checks that every file is whole, and that `_SUCCESS` stands over the files of one run.

    Args:
        found: Files between kill and restart.
        first: Files before the run that was killed, without times.
        second: Files that it would have left, without times.
    """
    for path in found.keys() & WITH_TIMES:
        assert found[path].rstrip().endswith(b"</html>") if path.endswith(".html") else json.loads(found[path])
    own = {path: data for path, data in without_times(found).items() if not path.startswith("parts/")}
    # The list of copies is also written before the copies are made, with digests that are not known yet.
    half = [
        path for path, data in own.items() if data not in (first.get(path), second.get(path)) and "copies" not in path
    ]
    assert half == []
    if "_SUCCESS" in own:
        whole = first if own["_SUCCESS"] == first.get("_SUCCESS") else second
        assert own == {path: data for path, data in whole.items() if not path.startswith("parts/")}
