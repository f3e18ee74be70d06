"""What a run starts from: the images of its shard, and the list of those that have labels."""

import logging
from posixpath import splitext

from job import images, names
from job.errors import AccessDenied, SettingsError
from job.settings import Settings
from job.shards import Shard
from job.storage import Listing, Source, read_file
from job.uris import normalize, relativize

logger = logging.getLogger(__name__)

_PROBES = 3


def list_images(settings: Settings, source: Source, shard: Shard) -> Listing:
    """Lists the images of a shard, sorted bytewise by name; results that lie among them are left out.

    Raises:
        SettingsError: The input does not exist or holds no image.
    """
    results = [relativize(source.uri, normalize(uri)) for uri in (settings.output, settings.previous) if uri]
    own = tuple(each for each in results if each)
    files = images_found = 0

    def wanted(key: str) -> bool:
        nonlocal files, images_found
        if key.startswith(own):
            return False
        files += 1
        if splitext(key)[1].lower() not in images.EXTENSIONS:
            return False
        images_found += 1
        return shard.owns(key)

    listing = Listing.from_entries(source.list(keep=wanted))
    if not images_found:
        kinds = ", ".join(sorted(each[1:] for each in images.EXTENSIONS))
        raise SettingsError(f"CORAL_INPUT={source.uri!r} holds no images ({kinds}) among its {files} files.")
    if shard.count > 1:
        logger.info("%d images in %s for shard %d of %d.", len(listing), source.uri, shard.index, shard.count)
    else:
        logger.info("%d images in %s.", len(listing), source.uri)
    return listing


def probe(source: Source, listing: Listing) -> None:
    """Reads some images, to know before the detector is loaded that the permission to read is not missing.

    Raises:
        AccessDenied: None of them may be read.
    """
    denied: PermissionError | None = None
    for entry in listing.sample(_PROBES):
        if entry.size > images.MAX_BYTES:
            continue
        try:
            source.read(entry.key, entry.etag)
        except PermissionError as error:
            denied = error
        except OSError:
            return  # another matter, of this image, which its row will tell
        else:
            return
    if denied:
        raise AccessDenied(f"The images of {source.uri} may not be read: {denied.strerror}.")


def read_labelled(uri: str, listing: Listing, shard: Shard | None = None, *, complete: bool = True) -> list[str]:
    """Reads the list of images that have labels.

    Args:
        uri: Where the list is.
        listing: The images.
        shard: Which of all images these are.
        complete: Whether these are all images that there are.

    Raises:
        SettingsError: It cannot be read, or names images that are not in the pool.
    """
    try:
        labelled = sorted(set(names.parse(read_file(uri).decode())), key=str.encode)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"CORAL_LABELLED={uri!r} cannot be read: {reason}.") from None
    here = [each for each in labelled if shard is None or shard.owns(each)]
    unknown = listing.find_missing(here) if complete else []
    if unknown:
        shown = ", ".join(map(repr, unknown[:3])) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
        raise SettingsError(
            f"CORAL_LABELLED={uri!r} names images that are not in CORAL_INPUT: {shown}. "
            "Names are relative to CORAL_INPUT, as in selected.txt."
        )
    return labelled
