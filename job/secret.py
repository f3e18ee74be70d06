"""A text that must not be seen."""

import json
from urllib.parse import quote, quote_plus

_SHORTEST = 6  # to look for shorter ones in a text would only garble it
_seen: set[str] = set()


class Secret:
    """Holds a token or key; every way to print it gives ``***``.

    Attributes:
        value: The text itself, for the one call that needs it.
    """

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value
        if len(value) >= _SHORTEST:
            _seen.update((value, quote(value), quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1]))

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not to be pickled")


def hide_secrets(text: str) -> str:
    """A text with ``***`` in place of every secret that this process knows, however it got in there."""
    for each in sorted(_seen, key=len, reverse=True):
        text = text.replace(each, "***")
    return text
