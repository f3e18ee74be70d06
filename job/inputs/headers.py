"""Sizes of images, from the headers of their files."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from job import images
from job.errors import JobError, one_line
from job.names import shorten
from job.prefetch import prefetch
from job.storage import Source

_MAX_THREADS = 16
# The size of a JPEG stands behind its EXIF, which has at most 64 kB, and mostly before its colour profile.
_HEADER_BYTES = 1 << 17
_JPEG = b"\xff\xd8"


@dataclass(frozen=True)
class Size:
    """The size of an image.

    Attributes:
        width: Width in pixels after the EXIF orientation.
        height: Height in pixels after the EXIF orientation.
        is_turned: Whether the EXIF orientation exchanges width and height.
    """

    width: int
    height: int
    is_turned: bool


def read_size(source: Source, name: str, etag: str | None = None) -> Size:
    """Reads the size of an image; of a JPEG, only the beginning of the file is read.

    Other formats may have their orientation at the end.

    Args:
        source: Where the image is.
        name: File name.
        etag: ETag of the file, which is then read as a whole and checked; None for an unknown one.

    Raises:
        ImageError: If the header cannot be read, or gives more than `job.images.MAX_PIXELS`.
        OSError: If the file cannot be read.
        JobError: If the store cannot be used.
    """
    if etag is None:
        try:
            start = source.read_range(name, 0, _HEADER_BYTES)
            if start.startswith(_JPEG) and len(start) == _HEADER_BYTES:
                return _parse(start)
        except (OSError, images.ImageError):  # the rest of the file may help, or have the reason
            pass
    return _parse(source.read(name, etag))


def _parse(data: bytes) -> Size:
    stored, oriented = images.read_size(data), images.read_oriented_size(data)
    return Size(*oriented, is_turned=stored != oriented)


def read_sizes(source: Source, files: Iterable[tuple[str, str | None]]) -> tuple[dict[str, Size], list[str]]:
    """Reads the sizes of some images. After a problem of the whole store, no further file is read.

    Args:
        source: Where the images are.
        files: File name and ETag of each image; None for an unknown ETag.

    Returns:
        Size by file name, of the images that can be read; and a sentence for each of the others.

    Raises:
        Stopped: If the job was asked to stop.
    """
    sizes: dict[str, Size] = {}
    problems: list[str] = []
    is_unreachable = False

    def read(file: tuple[str, str | None]) -> None:
        nonlocal is_unreachable
        if is_unreachable:
            return
        name, etag = file
        try:
            sizes[name] = read_size(source, name, etag)
        except (JobError, OSError, images.ImageError, ValueError, MemoryError) as error:
            is_unreachable = is_unreachable or isinstance(error, JobError)  # each further try may take minutes
            problems.append(f"{shorten(name)}: {one_line(error)}")

    with ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="sizes") as executor:
        for _ in prefetch(executor, read, files, ahead=_MAX_THREADS):
            pass
    return sizes, problems
