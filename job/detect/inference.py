"""Runs the detector on prepared images, in batches that fit into memory, and returns rows of a part."""

import logging
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from job import parts
from job.detect import gpu
from job.detect.copies import Copies, OnItsWay, stack
from job.detect.forward import Forward, Pass
from job.detect.limits import BatchLimit
from job.detect.model import Detector
from job.detect.prepare import PreparedImage
from job.errors import ServiceUnavailable

logger = logging.getLogger(__name__)

_MAX_BATCH, _MAX_BATCH_OF_MIXED_SIZES = 64, 8
# Leaves room, since the measured blank image has few proposals, each library allocates in blocks of its own, and the
# features of the next batch are there as well.
_MEMORY_SHARE = 0.5


@dataclass
class _Batch:
    """A batch on its way.

    Attributes:
        images: Its images, all of one shape.
        rows: List that its rows go to.
        copy: Its copy to the GPU.
        work: What the model does with it; None until it has started.
    """

    images: list[PreparedImage]
    rows: list[parts.Row]
    copy: Future[OnItsWay]
    work: Pass | None = None


class Inference:
    """A detector with its batch size.

    On a GPU, up to four batches are on their way, so that the GPU rarely waits for this thread. One is copied to
    it. One is started, as far as the model goes without numbers from the GPU. For one these numbers have come, so
    the rest of the model is launched. The first becomes rows. A cascade needs more such numbers, and waits for
    each.

    On a CPU there is one batch at a time, as on a GPU without memory for two.

    Attributes:
        limit: Limits the images in one forward pass. It falls when the GPU runs out of memory, and never rises again.
    """

    def __init__(self, detector: Detector, batch_size: int | None = None) -> None:
        """Sets the batch size; None measures the one that fits the device."""
        self._detector = detector
        self._copies = Copies(detector.device) if detector.device.type == "cuda" else None
        self._forward = Forward(detector, self._copies)
        self._waiting: deque[_Batch] = deque()
        self._started: _Batch | None = None
        self._launched: _Batch | None = None
        self._overlaps = self._copies is not None
        self.limit = BatchLimit(batch_size or 1, detector.model)
        if batch_size is None:
            self.limit = BatchLimit(self._measure_batch_size(), detector.model)

    @property
    def batch_size(self) -> int:
        """The most images in one forward pass, of any shape."""
        return self.limit.images

    def close(self) -> None:
        """Restores the model. Batches on their way are lost."""
        if self._copies:
            self._copies.close()
        self._forward.close()

    def submit(self, images: list[PreparedImage], rows: list[parts.Row]) -> int:
        """Starts to detect objects in images of one shape.

        Args:
            images: The images.
            rows: Their rows are added to this list, at the latest by `finish`. Batches keep the order of the calls.

        Returns:
            The number of images, of this call or of earlier ones, whose rows were added.

        Raises:
            ServiceUnavailable: If the GPU fails, or one image alone does not fit into its memory. The batches on their
                way are lost.
        """
        if not self._copies or not self._overlaps:
            rows += self.detect(images)
            return len(images)
        size = self.limit.of(*images[0].tensor.shape[1:])
        for start in range(0, len(images), size):
            some = images[start : start + size]
            self._waiting.append(_Batch(some, rows, self._copies.send([image.tensor for image in some])))
        count = 0
        while len(self._waiting) > 1:  # the newest batch is copied while those before are computed
            count += self._advance()
        return count

    def finish(self) -> int:
        """Waits for all batches on their way. Returns and raises what `submit` does."""
        count = 0
        while self._waiting or self._started or self._launched:
            count += self._advance()
        return count

    def detect(self, images: list[PreparedImage]) -> list[parts.Row]:
        """Detects objects in images of one shape, and waits for the rows.

        Raises:
            ServiceUnavailable: If the GPU fails, or one image alone does not fit into its memory.
        """
        rows: list[parts.Row] = []
        while len(rows) < len(images):
            some = images[len(rows) : len(rows) + self.limit.of(*images[0].tensor.shape[1:])]
            try:
                tensors = [image.tensor for image in some]
                batch = stack(tensors).to(self._detector.device) if self._copies else tensors
                rows += self._forward.read(self._forward.start(some, batch))
                continue
            except RuntimeError as error:
                _check(error, some)
            # Outside of the except block, which keeps the tensors of the failed attempt alive.
            self._shrink(some)
        return rows

    def _advance(self) -> int:
        """Starts the batch that has waited longest, launches the rest of the one before, makes rows of the first."""
        started, launched = self._started, self._launched
        following = self._waiting.popleft() if self._waiting else None
        on_gpu = [batch for batch in (launched, started, following) if batch]
        on_their_way = [*on_gpu, *self._waiting]
        self._started = self._launched = None
        try:
            if following and self._copies:
                following.work = self._forward.start(following.images, self._copies.receive(following.copy))
            if started and started.work:
                self._forward.launch_rest(started.work)
            if launched and launched.work:
                launched.rows += self._forward.read(launched.work)
            self._started, self._launched = following, started
            return len(launched.images) if launched else 0
        except RuntimeError as error:
            self._waiting.clear()
            if not gpu.is_out_of_memory(error):
                with gpu.translate_errors():
                    raise
        # The GPU works behind the calls, so the error may be that of another batch: all run again, one at a time.
        again = [(batch.images, batch.rows) for batch in on_their_way]
        largest = max(
            (batch.images for batch in on_gpu), key=lambda images: sum(image.tensor.nbytes for image in images)
        )
        started = launched = following = None
        on_gpu.clear()
        on_their_way.clear()  # frees what is on the GPU
        if len(largest) > 1:
            self._shrink(largest)
        else:
            self._overlaps = False
            logger.warning("The GPU has no memory for two images at a time: continuing with one after the other.")
        for images, rows in again:
            rows += self.detect(images)
        return sum(len(images) for images, _ in again)

    def _shrink(self, images: list[PreparedImage]) -> None:
        height, width = images[0].tensor.shape[1:]
        size = self.limit.halve(len(images), height, width)
        logger.warning(
            "The GPU ran out of memory: continuing with batch size %d for images of %dx%d pixels.", size, width, height
        )
        torch.cuda.empty_cache()

    def _measure_batch_size(self) -> int:
        """Returns 1 on a CPU, where larger batches are no faster; on a GPU, a power of two that fits its memory."""
        detector = self._detector
        if detector.device.type != "cuda":
            return 1
        side = detector.min_size or 640
        blank = torch.zeros(3, side, min(2 * side, detector.max_size or 640), dtype=torch.uint8)
        image = PreparedImage.from_tensor(blank)
        self.detect([image])  # the first pass loads the libraries, which then choose their algorithms
        torch.cuda.reset_peak_memory_stats(detector.device)
        before = torch.cuda.memory_allocated(detector.device)
        self.detect([image])
        needed = torch.cuda.max_memory_allocated(detector.device) - before
        # Of the total memory, not the free memory, so that the next start measures the same batch size.
        memory = torch.cuda.get_device_properties(detector.device).total_memory
        size = fit_batch_size(memory, needed)
        if not detector.min_size:  # images keep their sizes, so the measured one is not representative
            size = min(size, _MAX_BATCH_OF_MIXED_SIZES)
        logger.info(
            "Batch size %d: one image needs %.1f of the %.0f GiB of GPU memory.",
            size,
            needed / 2**30,
            memory / 2**30,
        )
        return size


def measure_batch_size(detector: Detector) -> int:
    """Returns the batch size that fits the device of a detector."""
    inference = Inference(detector)
    inference.close()
    return inference.batch_size


def fit_batch_size(memory: int, needed: int) -> int:
    """Computes the largest power of two, from 1 to 64, of images that fit into half of the memory.

    Args:
        memory: Bytes of memory.
        needed: Bytes that one image needs.
    """
    limit = min(_MAX_BATCH, max(1, int(_MEMORY_SHARE * memory / max(1, needed))))
    return int(1 << (limit.bit_length() - 1))


def _check(error: RuntimeError, images: list[PreparedImage]) -> None:
    """Raises, unless a smaller batch may succeed.

    Raises:
        ServiceUnavailable: If the GPU fails, or the image alone does not fit into its memory.
    """
    if not gpu.is_out_of_memory(error):
        with gpu.translate_errors():
            raise error
    if len(images) == 1:
        height, width = images[0].tensor.shape[1:]
        raise ServiceUnavailable(
            f"One image of {width}x{height} pixels does not fit into GPU memory: use a GPU with more memory, or lower "
            "CORAL_MIN_SIZE and CORAL_MAX_SIZE."
        ) from error
