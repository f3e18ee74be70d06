"""Texts that must not be shown, such as tokens and keys."""

import json
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote, quote_plus, unquote

_MIN_LENGTH = 6  # replacing shorter secrets would garble ordinary text
_seen: set[str] = set()

# The variables of credentials of all stores, in every spelling that their clients read; not those of files and ids.
_STORES = re.compile(
    r"(AWS|AZURE|GOOGLE|GCP|GCS|MSI|IDENTITY)_(.*_)?(KEY|SECRET|TOKEN|SAS|PASSWORD|HEADER|CONNECTION_STRING)(_.*)?"
)
_NO_SECRET = re.compile(r".*_(FILE|PATH|ID|ID_.*|NAME|ALIAS|URI|URL|URL_.*|ENDPOINT|ENABLED)")

# What is secret within a value: of a URL its password and signature, of a connection string its keys.
_PASSWORD = re.compile(r"://[^/@:\s]*:([^/@\s]+)@")
_PARAMETER = re.compile(
    r"(?:^|[?&;])(?:sig|(?:x-(?:amz|goog)-)?signature|x-amz-security-token|AccountKey|SharedAccessKey)=([^&;#,\s]+)",
    re.IGNORECASE,
)


class Secret:
    """A token or key that prints as ``***``.

    Attributes:
        value: The text itself, only for the call that needs it.
    """

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value
        hide(value)

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __reduce__(self) -> str:
        raise TypeError("a Secret must not be pickled")


def hide(value: str) -> None:
    """Makes `hide_secrets` hide a text from now on, in its encoded forms, too."""
    if len(value) >= _MIN_LENGTH:
        _seen.update((value, quote(value), quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1]))


def hide_environment(environment: Mapping[str, str]) -> None:
    """Hides what is secret in environment variables: keys and tokens of stores, passwords and signatures in URLs.

    The libraries that read them may quote them in an error.
    """
    for name, value in environment.items():
        if _STORES.fullmatch(name) and not _NO_SECRET.fullmatch(name):
            hide(value)
            hide(_find_private_key(value))
        for part in _find_secrets(value):
            hide(part)
            hide(unquote(part))


def _find_secrets(value: str) -> Iterator[str]:
    """Yields the passwords and signatures in a value."""
    yield from _PASSWORD.findall(value)
    yield from _PARAMETER.findall(value)


def _find_private_key(value: str) -> str:
    """Returns the private key in the JSON of a service account, or nothing."""
    try:
        key = json.loads(value)["private_key"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return key if isinstance(key, str) else ""


def hide_secrets(text: str) -> str:
    """Replaces every secret of this process in a text by ``***``, in its encoded forms, too."""
    for secret in sorted(_seen, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
