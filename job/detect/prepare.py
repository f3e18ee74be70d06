"""From the name of a file to an image that is ready for the detector, in threads ahead of it."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from detectron2.data import transforms

from job import images, parts
from job.detect.budget import Budget
from job.detect.cpu_turns import Turns
from job.detect.model import Detector
from job.errors import JobError
from job.prefetch import prefetch
from job.storage import Entry, Source

# Measured, with decoding, copies and resizing: 11 for most, 15 for progressive JPEG, 21 for JPEG 2000 with alpha.
_BYTES_PER_PIXEL = 22


@dataclass(frozen=True)
class Prepared:
    """An image on its way to the detector.

    Attributes:
        entry: Where it came from.
        tensor: (3, h, w) uint8, resized, in the model's channel order.
        height: Pixels of the original.
        width: Pixels of the original.
        thumbnail: JPEG file.
    """

    entry: Entry
    tensor: torch.Tensor
    height: int
    width: int
    thumbnail: bytes

    @classmethod
    def blank(cls, tensor: torch.Tensor) -> "Prepared":
        """No image of the pool, but one to measure with."""
        return cls(Entry("", "", 0), tensor, tensor.shape[1], tensor.shape[2], b"")


@dataclass(frozen=True)
class Preparation:
    """From entries to images ready for the detector, in threads.

    Attributes:
        source: Where the images are.
        detector: Whose sizes and channel order to use.
        budget: Bytes that images may take meanwhile.
        turns: When the threads may use the cores.
    """

    source: Source
    detector: Detector
    budget: Budget
    turns: Turns

    def of(self, entries: Iterable[Entry], pool: ThreadPoolExecutor, *, ahead: int) -> Iterator[Prepared | parts.Row]:
        """Yields the images in order; of an unusable one its row."""
        results = prefetch(pool, self._prepare, enumerate(entries), ahead=ahead, idle=self.turns.model_waits)
        for number, result in enumerate(results):
            self.budget.consumed(number)
            yield result

    def _prepare(self, numbered: tuple[int, Entry]) -> Prepared | parts.Row:
        number, entry = numbered
        try:
            result = self._image(number, entry)
            self.budget.hold(number, result.tensor.nbytes + len(result.thumbnail))
            return result
        except images.ImageError as error:
            status, reason = "failed", str(error)
        except FileNotFoundError:
            status, reason = "unread", "it is gone since the listing, a link to nowhere, or its name is not UTF-8"
        except OSError as error:
            status, reason = "unread", f"it cannot be read: {error.strerror}"
        except MemoryError:
            status, reason = "unread", "there is not enough memory to decode it"
        except JobError:
            raise
        except Exception as error:  # no file, whatever is in it, ends the job
            status, reason = "failed", f"it makes a library fail ({type(error).__name__}: {error})"
        self.budget.hold(number, 0)
        return parts.Row(entry.key, entry.etag, entry.size, status, reason)

    def _image(self, number: int, entry: Entry) -> Prepared:
        if entry.size > images.MAX_BYTES:
            raise images.ImageError(f"its {entry.size:,} bytes are more than the limit of {images.MAX_BYTES:,}")
        self.budget.hold(number, entry.size)
        data = self.source.read(entry.key, entry.etag)
        self.turns.wait()
        width, height = images.dimensions(data)
        self.budget.hold(number, len(data) + _BYTES_PER_PIXEL * width * height)
        image = images.decode(data)
        height, width = image.shape[:2]  # after the EXIF orientation
        return Prepared(entry, to_tensor(image, self.detector), height, width, images.thumbnail(image))


def to_tensor(image: images.BGR, detector: Detector) -> torch.Tensor:
    """Resizes an image and lays it out for the model, exactly as detectron2's DefaultPredictor does.

    Args:
        image: (height, width, 3) uint8, BGR.
        detector: Whose sizes and channel order to use.

    Returns:
        (3, h, w) uint8.
    """
    if detector.channels == "RGB":
        image = image[:, :, ::-1]
    height, width = image.shape[:2]
    if detector.min_size:
        size = transforms.ResizeShortestEdge.get_output_shape(height, width, detector.min_size, detector.max_size)
        # Of a very long and thin image the short side would be rounded to nothing.
        size = max(1, size[0]), max(1, size[1])
        resize = transforms.ResizeTransform(height, width, *size, interp=PIL.Image.Resampling.BILINEAR)
        image = resize.apply_image(np.ascontiguousarray(image))
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
