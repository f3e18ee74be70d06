"""CORAL_STRATEGY: from its text to one frozen record, which everything after it reads."""

import json
from dataclasses import dataclass

from job.settings.entries import Diversity, Entry, ObjectDiversity, Similarity, Top, Typicality, Weights, parse_entries
from job.settings.mix import Mix
from job.settings.parse import hint


@dataclass(frozen=True)
class Strategy:
    """How images are picked.

    Attributes:
        text: Name of the strategy, or the JSON list on one line.
        entries: Entries of a JSON list; empty for a named strategy.
        uses_scores: Whether an active-learning score decides which images are picked.
        scores: Scores that a JSON list uses first; None for a named strategy, which uses CORAL_SCORE.
        uses_distance: Whether the strategy compares embeddings.
        uses_objects: Whether it compares the features of boxes, too.
        is_random: Whether images are drawn at random.
        platform_method: Name of the same method on the Lightly platform; None if there is none.
        first_pick: Words for a pick that no distance decided, before "of the pool"; empty if nothing ranks it.
    """

    text: str
    entries: tuple[Entry, ...]
    uses_scores: bool
    scores: Mix | None
    uses_distance: bool
    uses_objects: bool
    is_random: bool
    platform_method: str | None
    first_pick: str

    def __str__(self) -> str:
        return self.text

    @property
    def title(self) -> str:
        """The name, or "a list of strategies"."""
        return "a list of strategies" if self.entries else self.text

    def explain_first_pick(self, among: str) -> str:
        """Says why a pick without a distance was made.

        Args:
            among: What the image was picked from, such as "the pool".
        """
        return f"first pick: {self.first_pick} of {among}" if self.first_pick else "first pick"


def _named(
    name: str,
    platform_method: str | None,
    *,
    uses_scores: bool,
    uses_distance: bool,
    uses_objects: bool = False,
    is_random: bool = False,
    first_pick: str = "the highest score",
) -> Strategy:
    return Strategy(name, (), uses_scores, None, uses_distance, uses_objects, is_random, platform_method, first_pick)


# `job.select` carries these out; `job.choose` checks at import that both have the same names.
STRATEGIES = {
    strategy.text: strategy
    for strategy in (
        _named("coral", "CORAL", uses_scores=True, uses_distance=True),
        _named(
            "coral_objects",
            None,
            uses_scores=True,
            uses_distance=True,
            uses_objects=True,
            first_pick="the objects of the highest value",
        ),
        _named("coreset", "CORESET", uses_scores=False, uses_distance=True),
        _named("active_learning", "ACTIVE_LEARNING", uses_scores=True, uses_distance=False),
        _named("two_stage", None, uses_scores=True, uses_distance=True),
        _named("typicality", None, uses_scores=False, uses_distance=True, first_pick="the most typical"),
        _named("random", "RANDOM", uses_scores=False, uses_distance=False, is_random=True, first_pick=""),
    )
}


def parse_strategy(text: str) -> Strategy:
    """Parses CORAL_STRATEGY: a name, or a JSON list of entries.

    Raises:
        ValueError: If the text is neither; the message says what is accepted.
    """
    if not text.lstrip().startswith(("[", "{")):
        if text not in STRATEGIES:
            raise ValueError(f"must be one of {', '.join(STRATEGIES)}, or a JSON list{hint(text, list(STRATEGIES))}")
        return STRATEGIES[text]
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON: {error}") from None
    entries = parse_entries(content)
    scores = next((entry.scores for entry in entries if isinstance(entry, Weights | Top) and entry.scores), None)
    uses_objects = any(isinstance(entry, ObjectDiversity) for entry in entries)
    return Strategy(
        text=json.dumps(content, ensure_ascii=False),
        entries=entries,
        uses_scores=scores is not None or uses_objects,
        scores=scores,
        uses_distance=uses_objects or any(isinstance(entry, Diversity | Typicality | Similarity) for entry in entries),
        uses_objects=uses_objects,
        is_random=False,
        platform_method=None,
        first_pick="the highest value",
    )
