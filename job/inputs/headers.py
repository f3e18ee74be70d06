"""Sizes of images, from the headers of their files."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from job import images
from job.errors import JobError, Stopped, one_line
from job.names import shorten
from job.prefetch import prefetch
from job.storage import Source

_MAX_THREADS = 16


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
            data = source.read(name, etag)
            stored, oriented = images.read_size(data), images.read_oriented_size(data)
            sizes[name] = Size(*oriented, is_turned=stored != oriented)
        except Stopped:
            raise
        except (JobError, OSError, images.ImageError, ValueError, MemoryError) as error:
            is_unreachable = is_unreachable or isinstance(error, JobError)  # each further try may take minutes
            problems.append(f"{shorten(name)}: {one_line(error)}")

    with ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="sizes") as executor:
        for _ in prefetch(executor, read, files, ahead=_MAX_THREADS):
            pass
    return sizes, problems
