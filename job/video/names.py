"""The names of frames, which are those of LightlyOne: ``drive/clip-0040-mp4.png`` of ``drive/clip.mp4``."""

import re
from dataclasses import dataclass
from posixpath import splitext

EXTENSIONS = frozenset({".mp4", ".m4v", ".hevc", ".mkv", ".mpg", ".mpeg", ".avi", ".mov", ".webm"})

_FRAME = re.compile(
    rf"(.+)-(\d+)-({'|'.join(extension[1:] for extension in sorted(EXTENSIONS))})\.png", re.IGNORECASE | re.DOTALL
)
TIME_MARK = "#t="


@dataclass(frozen=True)
class Frame:
    """What the name and the ETag of a frame say.

    Attributes:
        video: Key of the video.
        number: Number of the frame in the video, from 0, in the order of presentation.
    """

    video: str
    number: int


def is_video(key: str) -> bool:
    """Whether a file is a video, by its extension."""
    return splitext(key)[1].lower() in EXTENSIONS


def name_frame(video: str, number: int, last: int) -> str:
    """Names a frame.

    Args:
        video: Key of the video.
        number: Number of the frame.
        last: Number of the last frame of the video; all numbers have as many digits.
    """
    stem, extension = splitext(video)
    return f"{stem}-{number:0{len(str(last))}d}-{extension[1:]}.png"


def parse_frame(name: str) -> Frame | None:
    """Returns the frame of a name; None if an image of this name would be no frame."""
    match = _FRAME.fullmatch(name)
    return Frame(f"{match[1]}.{match[3]}", int(match[2])) if match else None


def add_time(etag: str, seconds: float) -> str:
    """Returns the ETag of a frame: that of its video, and its time, so that later steps need not open the video."""
    return f"{etag}{TIME_MARK}{seconds:.3f}"


def split_time(etag: str) -> tuple[str, float | None]:
    """Splits the ETag of a frame into that of its video and the time in seconds; None if it has no time."""
    whole, separator, time = etag.rpartition(TIME_MARK)
    try:
        return (whole, float(time)) if separator else (etag, None)
    except ValueError:
        return etag, None


def time_alone(etag: str) -> str:
    """Returns the ETag of a frame without that of its video; empty if it is not that of a frame."""
    _, time = split_time(etag)
    return "" if time is None else add_time("", time)
