"""The map step: every image is read, decoded and detected once, and leaves a row in a part."""

import itertools
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from detectron2.data import transforms
from detectron2.structures import Instances
from detectron2.utils.logger import log_first_n

from job import images, parts
from job.budget import Budget
from job.detect import probabilities
from job.detect.batches import Batcher
from job.detect.features import PooledFeature
from job.detect.model import Detector
from job.prefetch import prefetch
from job.progress import Progress
from job.storage import Entry, Listing, Source, Storage

logger = logging.getLogger(__name__)

# What images may take while they are read, decoded and resized, and while they wait for a full batch.
_PREPARING_BYTES = 2 << 30
_WAITING_BYTES = 1 << 30
# Measured, with progressive files and turned channels: OpenCV's pixels, those of Pillow, which resizes, and copies.
_BYTES_PER_PIXEL = 11


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


def provenance(detector: Detector) -> parts.Provenance:
    """What parts made with a detector depend on."""
    return parts.Provenance(
        config_sha256=detector.config_sha256,
        weights_sha256=detector.weights_sha256,
        precision=detector.precision,
        probabilities=detector.probabilities,
        class_names=detector.class_names,
    )


def predict(
    listing: Listing,
    source: Source,
    output: Storage,
    detector: Detector,
    done: set[tuple[str, str]],
    *,
    batch_size: int,
    part_size: int,
    stop: threading.Event,
) -> None:
    """Gives every other image of the listing its row.

    Args:
        listing: The images, in the order in which they are done.
        source: Where they are.
        output: Where the parts go.
        detector: The detector.
        done: Key and ETag of the images that have their rows.
        batch_size: Images in one forward pass.
        part_size: Images in one part.
        stop: When set, no new image is taken; what is at hand is finished and saved, and the rest left.

    Raises:
        ServiceUnavailable: A store cannot be reached any more; what was finished is saved.
    """
    made_with = provenance(detector)
    todo = np.fromiter(((each.key, each.etag) not in done for each in listing), bool, len(listing))
    if not todo.all():
        logger.info("%d of %d images are done already.", len(todo) - todo.sum(), len(todo))
    run = _Run(detector, batch_size)
    workers = min(16, os.cpu_count() or 1)
    preparation = Preparation(source, detector, Budget(_PREPARING_BYTES))
    with (
        ThreadPoolExecutor(workers, thread_name_prefix="prepare") as pool,
        Progress("Detecting", int(todo.sum()), "image") as progress,
    ):
        try:
            prepared = preparation.of(itertools.compress(listing, todo), pool, ahead=4 * workers)
            # Parts are cut from the whole listing, and not from what is left of it: so a run that was interrupted puts
            # the same images into the same batches as one that was not.
            for start in range(0, len(listing), part_size):
                count = int(todo[start : start + part_size].sum())
                rows: list[parts.Row] = []
                try:
                    run.detect(itertools.islice(prepared, count), progress, stop, rows)
                finally:  # whatever happened, these are done
                    if rows:
                        parts.write(output, rows, made_with)
                if len(rows) < count:
                    return
        finally:
            preparation.budget.close()
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class Preparation:
    """From entries to images ready for the detector, in threads.

    Attributes:
        source: Where the images are.
        detector: Whose sizes and channel order to use.
        budget: Bytes that images may take meanwhile.
    """

    source: Source
    detector: Detector
    budget: Budget

    def of(self, entries: Iterable[Entry], pool: ThreadPoolExecutor, *, ahead: int) -> Iterator[Prepared | parts.Row]:
        """Yields the images in order; of an unusable one its row."""
        for number, result in enumerate(prefetch(pool, self._prepare, enumerate(entries), ahead=ahead)):
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
        self.budget.hold(number, 0)
        return parts.Row(entry.key, entry.etag, entry.size, status, reason)

    def _image(self, number: int, entry: Entry) -> Prepared:
        if entry.size > images.MAX_BYTES:
            raise images.ImageError(f"its {entry.size:,} bytes are more than the limit of {images.MAX_BYTES:,}")
        self.budget.hold(number, entry.size)
        data = self.source.read(entry.key, entry.etag)
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


class _Run:
    """The detector at work: batches, halved when the GPU runs out of memory."""

    def __init__(self, detector: Detector, batch_size: int) -> None:
        self._detector = detector
        self._feature = PooledFeature(detector.model)
        self._batch_size = batch_size

    def detect(
        self,
        prepared: Iterable[Prepared | parts.Row],
        progress: Progress,
        stop: threading.Event,
        rows: list[parts.Row],
    ) -> None:
        """Detects on the images of one part and adds their rows to a list.

        When asked to stop, the rows are those of the batches that ran. Images still waiting for theirs are left, since
        the next start will find them waiting for the same company.
        """
        # Images of rare shapes wait for company; this bounds how many, and so the memory.
        batcher = Batcher[Prepared](self._batch_size, max_waiting=8 * self._batch_size, max_bytes=_WAITING_BYTES)
        for each in prepared:
            if stop.is_set():
                return
            if isinstance(each, parts.Row):
                log_first_n(logging.WARNING, f"{each.key!r} cannot be used: {each.error}", n=10, name=__name__)
                rows.append(each)
                progress.add()
            elif batch := batcher.add(tuple(each.tensor.shape), each, each.tensor.nbytes):
                rows += self._detect(batch, progress)
                batcher.batch_size = self._batch_size
        for batch in batcher.flush():
            rows += self._detect(batch, progress)

    def _detect(self, batch: list[Prepared], progress: Progress) -> list[parts.Row]:
        rows: list[parts.Row] = []
        while len(rows) < len(batch):
            some = batch[len(rows) : len(rows) + self._batch_size]
            try:
                rows += self._forward(some)
            except torch.cuda.OutOfMemoryError:
                if len(some) == 1:
                    raise
                self._batch_size = len(some) // 2
                logger.warning("The GPU is out of memory: going on with batches of %d.", self._batch_size)
                torch.cuda.empty_cache()
            else:
                progress.add(len(some))
        return rows

    def _forward(self, batch: list[Prepared]) -> list[parts.Row]:
        detector = self._detector
        self._feature.expect(*batch[0].tensor.shape[1:])
        inputs = [{"image": each.tensor, "height": each.height, "width": each.width} for each in batch]
        half = detector.precision != "fp32"
        with torch.inference_mode(), torch.autocast(detector.device.type, detector.dtype, enabled=half):
            outputs = detector.model(inputs)
        features: list[npt.NDArray[np.float16]] | list[None] = [None] * len(batch)
        if self._feature.value is not None:
            features = list(self._feature.value.cpu().numpy().astype(np.float16))
        return [
            self._row(each, output["instances"].to("cpu"), feature)
            for each, output, feature in zip(batch, outputs, features, strict=True)
        ]

    def _row(self, each: Prepared, found: Instances, feature: npt.NDArray[np.float16] | None) -> parts.Row:
        distribution = probabilities.of(found, len(self._detector.class_names))
        return parts.Row(
            *(each.entry.key, each.entry.etag, each.entry.size, "ok", None, each.width, each.height),
            boxes=found.pred_boxes.tensor.float().numpy(),
            scores=found.scores.float().numpy(),
            classes=found.pred_classes.numpy().astype(np.int32),
            class_probabilities=distribution.float().numpy().astype(np.float16),
            thumbnail=each.thumbnail,
            feature=feature,
        )
