"""CORAL_SCORE and CORAL_CLASS_WEIGHTS: from text to the shares of scores and the weights of classes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from job.names import shorten
from job.settings import choices
from job.settings.parse import hint

# In CORAL_CLASS_WEIGHTS, stands for all classes that are not named.
ALL_OTHERS = "*"

# Shares by name of the score; they sum to 1.
Mix = Mapping[str, float]


@dataclass(frozen=True)
class ScoreMix:
    """One active-learning score, or a weighted mean of several.

    Attributes:
        text: CORAL_SCORE as the user gave it.
        shares: Share of each score by its name; the shares sum to 1.
    """

    text: str
    shares: Mix

    def __str__(self) -> str:
        return self.text


def parse_score(text: str) -> ScoreMix:
    """Parses CORAL_SCORE: a name, or ``name=share,name=share``.

    Raises:
        ValueError: If the text is neither; the message says what is accepted.
    """
    shares: dict[str, float] = {}
    for item in text.split(","):
        name, equals, share = item.strip().partition("=")
        if name in shares:
            raise ValueError(f"names {name} twice")
        try:
            shares[name] = float(share) if equals else 1.0
        except ValueError:
            shares[name] = math.nan
    return ScoreMix(text, normalize_shares(shares))


def normalize_shares(shares: Mapping[str, Any]) -> Mix:
    """Divides shares by their sum.

    Raises:
        ValueError: If a score is unknown, or a share is not a positive number.
    """
    for name, share in shares.items():
        if name not in choices.SCORES:
            known = ", ".join(choices.SCORES)
            raise ValueError(f"contains the unknown score {shorten(name)}: use {known}{hint(name, choices.SCORES)}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < math.inf:
            raise ValueError(f"needs a share above 0 for {name}")
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


def largest_share(mix: Mix) -> str:
    """Name of the score that has the largest share."""
    return max(mix, key=lambda name: mix[name])


def parse_class_weights(text: str) -> Mapping[str, float]:
    """Parses CORAL_CLASS_WEIGHTS, ``class=weight,class=weight``, where the class ``*`` stands for all others.

    Raises:
        ValueError: If the text has another form, or a weight is negative or not finite.
    """
    weights = {}
    for item in text.split(","):
        name, _, weight = item.rpartition("=")
        try:
            weights[name.strip()] = float(weight)
        except ValueError:
            weights[""] = math.nan
    if "" in weights or not all(0 <= weight < math.inf for weight in weights.values()):
        raise ValueError("must be class=weight,class=weight, with weights of 0 or more")
    return weights
