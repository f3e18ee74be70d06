"""What an earlier run found out about images that have not changed since."""

import logging

import numpy as np
import pyarrow as pa

from job import parts
from job.errors import SettingsError
from job.parts import Provenance
from job.storage import Listing, Storage

logger = logging.getLogger(__name__)

_KEYS = ("key", "etag", "status")


def take_over(earlier: Storage, output: Storage, listing: Listing, provenance: Provenance) -> None:
    """Copies the rows of unchanged images, those with the same key and ETag, from the parts of an earlier run.

    Args:
        earlier: Output of that run.
        output: Of this one.
        listing: The images of this one.
        provenance: What its parts are made with.

    Raises:
        SettingsError: The earlier output has no parts, or was made with other settings.
    """
    wanted = {(each.key, each.etag) for each in listing} - parts.done(output, provenance)
    found = False
    total = 0
    for part in parts.read(earlier):
        found = True
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
            total += len(rows)
    if not found:
        raise SettingsError(f"CORAL_PREVIOUS={earlier.uri!r} holds no parts of an earlier run.")
    logger.info("%d of %d images are taken over from %s.", total, len(listing), earlier.uri)
