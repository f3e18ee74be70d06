"""What docs/performance.md says of `select`, from the files that `make bench-reduce` and `make bench-blocks` write."""

import json
import math
from pathlib import Path
from typing import Any

REDUCE = Path(__file__).resolve().parent / "results" / "reduce.json"
BLOCKS = REDUCE.with_name("row_blocks.json")
_MIN_CPU_SECONDS = 1.0  # of a stage in the larger pool; below it, the clock and other processes decide the slope
_COMPUTED = (10_000_000, 100_000_000)  # images


def compute_slopes(smaller: dict[str, Any], larger: dict[str, Any]) -> dict[str, float]:
    """Returns the exponent with which the processor time of each stage grows with the pool: 1 is linear.

    Args:
        smaller: Figures of `benchmarks.reduce` for the smaller pool.
        larger: Those for the larger pool. Its short stages are left out.
    """
    growth = math.log(larger["images"] / smaller["images"])
    slopes = {}
    for stage, used in larger["stages"].items():
        earlier = smaller["stages"].get(stage, {}).get("cpu_seconds", 0)
        if growth and earlier > 0 and used["cpu_seconds"] >= _MIN_CPU_SECONDS:
            slopes[stage] = round(math.log(used["cpu_seconds"] / earlier) / growth, 2)
    return slopes


def extrapolate(result: dict[str, Any], images: int) -> dict[str, float]:
    """Extends the straight line through the smallest and the largest pool.

    Args:
        result: What `benchmarks.reduce` measured.
        images: Number of images.

    Returns:
        `peak_mb`, `cpu_seconds`, `written_mb`, and `part_bytes` that are read.
    """
    rows = _select_rows(result)
    first, last = rows[0], rows[-1]
    share = (images - first["images"]) / max(1, last["images"] - first["images"])
    names = ("peak_mb", "cpu_seconds", "written_mb", "part_bytes")
    return {name: first[name] + share * (last[name] - first[name]) for name in names}


def reduce_table(path: Path = REDUCE) -> str:
    """Returns the table of what `select` takes, from the benchmark's file."""
    if not path.is_file():
        return "Not measured: run `make bench-reduce`."
    return render_reduce(json.loads(path.read_text()))


def render_reduce(result: dict[str, Any]) -> str:
    """Renders what `select` takes, by stage and by size of the pool."""
    rows = _select_rows(result)
    picks = rows[0]["picks"]
    stages = [stage for stage in rows[-1]["stages"] if stage in result["slope"]]
    lines = [
        f"`select` of {picks:,} on {result['cores']} cores, CPU seconds and peak memory:\n",
        f"| | {' | '.join(format_count(row['images']) for row in rows)} | slope |",
        "|---" * (len(rows) + 2) + "|",
    ]
    for stage in stages:
        cells = [_format_cell(row["stages"].get(stage)) for row in rows]
        lines.append(f"| {stage} | {' | '.join(cells)} | {result['slope'][stage]:.2f} |")
    lines.append(f"| **all stages** | {' | '.join(f'**{_format_cell(row)}**' for row in rows)} | |")
    for more in sorted({row["picks"] for row in result["rows"]} - {picks}):
        of_size = {row["images"]: row for row in result["rows"] if row["picks"] == more}
        cells = [_format_cell(of_size.get(row["images"])) for row in rows]
        lines.append(f"| all stages, {more:,} picks | {' | '.join(cells)} | |")
    for title, megabytes in (
        ("size of the parts", [row["part_bytes"] / 1e6 for row in rows]),
        ("results written", [row["written_mb"] for row in rows]),
    ):
        lines.append(f"| {title} | {' | '.join(f'{number:,.0f} MB' for number in megabytes)} | |")
    lines += ["", *_describe(result)]
    return "\n".join(lines)


def _describe_exports(result: dict[str, Any]) -> list[str]:
    """Says what the exports of the smaller pools took, if those of the largest one took less than of any of these."""
    seconds = [row["stages"].get("export", {}).get("cpu_seconds", 0) for row in _select_rows(result)]
    if seconds[-1] >= 1:
        return []
    text = " and ".join(f"{value:.1f} CPU seconds" for value in seconds[:-1])
    return [
        f"- One of them is `export`. In the smaller pools it took {text}, since it also wrote `predictions/coco.json`, "
        "which is left out above 2,000,000 boxes."
    ]


def _describe(result: dict[str, Any]) -> list[str]:
    restart = result["restart"]["computed"]
    lines = [
        f"- Memory grows by {result['bytes_per_image'] / 1e3:.2f} kB per image. The largest pool took "
        f"{result['cpu_ms_per_image']:.2f} ms of processor time per image.",
        "- The slope is the exponent with which the processor time grows between the two largest pools; 1 is linear. "
        "Stages of less than a second in the largest pool are left out.",
        *_describe_exports(result),
    ]
    for count, reason in result["left_out"].items():
        lines.append(f"- {format_count(int(count))} were not measured: {reason}.")
    for images in _COMPUTED:
        found = extrapolate(result, images)
        lines.append(
            f"- Computed, not measured: {format_count(images)} need {found['peak_mb'] / 1e3:,.0f} GB of "
            f"memory, {found['cpu_seconds'] / 3600:,.1f} CPU hours, parts of {found['part_bytes'] / 1e9:,.0f} GB and "
            f"{found['written_mb'] / 1e3:,.0f} GB for the results."
        )
    lines.append(
        f"- Computed from {len(result['restart']['measured'])} smaller pools: one of {restart['shards']} shards of "
        f"{format_count(restart['images'])} that starts again makes {restart['requests']:,} requests and reads "
        f"{restart['bytes'] / 1e6:,.0f} MB to find what is done."
    )
    return lines


def _select_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the first number of picks, the smallest pool first."""
    return [row for row in result["rows"] if row["picks"] == result["rows"][0]["picks"]]


def _format_cell(used: dict[str, Any] | None) -> str:
    return "" if used is None else f"{used['cpu_seconds']:,.1f} s, {used['peak_mb']:,.0f} MB"


def format_count(images: int) -> str:
    """A number of images for people."""
    if images < 1_000_000 or images % 1_000_000:
        return f"{images:,} images"
    return f"{images // 1_000_000} million images"


def blocks_list(path: Path = BLOCKS) -> str:
    """Returns what a selection by row blocks takes, from the benchmark's file."""
    if not path.is_file():
        return "Not measured: run `make bench-blocks`."
    return describe_blocks(json.loads(path.read_text()))


def describe_blocks(figures: dict[str, Any]) -> str:
    """Describes what a selection by row blocks takes, in a list."""
    lines = [
        f"{figures['k']:,} of {figures['n']:,} x {figures['d']}: one process took {figures['one_process_s']:.1f} s. "
        f"Ray was up after {figures['start_s']:.1f} s."
    ]
    for name, title in (("blocks", "undisturbed"), ("disturbed", "one of them killed before the second pass")):
        row = figures[name]
        same = "The same picks to the last bit." if row["same_picks"] else "OTHER PICKS."
        lines.append(
            f"{row['workers']} workers, {title}: the rows were there after {row['load_s']:.1f} s. {row['passes']} "
            f"passes took {row['s']:.1f} s, with {row['sent_mb']:.1f} MB sent and {row['received_mb']:.1f} MB "
            f"received. {same}"
        )
    return "\n".join(f"- {line}" for line in lines)
