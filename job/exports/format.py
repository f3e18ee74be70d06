"""The record of an export format: all that the job and the manual need to know about it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from job.exports.detected import Export


@dataclass(frozen=True)
class ImageFiles:
    """Where a format writes one file per image, or per video.

    Attributes:
        folder: Folder below exports/, with a ``/`` at its end.
        suffix: Suffix of the files, with its dot.
        of: What each file is of.
    """

    folder: str
    suffix: str
    of: Literal["image", "video"] = "image"


@dataclass(frozen=True, kw_only=True)
class Format:
    """An export format.

    No field has a default, so an incomplete record fails at import. `files` and `image_files` also decide which files
    of an earlier run are removed: a file that they do not cover is never removed.

    Attributes:
        name: Name in CORAL_EXPORTS.
        title: Name of the tool or format, for the manual.
        render: Yields the path below exports/ and the content of each file.
        unsized: What happens to an image of unknown width and height. ``left out``: it is missing from the files.
            ``without boxes``: it is listed without boxes. ``kept``: it is written with its boxes.
        is_xml: Whether images are left out if XML cannot represent their names.
        files: Paths below exports/ of the files that do not belong to one image.
        image_files: Where the files of single images or videos are; None if the format has none.
        summary: One sentence for the manual: what is in the files, or how to use them.
    """

    name: str
    title: str
    render: Callable[[Export], Iterator[tuple[str, bytes]]]
    unsized: Literal["kept", "without boxes", "left out"]
    is_xml: bool
    files: tuple[str, ...]
    image_files: ImageFiles | None
    summary: str
