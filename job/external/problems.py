"""What is wrong with predictions, in sentences."""

import json
from typing import Any, TypeGuard

from job.errors import SettingsError

_SHOWN = 3
_LONGEST = 80


class Problems:
    """Collects problems, to tell the first few of them together."""

    def __init__(self) -> None:
        self._sentences: list[str] = []
        self._more = 0

    def add(self, where: str, sentence: str) -> None:
        """Adds a problem.

        Args:
            where: The file.
            sentence: What is wrong, with the image, the value and what to do.
        """
        if len(self._sentences) < _SHOWN:
            self._sentences.append(f"CORAL_PREDICTIONS, {where}: {sentence}")
        else:
            self._more += 1

    def settle(self) -> None:
        """Goes on if there is no problem.

        Raises:
            SettingsError: There is one.
        """
        if self._more:
            self._sentences.append(f"CORAL_PREDICTIONS: more such problems, found so far: {self._more}.")
        if self._sentences:
            raise SettingsError(*self._sentences)


def shown(value: Any) -> str:
    """A value as text, of limited length."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is text that is not empty and can be written down, which half of a character cannot."""
    try:
        return isinstance(value, str) and bool(value.encode())
    except UnicodeEncodeError:
        return False


def parsed(data: bytes, where: str) -> Any:
    """The content of a JSON file.

    Raises:
        SettingsError: It is none.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"CORAL_PREDICTIONS, {where}: it is not JSON ({error}): write it again.") from None
