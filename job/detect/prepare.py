"""Prepares images for the detector, in threads that run ahead of it: reads, decodes and resizes each file."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
import PIL.Image
import torch
from detectron2.data import transforms
from torchvision.transforms.v2 import functional

from job import images, limits, parts
from job.budget import Budget
from job.detect.cpu_turns import Turns
from job.detect.model import Detector
from job.detect.value_range import RangeCount, has_narrow_range
from job.errors import JobError, Stopped
from job.names import shorten
from job.prefetch import Workers, prefetch
from job.stopping import MESSAGE
from job.storage import Entry, Source

logger = logging.getLogger(__name__)

# A normal image takes less than a second. One of the largest size, in the slowest format, takes some five.
MAX_DECODING_SECONDS = 120.0
_SECONDS_UNTIL_NAMED = 30.0


@dataclass(frozen=True)
class PreparedImage:
    """An image that is ready for the detector.

    Attributes:
        entry: Its entry in the listing.
        tensor: (3, h, w) uint8, resized, in the model's channel order; its memory may be (h, w, 3).
        height: Height of the original in pixels, after the EXIF orientation.
        width: Width of the original in pixels, after the EXIF orientation.
        thumbnail: JPEG file.
        has_narrow_range: See `job.detect.value_range`.
    """

    entry: Entry
    tensor: torch.Tensor
    height: int
    width: int
    thumbnail: bytes
    has_narrow_range: bool | None = None

    @classmethod
    def from_tensor(cls, tensor: torch.Tensor) -> "PreparedImage":
        """Makes an image without a file, to measure memory with."""
        return cls(Entry("", "", 0), tensor, tensor.shape[1], tensor.shape[2], b"")


@dataclass(frozen=True)
class Preparation:
    """Prepares images in threads.

    Attributes:
        source: Store that the images are read from.
        detector: Detector that the images are prepared for.
        budget: Limits the bytes of the images in preparation.
        turns: Decides when the threads may use the cores.
        ranges: Counts the images with a narrow range of values.
        stop: When set, the preparation ends, also while the detector waits for an image.
    """

    source: Source
    detector: Detector
    budget: Budget
    turns: Turns
    ranges: RangeCount = field(default_factory=RangeCount)
    stop: threading.Event = field(default_factory=threading.Event)
    _decoding_since: dict[int, float] = field(default_factory=dict)
    _named: set[int] = field(default_factory=set)

    def prepare(
        self, entries: Iterable[Entry], executor: Workers, *, ahead: int
    ) -> Iterator[PreparedImage | parts.Row]:
        """Yields the prepared images in order, and for each unusable image its row. Ends early on a stop.

        Args:
            entries: The images.
            executor: Runs the preparation.
            ahead: Number of images that are prepared ahead of the detector.
        """

        def watch(numbered: tuple[int, Entry], seconds: float) -> parts.Row | None:
            row = self._watch(*numbered, seconds)
            if row is not None:
                executor.replace_one()
            return row

        results = prefetch(
            executor,
            self._prepare_one,
            enumerate(entries),
            ahead=ahead,
            idle=self.turns.release_cores,
            watch=watch,
        )
        with contextlib.suppress(Stopped):
            for number, result in enumerate(results):
                self.budget.release(number)
                if isinstance(result, PreparedImage):
                    self.ranges.add(result.has_narrow_range)
                yield result

    def _watch(self, number: int, entry: Entry, seconds: float) -> parts.Row | None:
        """Looks after an image that the detector waits for; returns its row if it takes too long to decode.

        Raises:
            Stopped: If the job was asked to stop.
        """
        if self.stop.is_set():
            raise Stopped(MESSAGE)
        since = self._decoding_since.get(number)
        if since is not None and time.monotonic() - since > MAX_DECODING_SECONDS:
            reason = f"decoding it takes longer than {MAX_DECODING_SECONDS:g} seconds"
            return parts.Row(entry.key, entry.etag, entry.size, "failed", reason)
        if seconds > _SECONDS_UNTIL_NAMED and number not in self._named:
            self._named.add(number)
            work = "read" if since is None else "decoded"
            logger.warning("Waiting for %s, which is still being %s.", shorten(entry.key), work)
        return None

    def _prepare_one(self, numbered: tuple[int, Entry]) -> PreparedImage | parts.Row:
        number, entry = numbered
        try:
            try:
                result = self._read_image(number, entry)
            finally:
                self._decoding_since.pop(number, None)
            self.budget.hold(number, result.tensor.nbytes + len(result.thumbnail))
            return result
        except images.ImageError as error:
            status, reason = "failed", str(error)
        except FileNotFoundError:
            status, reason = "unread", "it was deleted after the listing, is a broken link, or its name is not UTF-8"
        except OSError as error:
            status, reason = "unread", f"it cannot be read: {error.strerror}"
        except JobError:
            raise
        except Exception as error:  # no content of a file may end the job
            status, reason = "failed", f"a library failed to process it ({type(error).__name__}: {error})"
            if limits.lacks_memory(error):
                status, reason = "unread", "there is not enough memory to decode it"
        self.budget.hold(number, 0)
        return parts.Row(entry.key, entry.etag, entry.size, status, reason)

    def _read_image(self, number: int, entry: Entry) -> PreparedImage:
        if entry.size > images.MAX_BYTES:
            raise images.ImageError(f"its size of {entry.size:,} bytes is above the limit of {images.MAX_BYTES:,}")
        self.budget.hold(number, entry.size)
        data = self.source.read(entry.key, parts.file_etag(entry.etag))
        self.turns.wait()
        self._decoding_since[number] = time.monotonic()
        num_bytes = images.count_decoding_bytes(data)
        del self._decoding_since[number]  # to wait for memory is not to decode
        self.budget.hold(number, num_bytes)
        self._decoding_since[number] = time.monotonic()
        image = images.decode(data)
        height, width = image.shape[:2]  # after the EXIF orientation
        return PreparedImage(
            entry=entry,
            tensor=to_tensor(image, self.detector),
            height=height,
            width=width,
            thumbnail=images.make_thumbnail(image),
            has_narrow_range=has_narrow_range(data, image),
        )


def to_tensor(image: images.BGR, detector: Detector) -> torch.Tensor:
    """Resizes an image and converts it to the model's input.

    For a detector in fp32, the pixels are exactly those of detectron2's DefaultPredictor. In half precision, a few are
    one level higher or lower, which moves the scores no more than the precision does (docs/performance.md).

    Args:
        image: (height, width, 3) uint8, BGR.
        detector: Its sizes, its channel order and its precision are used.

    Returns:
        (3, h, w) uint8, a view of (h, w, 3) memory.
    """
    height, width = image.shape[:2]
    size = height, width
    if detector.min_size:
        size = transforms.ResizeShortestEdge.get_output_shape(height, width, detector.min_size, detector.max_size)
        # The short side of a very long and thin image would be rounded to 0.
        size = max(1, size[0]), max(1, size[1])
    if size != (height, width):
        image = _resize_exactly(image, size) if detector.precision == "fp32" else _resize_fast(image, size)
    if detector.channels == "RGB":
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[assignment]
    return torch.from_numpy(image).permute(2, 0, 1)


def _resize_exactly(image: images.BGR, size: tuple[int, int]) -> images.BGR:
    resize = transforms.ResizeTransform(*image.shape[:2], *size, interp=PIL.Image.Resampling.BILINEAR)
    return np.array(resize.apply_image(image))  # a copy, since the array that it returns is read-only


def _resize_fast(image: images.BGR, size: tuple[int, int]) -> images.BGR:
    resized = functional.resize(torch.from_numpy(image).permute(2, 0, 1), list(size), antialias=True)
    return resized.permute(1, 2, 0).numpy()  # type: ignore[no-any-return]
