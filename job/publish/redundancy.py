"""How redundant the pool is, in one sentence, and what follows from it for the strategy."""

from collections.abc import Iterator
from typing import Any

from job.names import shorten_text
from job.select.views import Views
from job.settings import Settings

# Images per view from which a pool counts as redundant. Measured were 7 on frames of video and 1.05 on curated images.
_REDUNDANT = 1.5
# Picks that show fewer views than this share of as many random images repeat themselves.
_REPEATING = 0.8


def describe(views: Views, num_picks: int) -> dict[str, Any]:
    """Describes the views for run.json.

    Returns:
        ``redundancy``: ``images``, ``views``, ``coverage`` (share of the views that the labelled images and the picks
        show), ``random_images`` (that show as many) and ``sentence``. ``coverage_curve``: for a number of images, the
        coverage by so many picks (null beyond the number of picks) and by as many random images.
    """
    return {
        "redundancy": {
            "images": views.images,
            "views": round(views.views),
            "coverage": round(views.coverage, 3),
            "random_images": views.random_images,
            "sentence": make_sentence(views, num_picks),
        },
        "coverage_curve": [
            [number, None if by_picks is None else round(by_picks, 3), round(by_random, 3)]
            for number, by_picks, by_random in views.curve
        ],
    }


def is_redundant(views: Views) -> bool:
    """Whether the pool shows most of its views several times."""
    return views.images >= _REDUNDANT * views.views


def make_sentence(views: Views, num_picks: int) -> str:
    """Says how redundant the pool is, and what to expect of the picks."""
    shown = f"its {views.images:,} images show about {round(views.views):,} views"
    if not is_redundant(views):
        return (
            f"The pool has few near-duplicates: {shown}. Expect a gain over random images per image, but none per "
            "labelled box."
        )
    return (
        f"The pool is redundant: {shown}. {num_picks:,} picks show as many of them as {views.random_images:,} random "
        "images do."
    )


def list_warnings(settings: Settings, views: Views, num_picks: int, num_labelled: int) -> Iterator[str]:
    """Lists what speaks against the strategy on this pool.

    Args:
        settings: The settings.
        views: What the pool and the picks show.
        num_picks: Number of picks.
        num_labelled: Number of labelled images, in the pool and elsewhere.
    """
    strategy = settings.strategy
    repeats = views.random_images < _REPEATING * num_picks
    if is_redundant(views) and repeats and not strategy.uses_distance and not strategy.is_random:
        yield (
            f"The {num_picks:,} picks show only as many views as {views.random_images:,} random images: "
            f"CORAL_STRATEGY={shorten_text(strategy.title)} does not compare images with each other, and this pool has "
            "many near-duplicates. Use CORAL_STRATEGY=coral."
        )
    if not is_redundant(views) and num_labelled == 0 and not strategy.uses_scores and not strategy.is_random:
        yield (
            "No image is labelled, no score counts, and the pool has few near-duplicates. On such a pool, "
            f"{shorten_text(strategy.title)} was not better than random images in the project's benchmark "
            "(docs/selection.md). Consider CORAL_STRATEGY=random."
        )
