"""The first screen: what to do, what it brings, and what it costs, for a reader who has ten seconds."""

import datetime
from collections.abc import Mapping
from typing import Any

from job.report.content import Curve, Lead
from job.report.duplicates import MAX_DISTANCE, Duplicates

_LITTLE = 0.25  # of what an average pick adds


def make_lead(run: Mapping[str, Any], found: Duplicates | None) -> Lead:
    """Makes the first screen.

    Args:
        run: Content of run.json.
        found: Near-duplicates in the pool; None without embeddings.
    """
    counts, selection = run["counts"], run["selection"]
    picks, usable = counts["selected"], counts["usable"]
    curve = make_curve(selection, picks)
    return Lead(
        heading=f"Label {'this image' if picks == 1 else f'these {picks:,} images'} next",
        about=_describe_run(run),
        headline=describe_coverage(selection, picks),
        last_step=_describe_last(curve),
        tiles=_make_tiles(counts, selection, found, usable),
        curve=curve,
    )


def make_curve(selection: Mapping[str, Any], picks: int) -> Curve | None:
    """Makes the curve of the coverage; None if run.json has none."""
    points = selection.get("coverage_curve") or []
    if len(points) < 2:
        return None
    numbers, of_picks, of_random = (list(column) for column in zip(*points, strict=True))
    return Curve(numbers, of_picks, of_random, picks)


def _describe_run(run: Mapping[str, Any]) -> list[str]:
    """The model, the pool and the time."""
    settings, counts = run["settings"], run["counts"]
    about = []
    if settings.get("CORAL_MODEL") and not settings.get("CORAL_PREDICTIONS"):
        about.append(f"Model: {settings['CORAL_MODEL']}")
    elif settings.get("CORAL_PREDICTIONS"):
        about.append(f"Predictions: {settings['CORAL_PREDICTIONS']}")
    place = f" in {settings['CORAL_INPUT']}" if settings.get("CORAL_INPUT") else ""
    labelled = f", of which {counts['labelled']:,} are labelled" if counts["labelled"] else ""
    about.append(f"Pool: {counts['usable']:,} images{place}{labelled}")
    if run.get("created"):
        time = datetime.datetime.fromisoformat(run["created"])
        about.append(f"{time.day} {time:%B %Y, %H:%M} UTC")
    return about


def describe_coverage(selection: Mapping[str, Any], picks: int) -> str:
    """Says how well the picks cover the pool, compared with random images; empty if that is not known.

    Args:
        selection: Statistics of the picks, as in run.json.
        picks: Number of picks.
    """
    images = f"{picks:,} {'pick covers' if picks == 1 else 'picks cover'}"
    if redundancy := selection.get("redundancy"):
        if redundancy["random_images"] > picks:
            return f"{images} this pool as well as {redundancy['random_images']:,} random images do."
        return str(redundancy["sentence"])
    radius, of_random = selection.get("covering_radius"), selection.get("covering_radius_random")
    if radius is None or of_random is None or radius >= of_random:
        return ""
    share = 100 * (1 - radius / of_random)
    return (
        f"{images} this pool better than as many random images: the image that is farthest from all picks is "
        f"{share:.0f} % nearer."
    )


def _describe_last(curve: Curve | None) -> str:
    """What the picks show, and what the last of them added to it."""
    if curve is None:
        return ""
    shown = [(number, share) for number, share in zip(curve.numbers, curve.of_picks, strict=True) if share is not None]
    earlier = [point for point in shown if point[0] <= shown[-1][0] / 2] if shown else []
    if not earlier or shown[-1][1] == 0:
        return ""
    (number, share), (last, total) = earlier[-1], shown[-1]
    added = total - share
    count = last - number
    text = f"The picks show {100 * total:.0f} % of its views; the last {count:,} of them added {100 * added:.0f} %."
    is_little = added / count < _LITTLE * total / last
    return f"{text} More picks would add little." if is_little else text


def _make_tiles(
    counts: Mapping[str, Any], selection: Mapping[str, Any], found: Duplicates | None, usable: int
) -> list[tuple[str, Any, str]]:
    tiles: list[tuple[str, Any, str]] = [
        ("images to label", counts["selected"], f"of {usable:,}: {_format_percentage(counts['selected'], usable)}")
    ]
    if "expected_boxes" in selection:
        note = f"expected, from the confidences of {selection['boxes']:,} detections"
        tiles.append(("boxes to label", round(selection["expected_boxes"]), note))
    if selection["expected_cost"]:
        tiles.append(("expected cost", selection["expected_cost"], "by CORAL_COST_PER_IMAGE and CORAL_COST_PER_BOX"))
    if found is not None and "near_duplicate_pairs" in selection:
        pairs = selection["near_duplicate_pairs"]
        among = "none among the picks" if pairs == 0 else f"{pairs:,} {'pair' if pairs == 1 else 'pairs'} of picks"
        tiles.append(
            (
                "near-duplicates in the pool",
                f"{_format_percentage(found.with_duplicate, found.examined)}",
                f"of images have another one within {MAX_DISTANCE}; {among}",
            )
        )
    if counts["failed"]:
        tiles.append(("unusable", counts["failed"], f"of {counts['images']:,} images; the reasons are below"))
    return tiles


def _format_percentage(part: float, whole: float) -> str:
    return f"{100 * part / max(1, whole):.3g} %"
