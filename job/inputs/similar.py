"""The images that SIMILARITY in CORAL_STRATEGY names."""

from collections.abc import Iterable

from job.errors import SettingsError
from job.inputs.match import Match, compare
from job.names import shorten
from job.settings.entries import Entry, Similarity
from job.storage import Listing


def match(entries: Iterable[Entry], listing: Listing, input_uri: str) -> Match | None:
    """Compares the names in SIMILARITY with the images; None if the strategy has no such entry.

    Args:
        entries: Entries of CORAL_STRATEGY.
        listing: The images.
        input_uri: CORAL_INPUT.

    Raises:
        SettingsError: If a name is not that of an image.
    """
    names = [name for entry in entries if isinstance(entry, Similarity) for name in entry.images]
    if not names:
        return None
    result = compare("CORAL_STRATEGY", names, listing, input_uri)
    if result.unknown:
        raise make_error(result.unknown[0], result.cause)
    return result


def make_error(name: str, cause: str = "") -> SettingsError:
    """The error for a name that is not that of a usable image.

    Args:
        name: The name.
        cause: A sentence on the likely cause; empty if it is not known.
    """
    return SettingsError(
        f"CORAL_STRATEGY names {shorten(name)}, which is not a usable image in CORAL_INPUT. {cause}".rstrip()
    )
