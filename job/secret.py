"""Texts that must not be shown, such as tokens and keys."""

import json
from urllib.parse import quote, quote_plus

_MIN_LENGTH = 6  # replacing shorter secrets would garble ordinary text
_seen: set[str] = set()


class Secret:
    """A token or key that prints as ``***``.

    Attributes:
        value: The text itself, only for the call that needs it.
    """

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value
        if len(value) >= _MIN_LENGTH:
            _seen.update((value, quote(value), quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1]))

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __reduce__(self) -> str:
        raise TypeError("a Secret must not be pickled")


def hide_secrets(text: str) -> str:
    """Replaces every secret of this process in a text by ``***``, in its encoded forms, too."""
    for secret in sorted(_seen, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
