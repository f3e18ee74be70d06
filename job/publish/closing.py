"""What the job says at its end: the picks on a terminal, or one line of JSON for programs."""

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from tabulate import tabulate

from job.context import Selected
from job.names import escape
from job.publish import FAILURES, IMAGES, REPORT, RUN, SELECTED_CSV, SELECTED_JSONL, SELECTED_TXT, manifest
from job.settings import Settings
from job.storage import open_folder

_MAX_PICKS_SHOWN = 10
_MAX_STAGES_SHOWN = 3
_WIDTH_WITHOUT_TERMINAL = 120
_MAX_NAME_WIDTH, _MIN_REASON_WIDTH = 40, 40
_FIGURES = ("covering_radius", "covering_radius_random", "boxes", "expected_boxes", "expected_cost")
_PADDING = 14  # of the four columns of the table


def describe(settings: Settings, selected: Sequence[Selected]) -> dict[str, Any]:
    """Describes a finished run as fields of its last log line."""
    content = manifest.read(open_folder(settings.output))
    selection, seconds = content.get("selection", {}), content.get("seconds", {})
    figures = {name: selection.get(name) for name in _FIGURES} | _sum_resources(content)
    return {
        "selected": len(selected),
        "picks": [pick.file_name for pick in selected[:_MAX_PICKS_SHOWN]],
        "output": settings.output,
        "selected_txt": f"{settings.output}/{SELECTED_TXT}",
        "report": f"{settings.output}/{REPORT}",
        **{name: value for name, value in figures.items() if value is not None},
        "images": content.get("counts", {}).get("images"),
        "seconds": round(sum(seconds.values()), 3),
    }


def render(settings: Settings, selected: Sequence[Selected]) -> str:
    """Describes a finished run for people: its first picks, and where the results are."""
    output = settings.output
    lines = ["", _render_picks(selected[:_MAX_PICKS_SHOWN], settings.score.text, _find_width())]
    if len(selected) > _MAX_PICKS_SHOWN:
        lines.append(f"... and {len(selected) - _MAX_PICKS_SHOWN} more.")
    lines += [
        "",
        f"Picks:         {output}/{SELECTED_TXT}  (with reasons: {SELECTED_CSV}, {SELECTED_JSONL})",
        f"Report:        {output}/{REPORT}",
        f"All images:    {output}/{IMAGES}, embeddings.parquet, {FAILURES}",
        f"About the run: {output}/{RUN}",
        *_render_usage(manifest.read(open_folder(output))),
    ]
    return "\n".join(lines)


def _sum_resources(content: dict[str, Any]) -> dict[str, int]:
    """The peak memory and the bytes written of a whole run; empty if run.json does not say."""
    stages = content.get("resources", {}).values()
    if not stages:
        return {}
    return {
        "peak_memory_bytes": max(stage["peak_memory_bytes"] for stage in stages),
        "written_bytes": sum(stage["written_bytes"] for stage in stages),
    }


def _render_usage(content: dict[str, Any]) -> Iterator[str]:
    """One line on what the run took, with its longest stages."""
    seconds = content.get("seconds", {})
    if not (totals := _sum_resources(content)):
        return
    longest = sorted(seconds, key=lambda stage: -seconds[stage])[:_MAX_STAGES_SHOWN]
    stages = ", ".join(f"{stage} {seconds[stage]:.1f}" for stage in longest)
    memory, written = (totals[name] / 1e6 for name in ("peak_memory_bytes", "written_bytes"))
    yield (
        f"Took:          {sum(seconds.values()):.1f} s ({stages}, ...), {memory:,.0f} MB of memory at the peak, "
        f"{written:,.0f} MB written"
    )


def _find_width() -> int:
    return shutil.get_terminal_size((_WIDTH_WITHOUT_TERMINAL, 24)).columns


def _render_picks(picks: Sequence[Selected], score_name: str, width: int) -> str:
    """A table of the picks; on a narrow terminal, reasons are on lines of their own."""
    rows = [[str(pick.rank), escape(pick.file_name), _format_score(pick.score), escape(pick.reason)] for pick in picks]
    name_width = min(_MAX_NAME_WIDTH, max((len(row[1]) for row in rows), default=0))
    score_width = max(len(score_name), 5)
    reason_width = width - len("rank") - name_width - score_width - _PADDING
    for row in rows:
        row[1] = _cut_left(row[1], name_width)
    headers = ["rank", "file", score_name, "reason"]
    if reason_width >= _MIN_REASON_WIDTH:
        for row in rows:
            row[3] = textwrap.fill(row[3], reason_width)
        return str(tabulate(rows, headers, disable_numparse=True))
    lines = []
    for rank, name, score, reason in rows:
        lines.append(f"{rank:>3}. {name}  {score}".rstrip())
        lines += textwrap.wrap(reason, max(20, width - 5), initial_indent="     ", subsequent_indent="     ")
    return "\n".join(lines)


def _cut_left(name: str, width: int) -> str:
    """Cuts a long name at its beginning, since its end tells it from its neighbours."""
    return name if len(name) <= width else "..." + name[len(name) - width + 3 :]


def _format_score(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"
