"""One video: the times of its frames, and their pixels."""

import contextlib
import io
import itertools
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from job.errors import first_line
from job.images import BGR, MAX_PIXELS, ImageError
from job.video.deadline import Steps
from job.video.index_only import IndexOnly, has_index
from job.video.sampling import Sampling

# What is damaged becomes the reason of a row. With any other level, a thread of a decoder that has something to say
# waits for the interpreter's lock, and the thread that holds it waits for the decoder to close: for ever.
av.logging.set_level(None)

_MAX_FRAMES = 10_000_000
_MAX_PACKETS = 2 * _MAX_FRAMES  # from one opening or seek to the next: of a file that leads back into itself
# Packets after that of a frame until it comes: at most 16 threads and 16 frames that are shown later than decoded.
_MAX_DELAY = 128
_WITHOUT_PARSER = {"fflags": "noparse+nofillin"}
_WITHOUT_INDEX = ("mpeg", "mpegts")
_USUAL_RATE = 25  # frames per second
# Number of quarter turns counterclockwise that undo the rotation of the display matrix.
_TURNS = {0: 0, 90: 1, 180: 2, -180: 2, -90: 3, 270: 3}


class Clip:
    """The first video stream of a file. It is read in order; a frame before the last one is found by its key frame.

    Frames are numbered in the order of presentation, and found by their time stamps: numbers of a seek are not exact
    where frames refer to later ones or the rate varies.

    Attributes:
        seconds: (n,) time of each frame since the first one, ascending.
    """

    def __init__(self, file: io.IOBase, steps: Steps | None = None) -> None:
        """Opens a video and reads its time stamps.

        Args:
            file: The file, with `read` and `seek`.
            steps: Is told of each step.

        Raises:
            ImageError: If it is no video, or has no frames.
        """
        self._file, self._steps = file, steps or Steps()
        self._container: Any = None
        self._frames: Iterator[tuple[int | None, Any]] = iter(())
        self._position: int | None = None  # time stamp up to which all frames have come, or will not come
        self._seeks_exactly: bool | None = None  # None until a seek has missed a frame
        self._counts = False  # whether frames have their numbers as time stamps
        self._time_base = 1.0
        try:
            self._stamps, self._keys = self._read_stamps()
        finally:
            self.close()
        if not len(self._stamps):
            raise ImageError("it has no frames")
        self.seconds: npt.NDArray[np.float64] = (self._stamps - self._stamps[0]) * self._time_base

    def close(self) -> None:
        """Closes the file."""
        if self._container:
            self._container.close()
        self._container = None

    def read_until(self, number: int, wanted: frozenset[int] = frozenset(), max_bytes: int = 0) -> dict[int, BGR]:
        """Decodes on to a frame.

        Args:
            number: The frame.
            wanted: Frames to return as well if they are decoded on the way.
            max_bytes: Bytes of pixels to return; the frames that are the furthest away are left out. The frame itself
                is returned whatever its size.

        Returns:
            (height, width, 3) BGR pixels as they are to be seen, by number.

        Raises:
            ImageError: If the frame cannot be decoded.
        """
        if not 0 <= number < len(self._stamps):
            raise ImageError(f"its video has {len(self._stamps):,} frames only")
        if self._container is None:
            self._open()
        target = int(self._stamps[number])
        has_sought = self._seek(target)
        found = self._decode_until(number, wanted, max_bytes)
        if number not in found and has_sought and self._seeks_exactly is not True:
            # Some containers cannot be sought exactly. Whether this is one of them shows from the beginning.
            self._open()
            found = self._decode_until(number, wanted, max_bytes)
            self._seeks_exactly = number not in found
        if number not in found:
            raise ImageError(f"its video is damaged {self.seconds[number]:.1f} s after its beginning")
        return found

    def _decode_until(self, last: int, wanted: frozenset[int], max_bytes: int) -> dict[int, BGR]:
        passed: deque[tuple[int, Any, Fraction | None]] = deque()
        num_bytes = 0
        too_far = self._stamps[last + _MAX_DELAY] if last + _MAX_DELAY < len(self._stamps) else np.inf
        for stamp, frame in self._frames:
            if stamp is None or (frame is None and stamp < too_far):
                continue
            if frame is None:  # otherwise a file that ends in damage would be read to its end for each frame
                break
            self._position = stamp
            number = int(np.searchsorted(self._stamps, stamp))
            is_known = number < len(self._stamps) and self._stamps[number] == stamp
            if is_known and (number == last or number in wanted) and not frame.is_corrupt:
                passed.append((number, frame, self._stream.sample_aspect_ratio))
                num_bytes += _count_bytes(*passed[-1][1:])
                while num_bytes > max_bytes and len(passed) > 1:
                    num_bytes -= _count_bytes(*passed.popleft()[1:])
            if number >= last:
                break
        target = int(self._stamps[last])
        self._position = target if self._position is None else max(self._position, target)
        return _convert(passed) if passed and passed[-1][0] == last else {}

    def _open(self, *, index_only: bool = False) -> None:
        """Opens the file from its beginning.

        Args:
            index_only: Whether the pictures are not needed. Then no parser may look at them either: it would take
                them for other frames than the index says.
        """
        self._steps.begin()
        self.close()
        self._file.seek(0)
        index = IndexOnly(self._file) if index_only else None
        if index and index.most_frames > _MAX_FRAMES:  # their index would take gigabytes of memory
            raise _unreadable(f"it has more than {_MAX_FRAMES:,} frames")
        file, options = (index, _WITHOUT_PARSER) if index else (self._file, {})
        # Edit lists stay as they are: what they cut off is not shown.
        try:
            self._container = av.open(file, metadata_errors="ignore", options=options)
        except (av.FFmpegError, ValueError) as error:
            raise _unreadable(_describe(error)) from None
        if not self._container.streams.video:
            raise _unreadable("it has no pictures")
        self._stream = self._container.streams.video[0]
        if self._stream.codec_context is None:
            raise _unreadable("its codec is not known")
        self._stream.thread_type = "AUTO"
        if not self._counts:
            self._time_base = float(self._stream.time_base)
        if self._container.format.name in _WITHOUT_INDEX:
            self._seeks_exactly = False
        self._frames, self._position = self._decode(), None

    def _read_stamps(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Returns the time stamps of all frames, and those of the key frames, ascending."""
        self._open(index_only=has_index(self._file))
        stamps, keys, complete = [], [], True
        for packet in self._demux():
            if packet.size and not packet.is_discard:
                complete &= packet.pts is not None
                stamps.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
            if len(stamps) > _MAX_FRAMES:
                raise _unreadable(f"it has more than {_MAX_FRAMES:,} frames")
        if not complete:  # old containers leave time stamps to the decoder
            self._open()
            stamps = [stamp for stamp, frame in self._decode() if frame and stamp is not None]
            if not stamps:  # a stream without a container has none at all
                self._counts, self._seeks_exactly = True, False
                self._time_base = 1 / float(self._stream.guessed_rate or _USUAL_RATE)
                self._open()
                stamps = [stamp for stamp, frame in self._decode() if frame and stamp is not None]
            keys = []
        return np.unique(np.array(stamps, np.int64)), np.unique(np.array(keys, np.int64))

    def _seek(self, target: int) -> bool:
        """Goes to the last key frame before a frame if that is nearer; returns whether it did."""
        before = self._keys[self._keys <= target]
        key = int(before[-1]) if len(before) else int(self._stamps[0])
        if self._position is not None and key <= self._position < target:
            return False
        if self._position is None and key <= int(self._stamps[0]):
            return False
        if self._seeks_exactly is False:
            if self._position is None or self._position >= target:
                self._open()
            return False
        self._steps.begin()
        try:
            self._container.seek(key, stream=self._stream, backward=True)
            self._frames, self._position = self._decode(), None
        except av.FFmpegError:  # a file that cannot be sought is read from its beginning
            self._open()
        return True

    def _demux(self) -> Iterator[Any]:
        """Yields packets up to the end, or to where the file is damaged."""
        with contextlib.suppress(av.FFmpegError):
            for packet in itertools.islice(self._container.demux(self._stream), _MAX_PACKETS):
                self._steps.begin()
                yield packet
                self._steps.begin()

    def _decode(self) -> Iterator[tuple[int | None, Any]]:
        """Yields frames with their time stamps; and after each packet its time stamp, and None."""
        numbers = itertools.count()
        # The decoder still holds frames at the end, also where the file was cut.
        for packet in itertools.chain((packet for packet in self._demux() if packet.size), [None]):
            for frame in self._decode_packet(packet):
                yield next(numbers) if self._counts else frame.pts, frame
            yield packet.pts if packet and not self._counts else None, None

    def _decode_packet(self, packet: Any) -> Iterator[Any]:
        # The frames of a damaged packet are missing; later ones may be whole.
        with contextlib.suppress(av.FFmpegError):
            yield from self._stream.codec_context.decode(packet)


def list_times(file: io.IOBase, sampling: Sampling, steps: Steps | None = None) -> tuple[int, list[tuple[int, float]]]:
    """Lists the chosen frames of a video.

    Args:
        file: The file, with `read` and `seek`.
        sampling: Which frames count.
        steps: Is told of each step.

    Returns:
        The number of the last frame, and number and time in seconds of each chosen frame.

    Raises:
        ImageError: If it is no video that can be read.
    """
    clip = Clip(file, steps)
    chosen = sampling.choose(clip.seconds)
    return len(clip.seconds) - 1, [(int(number), float(clip.seconds[number])) for number in chosen]


def _convert(passed: deque[tuple[int, Any, Fraction | None]]) -> dict[int, BGR]:
    """Converts frames that were passed on the way to the last one, and frees each; only now, since few are kept."""
    found: dict[int, BGR] = {}
    while passed:
        number, frame, pixel_ratio = passed.popleft()
        try:
            found[number] = _to_pixels(frame, pixel_ratio)
        except ImageError:
            if not passed:  # of the others, a read of their own says it
                raise
    return found


def _to_pixels(frame: Any, pixel_ratio: Fraction | None) -> BGR:
    """Converts a frame as it is to be seen: its colours, its rotation, and the shape of its pixels."""
    if frame.width * frame.height > MAX_PIXELS:
        raise ImageError(f"its {frame.width}x{frame.height} pixels are more than the limit of {MAX_PIXELS:,}")
    try:
        pixels: BGR = frame.to_ndarray(format="bgr24")
    except (av.FFmpegError, ValueError) as error:
        raise ImageError(f"its pixels cannot be converted ({_describe(error)})") from None
    size = _find_size(frame, pixel_ratio)
    if size != (frame.width, frame.height):
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    turns = _TURNS.get(round(frame.rotation / 90) * 90, 0)
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _find_size(frame: Any, pixel_ratio: Fraction | None) -> tuple[int, int]:
    """Returns width and height of a frame with square pixels."""
    if pixel_ratio and 0.1 < pixel_ratio < 10:
        return max(1, round(frame.width * float(pixel_ratio))), frame.height
    return frame.width, frame.height


def _count_bytes(frame: Any, pixel_ratio: Fraction | None) -> int:
    width, height = _find_size(frame, pixel_ratio)
    return 3 * width * height


def _unreadable(reason: str) -> ImageError:
    return ImageError(f"it is no video that can be read ({reason})")


def _describe(error: Exception) -> str:
    text = getattr(error, "strerror", None) or first_line(error)
    return text[:1].lower() + text[1:]
