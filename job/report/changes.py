"""What has changed since the last round: figures, and the classes on the picks."""

from collections.abc import Mapping
from typing import Any

from job.report.content import Changes

_MAX_CLASSES = 8
_FIGURES = {
    "expected_boxes": "boxes to label, expected",
    "expected_cost": "expected cost",
    "covering_radius": "distance of the farthest image to its nearest pick",
}


def compare(previous: Mapping[str, Any], run: Mapping[str, Any], picks: list[str]) -> Changes:
    """Compares this run with the last one.

    Args:
        previous: The last round, as `job.publish.rounds` has written it.
        run: Content of run.json.
        picks: File names of the picks of this run.
    """
    counts, selection = run["counts"], run["selection"]
    earlier = set(previous.get("picks", []))
    rows: list[tuple[str, Any, Any]] = [
        ("images in the pool", previous["counts"].get("usable", 0), counts["usable"]),
        ("labelled images", previous["counts"].get("labelled", 0), counts["labelled"]),
        ("picks", previous["counts"].get("selected", 0), counts["selected"]),
    ]
    for name, label in _FIGURES.items():
        values = previous["figures"].get(name), selection.get(name)
        if None not in values and values != (0, 0):
            rows.append((label, *values))
    return Changes(
        run_id=str(previous.get("run_id", "")),
        num_same=sum(name in earlier for name in picks),
        rows=rows,
        classes=_compare_classes(previous.get("classes", {}), selection.get("classes", {})),
    )


def _compare_classes(earlier: Mapping[str, int], now: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Shares of the classes in the boxes on the picks, those that changed most first."""
    current = {name: counts["picks"] for name, counts in now.items()}
    totals = [max(1, sum(counts.values())) for counts in (earlier, current)]
    shares = {
        name: (earlier.get(name, 0) / totals[0], current.get(name, 0) / totals[1]) for name in {*earlier, *current}
    }
    changed = [name for name, (before, after) in shares.items() if round(before, 3) != round(after, 3)]
    order = sorted(changed, key=lambda name: (-abs(shares[name][1] - shares[name][0]), name))
    return [(name, *shares[name]) for name in order[:_MAX_CLASSES]]
