"""rounds/: what each run of an output picked, so that the next one can say what has changed."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from job.context import Selected
from job.names import shorten
from job.publish import ROUNDS
from job.storage import Storage

logger = logging.getLogger(__name__)

_FIGURES = ("covering_radius", "covering_radius_random", "boxes", "expected_boxes", "expected_cost")
_DIGITS = 4


def write(output: Storage, run: Mapping[str, Any], selected: Sequence[Selected]) -> dict[str, Any] | None:
    """Writes what this run picked, and returns the same of the last other run; None if there was none.

    A run that is repeated keeps its number if it is the last one, so that a killed run leaves the same bytes as an
    undisturbed one.

    Args:
        output: Folder of the results.
        run: Content of run.json.
        selected: The picks.

    Raises:
        JobError: If the output cannot be used.
    """
    key = f"{ROUNDS}{run['run_id']}.json"
    found = {entry.key: _read(output, entry.key) for entry in sorted(output.list(ROUNDS), key=lambda entry: entry.key)}
    others = [content for name, content in found.items() if name != key and content]
    previous = max(others, key=lambda content: content["round"], default=None)
    least = previous["round"] + 1 if previous else 1
    own = found.get(key)
    selection = run["selection"]
    content = {
        "round": max(least, own["round"]) if own else least,
        "run_id": run["run_id"],
        "counts": {name: run["counts"][name] for name in ("usable", "labelled", "selected")},
        "figures": {name: round(selection[name], _DIGITS) for name in _FIGURES if name in selection},
        "classes": {name: counts["picks"] for name, counts in selection.get("classes", {}).items() if counts["picks"]},
        "picks": [pick.file_name for pick in selected],
    }
    output.write(key, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return previous


def _read(output: Storage, key: str) -> dict[str, Any] | None:
    """Reads an earlier round; None, with a warning, if it is damaged or not from this job."""
    try:
        content = json.loads(output.read(key))
        if isinstance(content["round"], int) and all(isinstance(content[name], dict) for name in ("counts", "figures")):
            return dict(content)
        raise ValueError("it is not a round of this job")
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s/%s is ignored: %s", output.uri, shorten(key), error)
        return None
