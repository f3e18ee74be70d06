"""The frames of videos as images of the input: they are listed and read as files are."""

import contextlib
import copy
import errno
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import cv2

from job import video
from job.errors import AccessDenied
from job.images import BGR, ImageError
from job.names import quantify
from job.prefetch import prefetch
from job.storage.base import Entry, Source, Storage, keep_all
from job.storage.filelist import FileList
from job.video import Sampling
from job.video.names import add_time, split_time
from job.video.ranged import RangedFile

if TYPE_CHECKING:
    from job.video.clip import Clip

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

    Attributes:
        files: The files.
        uri: Their place, in the form that is shown.
    """

    def __init__(self, files: Source, sampling: Sampling) -> None:
        self.files, self.uri = files, files.uri
        self._sampling = sampling
        self._to_keep = False
        self._listed: set[str] = set()
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

        try:
            last, times = list_times(_StoredFile(self.files, entry), self._sampling)
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
                opened = self._open[key] = _OpenVideo(self._sampling)
            self._open.move_to_end(key)
            unused = [self._open.popitem(last=False)[1] for _ in range(len(self._open) - _MAX_OPEN_CLIPS)]
        for other in unused:
            other.close()
        try:
            return opened.read(number, lambda: _StoredFile(self.files, self._find_entry(key, etag)))
        except ImageError as error:
            raise FrameError(str(error)) from None

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
        if etag and split_time(etag)[0] != entry.etag:
            raise OSError(errno.ESTALE, "its video has changed since the listing")
        return entry


class _OpenVideo:
    """A video that several threads read frames of.

    Args:
        sampling: Which frames are kept if they are decoded on the way to another.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._clip: Clip | None = None
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

    def read(self, number: int, open_file: Callable[[], "_StoredFile"]) -> BGR:
        """Returns a frame; opens the video if it is not open."""
        from job.video.clip import Clip

        with self._turn(number):
            if number in self._kept:
                return self._kept.pop(number)
            if self._clip is None:
                self._clip = Clip(open_file())
                self._chosen = frozenset(self._sampling.choose(self._clip.seconds).tolist())
            found = self._clip.read_until(number, self._chosen)
            pixels = found.pop(number)
            self._kept |= found
            while sum(kept.nbytes for kept in self._kept.values()) > _MAX_KEPT_BYTES:
                self._kept.popitem(last=False)
            return pixels

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

    def __init__(self, files: Source, entry: Entry) -> None:
        super().__init__(entry.size)
        self._files, self._key = files, entry.key
        self._blocks: deque[tuple[int, bytes]] = deque()  # with their places

    def read_from(self, start: int, length: int) -> bytes:
        """Returns bytes up to the end of a block."""
        place, block = next(
            ((place, block) for place, block in self._blocks if place <= start < place + len(block)), (start, b"")
        )
        block = block or self._read_block(start)
        return block[start - place : start - place + length]

    def _read_block(self, start: int) -> bytes:
        place, before = self._blocks[-1] if self._blocks else (0, b"")
        length = 2 * len(before) if before and start == place + len(before) else _MIN_BLOCK_BYTES
        length = min(max(length, _MIN_BLOCK_BYTES), _MAX_BLOCK_BYTES, self._size - start)
        block = self._files.read_range(self._key, start, length)
        if len(block) < length:
            raise OSError(errno.EIO, "it is shorter than the listing says")
        self._blocks.append((start, block))
        while sum(len(block) for _, block in self._blocks) > _MAX_BLOCKS_BYTES:
            self._blocks.popleft()
        return block


def _has_time(etag: str | None) -> bool:
    return split_time(etag or "")[1] is not None
