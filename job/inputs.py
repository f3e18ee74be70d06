"""The inputs of a run: the images of its shard, and the list of labelled images."""

import logging
from posixpath import splitext

from job import images, names
from job.errors import AccessDenied, SettingsError
from job.settings import Settings
from job.shards import Shard
from job.storage import Listing, Source, read_file
from job.uris import normalize, relativize

logger = logging.getLogger(__name__)

_MAX_PROBES = 3


def list_images(settings: Settings, source: Source, shard: Shard) -> Listing:
    """Lists the images of a shard, sorted bytewise by name. Skips results of the job in folders below the input.

    Raises:
        SettingsError: If the input does not exist or contains no images.
    """
    folders = [relativize(source.uri, normalize(uri)) for uri in (settings.output, settings.previous) if uri]
    results = tuple(folder for folder in folders if folder)
    num_files = num_images = 0

    def keep(key: str) -> bool:
        nonlocal num_files, num_images
        if key.startswith(results):
            return False
        num_files += 1
        if splitext(key)[1].lower() not in images.EXTENSIONS:
            return False
        num_images += 1
        return shard.owns(key)

    listing = Listing.from_entries(source.list(keep=keep))
    if not num_images:
        formats = ", ".join(sorted(extension[1:] for extension in images.EXTENSIONS))
        raise SettingsError(f"CORAL_INPUT={source.uri!r} holds no images ({formats}) among its {num_files} files.")
    if shard.count > 1:
        logger.info("%d images in %s for shard %d of %d.", len(listing), source.uri, shard.index, shard.count)
    else:
        logger.info("%d images in %s.", len(listing), source.uri)
    return listing


def probe(source: Source, listing: Listing) -> None:
    """Reads a few images, so that a missing permission is found before the detector is loaded.

    Raises:
        AccessDenied: If the permission to read is missing for all of them.
    """
    denied: PermissionError | None = None
    for entry in listing.sample(_MAX_PROBES):
        if entry.size > images.MAX_BYTES:
            continue
        try:
            source.read(entry.key, entry.etag)
        except PermissionError as error:
            denied = error
        except OSError:
            return  # a problem of this image alone, which its row will report
        else:
            return
    if denied:
        raise AccessDenied(f"Cannot read the images in {source.uri}: {denied.strerror}.")


def read_labelled(uri: str, listing: Listing, shard: Shard | None = None, *, complete: bool = True) -> list[str]:
    """Reads the list of labelled images.

    Args:
        uri: Path or URI of the list.
        listing: The images to compare the list with.
        shard: Shard of these images; None if they are those of all shards.
        complete: Whether the listing has all images of that shard. If not, names that it lacks are accepted.

    Returns:
        All names in the list, sorted bytewise, each once.

    Raises:
        SettingsError: If the list cannot be read, or contains names that are not in the listing.
    """
    try:
        labelled = sorted(set(names.parse(read_file(uri).decode())), key=str.encode)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"CORAL_LABELLED={uri!r} cannot be read: {reason}.") from None
    owned = [name for name in labelled if shard is None or shard.owns(name)]
    missing = listing.find_missing(owned) if complete else []
    if missing:
        shown = ", ".join(map(repr, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise SettingsError(
            f"CORAL_LABELLED={uri!r} names images that are not in CORAL_INPUT: {shown}. "
            "Names are relative to CORAL_INPUT, as in selected.txt."
        )
    return labelled
