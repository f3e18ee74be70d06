"""Lists of file names as text, one per line.

A name with a line break, or with a quotation mark at its beginning, is written as a JSON string, so that every name can
be read back. All others are written unchanged.
"""

import json
import unicodedata
from collections.abc import Sequence
from typing import Any, TypeGuard

_MAX_NAMES_SHOWN = 10
_MAX_CHARACTERS_SHOWN = 80


def dump(names: list[str]) -> str:
    """Returns the text of a list of file names."""
    return "".join(_quote(name) + "\n" for name in names)


def parse(text: str) -> list[str]:
    """Parses a list of file names; skips empty lines.

    Raises:
        ValueError: If a line begins with a quotation mark but is not a JSON string.
    """
    return [parse_line(line) for line in split(text)]


def split(text: str) -> list[str]:
    """Splits a list of file names into its lines, without the empty ones."""
    # Not splitlines, which also splits at characters that names may contain.
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    return [line for line in lines if line]


def parse_line(line: str) -> str:
    """Parses one line of a list of file names.

    Raises:
        ValueError: If the line begins with a quotation mark but is not a JSON string.
    """
    return str(json.loads(line)) if line.startswith('"') else line


def _quote(name: str) -> str:
    plain = not name.startswith('"') and not {"\n", "\r"} & set(name) and not name.startswith("\ufeff")
    return name if plain else json.dumps(name, ensure_ascii=False)


def list_first(names: Sequence[str]) -> str:
    """Returns the first ten names for a message, each cut to 80 characters."""
    more = " ..." if len(names) > _MAX_NAMES_SHOWN else ""
    return ", ".join(escape(name[:_MAX_CHARACTERS_SHOWN]) for name in names[:_MAX_NAMES_SHOWN]) + more


def quantify(number: int, singular: str, plural: str | None = None) -> str:
    """Returns a number with the words that it counts, such as ``1 image is`` or ``2 images are``.

    Args:
        number: The number.
        singular: The words after 1.
        plural: The words after all other numbers; by default the singular with an ``s``.
    """
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def is_one_line(name: str) -> bool:
    """Returns whether a name has no line breaks, no other control characters and no lone surrogates."""
    return not any(unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs") for character in name)


def is_text(value: Any) -> TypeGuard[str]:
    """Returns whether a value is non-empty text that can be encoded; half of a surrogate pair cannot."""
    try:
        return isinstance(value, str) and bool(value.encode())
    except UnicodeEncodeError:
        return False


def shorten_text(text: str) -> str:
    """Returns the first 80 characters of a text, escaped, for messages that show it without quotation marks."""
    return escape(text[:_MAX_CHARACTERS_SHOWN]) + ("..." if len(text) > _MAX_CHARACTERS_SHOWN else "")


def escape(text: str) -> str:
    """Returns a text with its control characters, and all others that cannot be seen, as Python's escapes."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def shorten(value: Any) -> str:
    """Returns the repr of a value for messages: of the first 80 characters of a text, or cut to 80 characters."""
    if isinstance(value, str):
        return repr(value[:_MAX_CHARACTERS_SHOWN]) + ("..." if len(value) > _MAX_CHARACTERS_SHOWN else "")
    text = repr(value)
    return text if len(text) <= _MAX_CHARACTERS_SHOWN else f"{text[:_MAX_CHARACTERS_SHOWN]}..."
