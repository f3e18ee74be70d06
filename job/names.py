"""Lists of file names as text, one a line.

A file name may hold a line break, or begin with a quotation mark; such a name is written as a JSON string, so that
every name survives. All others stand as they are.
"""

import json
import unicodedata


def dump(names: list[str]) -> str:
    """Writes a list of file names."""
    return "".join(_quoted(name) + "\n" for name in names)


def parse(text: str) -> list[str]:
    """Reads a list of file names; empty lines are skipped.

    Raises:
        ValueError: A line begins with a quotation mark but is no JSON string.
    """
    # Not splitlines, which also breaks at characters that names may hold.
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    return [json.loads(line) if line.startswith('"') else line for line in lines if line]


def _quoted(name: str) -> str:
    plain = not name.startswith('"') and not {"\n", "\r"} & set(name) and not name.startswith("\ufeff")
    return name if plain else json.dumps(name, ensure_ascii=False)


def is_one_line(name: str) -> bool:
    """Whether a name has no line break, no other control character and no half of a character in it."""
    return not any(unicodedata.category(each) in ("Cc", "Zl", "Zp", "Cs") for each in name)
