"""The inputs of a run: the images of its shard, and the lists that name images."""

import logging
import re
import threading
from collections import Counter
from collections.abc import Iterator
from posixpath import splitext

from job import images
from job.errors import AccessDenied, SettingsError
from job.names import quantify
from job.settings import Settings
from job.shards import Shard
from job.storage import Entry, Listing, Source, open_source
from job.storage.clutter import is_clutter
from job.storage.filelist import FileList
from job.storage.frames import VideoSource
from job.uris import normalize, relativize
from job.video import EXTENSIONS as VIDEOS
from job.video import is_video
from job.video.names import time_alone

logger = logging.getLogger(__name__)

_MAX_PROBES = 3
_MAX_KINDS_SHOWN = 8


def list_images(settings: Settings, source: VideoSource, shard: Shard) -> Listing:
    """Lists the images of a shard, sorted bytewise by name. Skips results of the job in folders below the input.

    All files that a list names count as images. In a folder, the extension decides.

    Raises:
        SettingsError: If the input does not exist or contains no images.
    """
    folders = [relativize(source.uri, normalize(uri)) for uri in (settings.output, *settings.previous)]
    results = tuple(folder for folder in folders if folder)
    if isinstance(source.files, FileList):
        listing = Listing.from_entries(source.list(keep=shard.owns))
        if source.files.is_empty:
            raise SettingsError(f"CORAL_INPUT={source.uri!r} names no files. Write one path or URI per line.")
    else:
        images_only = _Filter(results, with_videos=not settings.frames.skips_videos)
        listing = Listing.from_entries(source.list(keep=lambda key: images_only.keep(key) and shard.owns(key)))
        if not images_only.num_images:
            formats = ", ".join(sorted(extension[1:] for extension in images.EXTENSIONS | VIDEOS))
            skipped = images_only.describe_skipped() or "It holds no other files either."
            raise SettingsError(f"CORAL_INPUT={source.uri!r} holds no images or videos ({formats}). {skipped}")
        images_only.log()
    if shard.count > 1:
        logger.info(
            "%s in %s for shard %d of %d.", quantify(len(listing), "image"), source.uri, shard.index, shard.count
        )
    else:
        logger.info("%s in %s.", quantify(len(listing), "image"), source.uri)
    return listing


class _Filter:
    """Decides which files of a folder are images, and counts the others.

    Args:
        results: Folders with results of the job, each with a ``/`` at its end.
        with_videos: Whether videos, and so their frames, are images.

    Attributes:
        num_images: Number of images.
    """

    def __init__(self, results: tuple[str, ...], *, with_videos: bool) -> None:
        self._results, self._with_videos = results, with_videos
        self._first: str | None = None
        self._reset()

    def _reset(self) -> None:
        self.num_images = self._num_clutter = 0
        self._clutter = ""
        self._skipped: Counter[str] = Counter()  # by extension

    def keep(self, key: str) -> bool:
        """Returns whether a file is an image."""
        if key.rstrip("/") == self._first:  # a store that gave up halfway begins again
            self._reset()
        self._first = self._first or key.rstrip("/")
        if key.startswith(self._results) or key.endswith("/"):  # the latter are markers of folders in buckets
            return False
        if is_clutter(key):
            self._num_clutter, self._clutter = self._num_clutter + 1, self._clutter or key
            return False
        extension = splitext(key)[1].lower()
        if extension not in images.EXTENSIONS and not (self._with_videos and is_video(key)):
            self._skipped[extension if re.fullmatch(r"\.\w{1,10}", extension) else "others"] += 1
            return False
        self.num_images += 1
        return True

    def describe_skipped(self) -> str:
        """Describes the skipped files, by extension; empty if there are none."""
        counts = self._skipped.most_common(_MAX_KINDS_SHOWN)
        if rest := self._skipped.total() - sum(count for _, count in counts):
            counts.append(("more kinds", rest))
        kinds = ", ".join(f"{extension} {count}" for extension, count in counts)
        return f"{quantify(self._skipped.total(), 'file is', 'files are')} skipped: {kinds}." if counts else ""

    def log(self) -> None:
        """Logs what is not an image."""
        if self._num_clutter:
            logger.info(
                "%s skipped, such as %r.",
                quantify(self._num_clutter, "system file is", "system files are"),
                self._clutter[-80:],
            )
        convertible = sorted(images.CONVERTIBLE & self._skipped.keys())
        if convertible:
            logger.warning("%s Convert %s to JPEG to use them.", self.describe_skipped(), ", ".join(convertible))
        elif self._skipped:
            logger.info(self.describe_skipped())


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


def describe_replaced(done: set[tuple[str, str]], listing: Listing, shard: Shard) -> str | None:
    """Describes what a run replaces if its output holds results of entirely different images.

    Args:
        done: File name and ETag of each image in the output.
        listing: The images of this run's shard.
        shard: That shard. Other shards may have saved images of this run already.

    Returns:
        A warning; None if the output holds no images of this shard, or one of them is in the listing.
    """
    owned = [name for name, _ in done if shard.owns(name)]
    if not owned or len(listing.find_missing(owned)) < len(owned):
        return None
    return (
        f"CORAL_OUTPUT holds results of {quantify(len(owned), 'other image')}, such as {min(owned)[-80:]!r}, and none "
        "of them is in CORAL_INPUT. The picks, the report and all other results there will be replaced; to keep them, "
        "set CORAL_OUTPUT to a new folder."
    )


def list_names(settings: Settings, stop: threading.Event) -> Listing:
    """Lists the images of the input by their names alone, for a run that does not read them.

    Of a list of files the videos alone are opened: no other file needs to exist. Sizes are 0, and ETags are empty but
    for the times of frames.

    Args:
        settings: The settings.
        stop: When set, waiting for a store ends.

    Raises:
        SettingsError: If the input does not exist or contains no images.
    """
    source = open_source(settings.input, stop, settings.frames)
    try:
        entries = (
            _list_names(settings, source, source.files)
            if isinstance(source.files, FileList)
            else (list_images(settings, source, Shard()))
        )
        listing = Listing.from_entries(Entry(entry.key, time_alone(entry.etag), 0) for entry in entries)
    except SettingsError as error:
        raise SettingsError(
            f"{error} With CORAL_PREDICTIONS, CORAL_INPUT says which images there are: set it to their folder, or to a "
            "list of their names (.txt), whose files are not opened."
        ) from None
    if not len(listing):
        raise SettingsError(f"CORAL_INPUT={settings.input!r} is an empty list: give one file name per line.")
    return listing


def _list_names(settings: Settings, source: VideoSource, files: FileList) -> Iterator[Entry]:
    """Yields the files of a list by their names, and the frames of its videos."""
    keys = files.keys()
    others = {key for key in keys if settings.frames.skips_videos or not is_video(key)}
    yield from (Entry(key, "", 0) for key in others)
    if len(others) < len(keys):
        yield from source.list(keep=lambda key: key not in others)
