"""What an earlier run found out about images that have not changed since."""

import logging

import numpy as np
import pyarrow as pa

from job import parts
from job.errors import SettingsError
from job.parts import Provenance
from job.storage import Listing, Storage, open_folder

logger = logging.getLogger(__name__)

_KEYS = ("key", "etag", "status")


def open_output(uri: str) -> Storage:
    """Opens the output of an earlier run.

    Raises:
        SettingsError: There are no parts in it.
    """
    earlier = open_folder(uri)
    try:
        if parts.files(earlier):
            return earlier
    except SettingsError as error:
        raise SettingsError(f"CORAL_PREVIOUS: {error}") from None
    raise SettingsError(f"CORAL_PREVIOUS={earlier.uri!r} holds no parts of an earlier run.")


def take_over(
    earlier: Storage, output: Storage, listing: Listing, done: set[tuple[str, str]], provenance: Provenance
) -> set[tuple[str, str]]:
    """Copies the rows of unchanged images, those with the same key and ETag, from the parts of an earlier run.

    Args:
        earlier: Output of that run.
        output: Of this one.
        listing: The images of this one.
        done: Key and ETag of those that have their rows already.
        provenance: What its parts are made with.

    Returns:
        Those that have their rows now.

    Raises:
        SettingsError: They were made with other settings.
    """
    wanted = {(each.key, each.etag) for each in listing} - done
    missing = len(wanted)
    for part in parts.read(earlier):
        if part.provenance != provenance:
            raise SettingsError(
                f"CORAL_PREVIOUS={earlier.uri!r} was made with other settings "
                f"({parts.difference(part.provenance, provenance)}): leave it out, or use those settings again."
            )
        rows = []
        for row, (key, etag, status) in enumerate(zip(*(part.table[name].to_pylist() for name in _KEYS), strict=True)):
            if status != "unread" and (key, etag) in wanted:
                wanted.remove((key, etag))
                rows.append(row)
        if rows:
            parts.write_table(output, part.table.take(pa.array(np.array(rows))), provenance)
    logger.info("%d of %d images are taken over from %s.", missing - len(wanted), len(listing), earlier.uri)
    return done | {pair for each in listing if (pair := (each.key, each.etag)) not in wanted}
