"""What the demo says at its end: what the picks are worth, and the next round as a command."""

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq

from job.names import quantify
from job.report.headline import describe_coverage


def describe(output: Path) -> str:
    """Describes the results of the demo in a few short sentences.

    Args:
        output: Folder of the results, with run.json and images.parquet.
    """
    run = json.loads((output / "run.json").read_text(encoding="utf-8"))
    counts, selection = run["counts"], run["selection"]
    columns = pq.read_table(output / "images.parquet", columns=["rank", "distance"]).to_pydict()
    limit = selection["near_duplicates_within"]
    avoided = sum(
        rank is None and distance is not None and distance < limit
        for rank, distance in zip(columns["rank"], columns["distance"], strict=True)
    )
    sentences = [
        f"{quantify(counts['selected'], 'pick', 'picks')} of {counts['images']:,} images.",
        describe_coverage(selection, counts["selected"]),
        f"{quantify(avoided, 'near-duplicate', 'near-duplicates')} of the picks avoided.",
        f"{quantify(round(selection['expected_boxes']), 'box', 'boxes')} to label.",
        f"{sum(run['seconds'].values()):.0f} s.",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def render_next_round(variables: Mapping[str, str], python: str) -> str:
    """The command of the second round, after the picks of the first have labels.

    Args:
        variables: The settings of the first round.
        python: Path of Python, as it is shown.
    """
    output = variables["CORAL_OUTPUT"]
    later = {
        "CORAL_LABELLED": f"{output}/selected.txt",
        "CORAL_PREVIOUS": output,
        **variables,
        "CORAL_OUTPUT": f"{output}-2",
    }
    return " \\\n".join([*(f"  {name}={value}" for name, value in later.items()), f"  {python} entrypoint.py"])
