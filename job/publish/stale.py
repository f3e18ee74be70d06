"""Removes the files of an earlier run that this run does not write, so that nothing old lies beside fresh results."""

import logging
from collections.abc import Collection

from job.publish import ALL_IMAGES, DETECTIONS, LIGHTLY
from job.settings import Settings
from job.storage import Storage
from job.uris import normalize

logger = logging.getLogger(__name__)

# The rooms that write folders, and embeddings.parquet, remove what is outdated of these themselves.
OPTIONAL = (DETECTIONS, ALL_IMAGES, LIGHTLY)


def remove(output: Storage, settings: Settings, written: Collection[str]) -> None:
    """Removes the optional single files of an earlier run.

    The caller makes sure that there was an earlier run: files of these names in any other folder belong to the user.
    A file that this run reads is kept.

    Args:
        output: Folder of the results.
        settings: The settings of this run.
        written: Names of the files that this run writes.

    Raises:
        JobError: If the output cannot be used.
    """
    read = {
        normalize(uri)
        for uri in (settings.predictions, settings.labelled, settings.rejected, settings.metadata, settings.embedding)
        if uri is not None
    }
    for name in OPTIONAL:
        if name not in written and f"{output.uri}/{name}" not in read and output.stat(name) is not None:
            logger.info("Removing %s of an earlier run.", name)
            output.delete(name)
