"""The tables of docs/selection.md and the README's sentence, from the file that `make bench-quality` writes."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "quality.json"
_TITLES = {
    "video": "Like video: runs of consecutive frames, rare classes, little dusk and fog",
    "shift": "Shift: the same, but all labelled images are clear",
    "curated": "Curated: one image per scene, classes and conditions alike",
}
_LABELS = {
    "coral": "**coral (the default)**",
    "coral, largest entropy": "coral, largest entropy, strength 1 (the former default)",
    "coral, sum of entropies": "coral, sum of entropies, strength 1",
    "coral, shuffled scores": "coral with shuffled scores (control)",
    "coral_objects": "coral_objects",
    "active_learning": "active_learning, sum of entropies",
    "two_stage": "two_stage, sum of entropies",
    "random": "random (control of the control)",
}


def read(path: Path = RESULTS) -> dict[str, Any]:
    """Reads the figures."""
    return dict(json.loads(path.read_text()))


def format_gain(gain: dict[str, Any]) -> str:
    """A gain with its 95 % interval."""
    return f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"


def markdown_tables() -> str:
    """The tables, a pool each: AP50 over random images of the same cost, in images and in boxes."""
    figures = read()
    first, last = figures["seeds"]
    lines = [f"AP50 over random images of the same cost, {last - first} seeds, mean [95 % t-interval]:"]
    for pool, title in _TITLES.items():
        strategies = dict(figures["pools"][pool])
        second = strategies.pop("two_rounds")
        random = strategies["random"]["ap50"]
        lines += [
            "",
            f"**{title}** (AP50 {figures['before'][pool]:.3f} before, {random:.3f} with 100 random images)",
            "",
            "| strategy | AP50 | per image | per box | boxes | scenes |",
            "|---|---|---|---|---|---|",
        ]
        ranked = sorted(strategies.items(), key=lambda item: -item[1]["per_image"]["mean"])
        lines += [_make_row(_LABELS.get(str(name), str(name)), one) for name, one in ranked]
        lines += [_make_row(f"{_LABELS[name]}, after a second round", one) for name, one in second.items()]
    return "\n".join(lines)


def _make_row(label: str, one: dict[str, Any]) -> str:
    gains = f"{format_gain(one['per_image'])} | {format_gain(one['per_box'])}"
    return f"| {label} | {one['ap50']:.3f} | {gains} | {one['boxes']:.0f} | {one['scenes']:.0f} |"


_README_TITLES = {
    "video": "frames of video",
    "shift": "frames of video, labels from one condition",
    "curated": "no near-duplicates",
}


def readme_paragraph() -> str:
    """What the default gains, for the README: with its losses, each with its pool."""
    figures = read()
    default = {pool: figures["pools"][pool]["coral"] for pool in _TITLES}
    alone = {pool: figures["pools"][pool]["active_learning"] for pool in _TITLES}
    first, last = figures["seeds"]
    rows = [
        f"| {title} | {format_gain(default[pool]['per_image'])} | {format_gain(default[pool]['per_box'])} | "
        f"{format_gain(alone[pool]['per_box'])} |"
        for pool, title in _README_TITLES.items()
    ]
    return "\n".join(
        [
            "**Does it help?** `make bench-quality` compares 100 picks by the default with random images: "
            f"{last - first} seeds, AP50, 95 % intervals.",
            "",
            "| pool | gain over as many images | gain over as many boxes | `active_learning`, over as many boxes |",
            "|---|---|---|---|",
            *rows,
            "",
            "On video, the picks also gained "
            f"{format_gain(default['video']['over_more_random']['240'])} over 240 random images. Where a pool has no "
            "near-duplicates, picks gain per image, but not per box.",
            "This is a laboratory: objects are pasted on real frames, and the backbone is frozen.",
        ]
    )
