"""The frames of videos as images of the input: they are listed and read as files are."""

import contextlib
import copy
import errno
import functools
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeVar

import cv2

from job import limits, video
from job.errors import AccessDenied, JobError, Stopped, one_line
from job.images import BGR, ImageError
from job.names import quantify, shorten
from job.prefetch import prefetch
from job.storage.base import Entry, Source, Storage, keep_all
from job.storage.filelist import FileList
from job.video import Sampling
from job.video.deadline import Late, Steps
from job.video.names import add_time, split_time
from job.video.ranged import RangedFile

if TYPE_CHECKING:
    from job.video.clip import Clip

T = TypeVar("T")

logger = logging.getLogger(__name__)

_MAX_SIMULTANEOUS = 8
_MAX_OPEN_CLIPS = 4
_MAX_KEPT_BYTES = 128 << 20  # per video, of frames that were decoded on the way to another
_MIN_BLOCK_BYTES, _MAX_BLOCK_BYTES, _MAX_BLOCKS_BYTES = 16 << 10, 4 << 20, 12 << 20


class FrameError(ImageError, OSError):
    """A frame cannot be decoded: whoever reads images expects the first base, whoever reads files the second."""


class VideoSource:
    """Files, with the frames of videos in place of the videos; `job.storage.base.Source` describes the methods.

    A video that cannot be opened is listed under its own name, and its read fails. Videos are decoded in order, by
    whoever needs the next frame. Their bytes are read in ranges, so that no video is held in memory.

    Frames are read as BMP files: to write and read a PNG file takes longer than to decode the frame.

    Args:
        files: The files, videos among them.
        sampling: Which frames count.
        stop: When set, no decoder is waited for.

    Attributes:
        files: The files.
        uri: Their place, in the form that is shown.
    """

    def __init__(self, files: Source, sampling: Sampling, stop: threading.Event) -> None:
        self.files, self.uri = files, files.uri
        self._sampling, self._stop = sampling, stop
        self._to_keep = False
        self._listed: set[str] = set()
        self._late: dict[str, str] = {}  # the reason of each video from which a decoder did not come back
        self._open: OrderedDict[str, _OpenVideo] = OrderedDict()
        self._lock = threading.Lock()

    def to_keep(self) -> "VideoSource":
        """Returns the same source with frames as PNG files, which their names say, for copies of them."""
        source = copy.copy(self)
        source._to_keep = True
        return source

    def list(self, prefix: str = "", keep: Callable[[str], bool] = keep_all) -> Iterator[Entry]:
        """Yields images, and frames of videos; opens every video for the times of its frames."""
        if self._sampling.skips_videos:
            yield from self.files.list(prefix, keep)
            return
        videos: dict[str, Entry] = {}
        for entry in self.files.list(prefix, lambda key: video.is_video(key) or keep(key)):
            if video.is_video(entry.key):
                videos[entry.key] = entry
            else:
                yield entry
        if not videos:
            return
        from job.video import clip  # noqa: F401 - a missing package shows here, not in a thread

        count = 0
        with ThreadPoolExecutor(_MAX_SIMULTANEOUS, thread_name_prefix="videos") as executor:
            for entries in prefetch(executor, self._list_frames, videos.values(), ahead=2 * _MAX_SIMULTANEOUS):
                for entry in entries:
                    if keep(entry.key):
                        count += 1
                        yield entry
        logger.info(
            "%s with CORAL_FRAMES=%s: %s.", quantify(len(videos), "video"), self._sampling, quantify(count, "frame")
        )

    def read(self, key: str, etag: str | None = None) -> bytes:
        """Reads a file, or a frame as an image file.

        Raises:
            FrameError: If the video or the frame cannot be decoded.
        """
        frame = None if self._sampling.skips_videos else video.parse_frame(key)
        if video.is_video(key) and not self._sampling.skips_videos:  # it could not be opened: this raises the reason
            self._read_frame(key, 0, etag)
            raise FrameError("it could not be opened when the input was listed")
        if frame is None or not (frame.video in self._listed or _has_time(etag)):
            try:
                return self.files.read(key, etag)
            except FileNotFoundError:
                if frame is None:
                    raise
        # Otherwise it is a frame, also of a source that was not listed.
        pixels = self._read_frame(frame.video, frame.number, etag)
        extension = ".png" if self._to_keep else ".bmp"
        done, data = cv2.imencode(extension, pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1] if self._to_keep else [])
        if not done:
            raise FrameError(f"it cannot be encoded as {extension}")
        return data.tobytes()

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Reads a part of a file."""
        frame = None if self._sampling.skips_videos else video.parse_frame(key)
        if frame is None or frame.video not in self._listed:
            try:
                return self.files.read_range(key, start, length)
            except FileNotFoundError:
                if frame is None:
                    raise
        return self.read(key)[start : start + length]

    def _list_frames(self, entry: Entry) -> Sequence[Entry]:
        from job.video.clip import list_times

        steps = Steps()
        file = _StoredFile(self.files, entry, steps)
        try:
            last, times = self._decode(entry.key, steps, lambda: list_times(file, self._sampling, steps))
        except (ImageError, OSError) as error:
            logger.debug("%s: %s", entry.key, error)
            return [entry]
        self._listed.add(entry.key)
        return [
            Entry(video.name_frame(entry.key, number, last), add_time(entry.etag, seconds), 0)
            for number, seconds in times
        ]

    def _read_frame(self, key: str, number: int, etag: str | None) -> BGR:
        with self._lock:
            opened = self._open.get(key)
            if opened is None:
                opened = self._open[key] = _OpenVideo(self._sampling, functools.partial(self._decode, key))
            self._open.move_to_end(key)
            unused = [self._open.popitem(last=False)[1] for _ in range(len(self._open) - _MAX_OPEN_CLIPS)]
        for other in unused:
            other.close()
        try:
            return opened.read(number, lambda steps: _StoredFile(self.files, self._find_entry(key, etag), steps))
        except ImageError as error:
            raise FrameError(str(error)) from None

    def _decode(self, key: str, steps: Steps, function: Callable[[], T]) -> T:
        """Runs a function that decodes a video, unless a decoder of it was left behind before."""
        if key in self._late:
            raise Late(self._late[key])
        try:
            return steps.run(function, self._stop)
        except Late as error:
            self._late[key] = str(error)
            logger.warning("%s is skipped from here on: %s.", shorten(key), error)
            raise
        except (ImageError, OSError, JobError):
            raise
        except Exception as error:  # no content of a file may end the job
            if limits.lacks_memory(error):
                raise
            logger.debug("%s:", shorten(key), exc_info=True)
            raise ImageError(
                f"a library failed to read its video ({type(error).__name__}: {one_line(error)})"
            ) from None

    def _find_entry(self, key: str, etag: str | None) -> Entry:
        if isinstance(self.files, FileList):
            entry: Entry | None = self.files.entry(key)
        else:
            storage: Storage = self.files  # type: ignore[assignment]
            try:
                entry = storage.stat(key)
            except AccessDenied as error:
                raise PermissionError(errno.EACCES, str(error)) from None
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, "it does not exist", key)
        if (known := split_time(etag or "")[0]) and known != entry.etag:
            raise OSError(errno.ESTALE, "its video has changed since the listing")
        return entry


class _Decode(Protocol):
    def __call__(self, steps: Steps, function: Callable[[], T]) -> T: ...


class _OpenVideo:
    """A video that several threads read frames of.

    Args:
        sampling: Which frames are kept if they are decoded on the way to another.
        decode: Runs a function that decodes the video.
    """

    def __init__(self, sampling: Sampling, decode: _Decode) -> None:
        self._sampling, self._decode = sampling, decode
        self._clip: Clip | None = None
        self._steps = Steps()
        self._chosen: frozenset[int] = frozenset()
        self._kept: OrderedDict[int, BGR] = OrderedDict()
        self._waiting: list[int] = []  # numbers of frames that threads wait for
        self._is_free, self._is_taken = threading.Condition(), False

    def close(self) -> None:
        """Closes the video until the next read."""
        with self._turn(-1):
            if self._clip:
                self._clip.close()
            self._clip = None
            self._kept.clear()

    def read(self, number: int, open_file: Callable[[Steps], "_StoredFile"]) -> BGR:
        """Returns a frame; opens the video if it is not open."""
        with self._turn(number):
            if number in self._kept:
                return self._kept.pop(number)
            found = self._read_until(number, self._clip or self._open(open_file))
            pixels = found.pop(number)
            self._kept |= found
            num_bytes = sum(kept.nbytes for kept in self._kept.values())
            while num_bytes > _MAX_KEPT_BYTES:
                num_bytes -= self._kept.popitem(last=False)[1].nbytes
            return pixels

    def _open(self, open_file: Callable[[Steps], "_StoredFile"]) -> "Clip":
        from job.video.clip import Clip

        steps = self._steps = Steps()
        file = open_file(steps)
        self._clip = self._decode(steps, lambda: Clip(file, steps))
        self._chosen = frozenset(self._sampling.choose(self._clip.seconds).tolist())
        return self._clip

    def _read_until(self, number: int, clip: "Clip") -> dict[int, BGR]:
        try:
            return self._decode(self._steps, lambda: clip.read_until(number, self._chosen, _MAX_KEPT_BYTES))
        except (Late, Stopped):
            self._clip = None  # it is not closed, since the thread that was left behind uses it
            raise

    @contextlib.contextmanager
    def _turn(self, number: int) -> Iterator[None]:
        """Waits until no other thread uses the video; of those that wait, the one with the first frame is next."""
        with self._is_free:
            self._waiting.append(number)
            self._is_free.wait_for(lambda: not self._is_taken and number == min(self._waiting))
            self._waiting.remove(number)
            self._is_taken = True
        try:
            yield
        finally:
            with self._is_free:
                self._is_taken = False
                self._is_free.notify_all()


class _StoredFile(RangedFile):
    """A file in a store that is read in blocks, of which the last ones are kept. In-order reads get longer blocks."""

    def __init__(self, files: Source, entry: Entry, steps: Steps) -> None:
        super().__init__(entry.size)
        self._files, self._key, self._steps = files, entry.key, steps
        self._blocks: deque[tuple[int, bytes]] = deque()  # with their places

    def read_from(self, start: int, length: int) -> bytes:
        """Returns bytes up to the end of a block."""
        place, block = next(
            ((place, block) for place, block in reversed(self._blocks) if place <= start < place + len(block)),
            (start, b""),
        )
        block = block or self._read_block(start)
        return block[start - place : start - place + length]

    def _read_block(self, start: int) -> bytes:
        place, before = self._blocks[-1] if self._blocks else (0, b"")
        length = 2 * len(before) if before and start == place + len(before) else _MIN_BLOCK_BYTES
        length = min(max(length, _MIN_BLOCK_BYTES), _MAX_BLOCK_BYTES, self._size - start)
        with self._steps.reading():
            block = self._files.read_range(self._key, start, length)
        if len(block) < length:
            raise OSError(errno.EIO, "it is shorter than the listing says")
        self._blocks.append((start, block))
        while sum(len(block) for _, block in self._blocks) > _MAX_BLOCKS_BYTES:
            self._blocks.popleft()
        return block


def _has_time(etag: str | None) -> bool:
    return split_time(etag or "")[1] is not None
