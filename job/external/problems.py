"""Problems in the predictions, as sentences for the user."""

import json
from typing import Any

from job.errors import SettingsError
from job.names import is_text, shorten

__all__ = ["Problems", "is_text", "parse_json", "shorten"]

_MAX_SENTENCES = 3


class Problems:
    """Collects problems, and raises the first few of them in one error."""

    def __init__(self) -> None:
        self._sentences: list[str] = []
        self._num_omitted = 0

    def add(self, uri: str, sentence: str) -> None:
        """Adds a problem.

        Args:
            uri: URI of the file.
            sentence: What is wrong, with the image and the value, and what to do about it.
        """
        if len(self._sentences) < _MAX_SENTENCES:
            self._sentences.append(f"CORAL_PREDICTIONS, {uri}: {sentence}")
        else:
            self._num_omitted += 1

    def raise_if_any(self) -> None:
        """Raises one error for all problems, if there are any.

        Raises:
            SettingsError: If a problem was added.
        """
        if self._num_omitted:
            self._sentences.append(f"CORAL_PREDICTIONS: more problems found before reading ended: {self._num_omitted}.")
        if self._sentences:
            raise SettingsError(*self._sentences)


def parse_json(data: bytes, uri: str) -> Any:
    """Parses a JSON file.

    Args:
        data: Content of the file.
        uri: URI of the file, for the error message.

    Raises:
        SettingsError: If the content is not valid JSON.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SettingsError(
            f"CORAL_PREDICTIONS, {uri}: the content is not valid JSON ({error}). Write the file again."
        ) from None
