"""The results of earlier runs, for images that have not changed since."""

import logging
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from job import parts
from job.errors import SettingsError
from job.parts import Part, Provenance
from job.shards import Shard
from job.storage import Listing, Storage, open_folder

logger = logging.getLogger(__name__)

_COLUMNS = ("key", "etag", "status")


def open_output(uri: str) -> Storage:
    """Opens the output of an earlier run.

    Raises:
        SettingsError: If the folder does not exist or holds no parts.
    """
    earlier = open_folder(uri)
    try:
        if parts.list_files(earlier):
            return earlier
    except SettingsError as error:
        raise SettingsError(f"CORAL_PREVIOUS: {error}") from None
    raise SettingsError(f"CORAL_PREVIOUS={earlier.uri!r} has no parts: set it to the CORAL_OUTPUT of an earlier run.")


def check_same(outputs: Iterable[Storage], provenance: Provenance) -> None:
    """Checks that all earlier runs had the settings of this run, before anything is copied from one of them.

    Raises:
        SettingsError: If the parts of an earlier run were made with other settings.
    """
    for earlier in outputs:
        for part in parts.read(earlier, ["key"]):
            _check_part(earlier, part, provenance)


def _check_part(earlier: Storage, part: Part, provenance: Provenance) -> None:
    if not part.provenance.matches(provenance):
        raise SettingsError(
            f"CORAL_PREVIOUS={earlier.uri!r} was made with other settings "
            f"({parts.describe_difference(part.provenance, provenance)}): remove it, or use the same settings."
        )


def reuse(
    earlier: Storage,
    output: Storage,
    listing: Listing,
    done: set[tuple[str, str]],
    provenance: Provenance,
    shard: Shard | None = None,
) -> set[tuple[str, str]]:
    """Copies the rows of unchanged images (the same key and ETag) from the parts of an earlier run.

    Args:
        earlier: Output of the earlier run.
        output: Output of this run.
        listing: Images of this run.
        done: Key and ETag of the images that already have rows.
        provenance: What the parts of this run are made with.
        shard: The shard of this run; None if there is one only.

    Returns:
        Key and ETag of the images that have rows now.

    Raises:
        SettingsError: If the parts of the earlier run were made with other settings.
    """
    wanted = {(entry.key, entry.etag) for entry in listing} - done
    num_wanted = len(wanted)
    for part in parts.read(earlier):
        _check_part(earlier, part, provenance)
        rows = []
        columns = (part.table[name].to_pylist() for name in _COLUMNS)
        for row, (key, etag, status) in enumerate(zip(*columns, strict=True)):
            if status != "unread" and (key, etag) in wanted:
                wanted.remove((key, etag))
                rows.append(row)
        if rows:
            parts.write_table(output, part.table.take(pa.array(np.array(rows))), provenance, shard)
    logger.info("Reused %d of %d images from %s.", num_wanted - len(wanted), len(listing), earlier.uri)
    return done | {pair for entry in listing if (pair := (entry.key, entry.etag)) not in wanted}
