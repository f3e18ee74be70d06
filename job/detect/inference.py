"""Runs the detector on prepared images, in batches that fit into memory, and returns rows of a part."""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from detectron2.utils.logger import log_first_n

from job import parts
from job.detect import batched, gpu, probabilities
from job.detect.accelerate import Acceleration
from job.detect.copies import Copies, OnItsWay, stack
from job.detect.features import PooledFeature
from job.detect.limits import BatchLimit
from job.detect.model import Detector
from job.detect.prepare import PreparedImage
from job.errors import ServiceUnavailable
from job.names import shorten

logger = logging.getLogger(__name__)

_MAX_BATCH, _MAX_BATCH_OF_MIXED_SIZES = 64, 8
# Leaves room, since the measured blank image has few proposals and each library allocates in blocks of its own.
_MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class _Outputs:
    """What the model found in a batch, on the model's device or on the way from there.

    Attributes:
        table: (boxes, 6 + classes + 1) float32: four corners, score, class, and the class probabilities. Without
            counts, the tables that `job.detect.batched` packs for all images.
        counts: Number of boxes of each image; None if it stands in the table.
        features: (images, D) float16; None if the model has no backbone.
        arrived: The end of the copies to main memory; None if there is nothing to wait for.
    """

    table: torch.Tensor
    counts: list[int] | None
    features: torch.Tensor | None
    arrived: torch.cuda.Event | None = None


@dataclass
class _Batch:
    """A batch on its way.

    Attributes:
        images: Its images, all of one shape.
        rows: List that its rows go to.
        copy: Its copy to the GPU.
        outputs: Its results; None until the model has started.
    """

    images: list[PreparedImage]
    rows: list[parts.Row]
    copy: Future[OnItsWay]
    outputs: _Outputs | None = None


class Inference:
    """A detector with its batch size.

    On a GPU, up to three batches are on their way: while the GPU computes one, the next is copied to it, and the one
    before becomes rows. On a CPU there is one batch at a time.

    Attributes:
        limit: Limits the images in one forward pass. It falls when the GPU runs out of memory, and never rises again.
    """

    def __init__(self, detector: Detector, batch_size: int | None = None) -> None:
        """Sets the batch size; None measures the one that fits the device."""
        self._detector = detector
        on_gpu = detector.device.type == "cuda"
        self._acceleration = Acceleration(detector.model) if on_gpu else None
        self._copies = Copies(detector.device) if on_gpu else None
        self._feature = PooledFeature(detector.model)
        self._waiting: deque[_Batch] = deque()
        self._running: _Batch | None = None
        self.limit = BatchLimit(batch_size or 1, detector.model)
        if batch_size is None:
            self.limit = BatchLimit(self._measure_batch_size(), detector.model)

    @property
    def batch_size(self) -> int:
        """The most images in one forward pass, of any shape."""
        return self.limit.images

    def close(self) -> None:
        """Restores the model. Batches on their way are lost."""
        self._feature.close()
        if self._copies:
            self._copies.close()
        if self._acceleration:
            self._acceleration.close()

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
        if not self._copies:
            rows += self.detect(images)
            return len(images)
        size = self.limit.of(*images[0].tensor.shape[1:])
        for start in range(0, len(images), size):
            some = images[start : start + size]
            self._waiting.append(_Batch(some, rows, self._copies.send([image.tensor for image in some])))
        count = 0
        while len(self._waiting) > 1:  # the newest batch is copied while the one before is computed
            count += self._advance()
        return count

    def finish(self) -> int:
        """Waits for all batches on their way. Returns and raises what `submit` does."""
        count = 0
        while self._waiting or self._running:
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
                rows += _make_rows(some, self._start(some, batch), self._run_alone)
                continue
            except RuntimeError as error:
                _check(error, some)
            # Outside of the except block, which keeps the tensors of the failed attempt alive.
            self._shrink(some)
        return rows

    def _advance(self) -> int:
        """Starts the batch that has waited longest, then makes the rows of the one before it."""
        on_their_way = [batch for batch in (self._running, *self._waiting) if batch]
        current, self._running = self._running, None
        following = self._waiting.popleft() if self._waiting else None
        try:
            if following and self._copies:
                following.outputs = self._start(following.images, self._copies.receive(following.copy))
            if current and current.outputs:
                current.rows += _make_rows(current.images, current.outputs, self._run_alone)
            self._running = following
            return len(current.images) if current else 0
        except RuntimeError as error:
            self._waiting.clear()
            if not gpu.is_out_of_memory(error):
                with gpu.translate_errors():
                    raise
        # The GPU works behind the calls, so the error may be that of another batch: all run again, one at a time.
        self._shrink((following or on_their_way[0]).images)
        again = [(batch.images, batch.rows) for batch in on_their_way]
        current = following = None
        on_their_way.clear()  # frees what is on the GPU
        for images, rows in again:
            rows += self.detect(images)
        return sum(len(images) for images, _ in again)

    def _shrink(self, images: list[PreparedImage]) -> None:
        height, width = images[0].tensor.shape[1:]
        size = self.limit.halve(len(images), height, width)
        logger.warning(
            "The GPU ran out of memory: continuing with batches of %d, for images of %dx%d pixels.", size, width, height
        )
        torch.cuda.empty_cache()

    def _start(
        self, images: list[PreparedImage], batch: torch.Tensor | list[torch.Tensor], *, alone: bool = False
    ) -> _Outputs:
        """Starts the model on a batch, (n, 3, h, w) uint8 on a GPU, or on a list of images on the CPU.

        Args:
            images: The images.
            batch: Their pixels.
            alone: Whether detectron2's own inference runs, whose loops go from image to image.
        """
        self._feature.expect(*images[0].tensor.shape[1:])
        if self._acceleration and isinstance(batch, torch.Tensor):
            self._acceleration.expect(batch)
        detector = self._detector
        half = detector.precision != "fp32"
        with torch.inference_mode(), torch.autocast(detector.device.type, detector.dtype, enabled=half):
            # On a CPU nothing waits, and the loops compute less.
            if isinstance(batch, torch.Tensor) and not alone and batched.supports(detector.model):
                counts = None
                table = batched.detect(detector.model, batch, [(image.height, image.width) for image in images]).pack()
            else:
                table, counts = self._run_model(images, batch)
            features = None if self._feature.value is None else self._feature.value.half()
        if not self._copies:
            return _Outputs(table, counts, features)
        copied = self._copies.fetch([table] if features is None else [table, features])
        table, *more = copied.tensors
        return _Outputs(table, counts, more[0] if more else None, copied.arrived)

    def _run_model(
        self, images: list[PreparedImage], batch: torch.Tensor | list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[int]]:
        inputs = [
            {"image": tensor, "height": image.height, "width": image.width}
            for tensor, image in zip(batch, images, strict=True)
        ]
        outputs = [output["instances"] for output in self._detector.model(inputs)]
        num_classes = len(self._detector.class_names)
        table = torch.cat(
            [
                torch.cat([instances.pred_boxes.tensor for instances in outputs]).float(),
                torch.cat([instances.scores for instances in outputs])[:, None].float(),
                torch.cat([instances.pred_classes for instances in outputs])[:, None].float(),
                torch.cat([probabilities.of_instances(instances, num_classes) for instances in outputs]).float(),
            ],
            dim=1,
        )
        return table, [len(instances) for instances in outputs]

    def _run_alone(self, image: PreparedImage) -> npt.NDArray[np.float32]:
        """Returns the table of one image from detectron2's own inference."""
        outputs = self._start([image], stack([image.tensor]).to(self._detector.device), alone=True)
        if outputs.arrived:
            outputs.arrived.synchronize()
        values: npt.NDArray[np.float32] = outputs.table.numpy()
        return values

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


def _make_rows(
    images: list[PreparedImage], outputs: _Outputs, run_alone: Callable[[PreparedImage], npt.NDArray[np.float32]]
) -> list[parts.Row]:
    """Makes the rows of a batch, once its results have arrived. Images that are not settled run again, alone."""
    tables = _split(outputs)
    features: npt.NDArray[np.float16] | None = None
    if outputs.features is not None:
        features = outputs.features.numpy()
        _check_range(images, features)
    return [
        _make_row(image, run_alone(image) if table is None else table, None if features is None else features[index])
        for index, (image, table) in enumerate(zip(images, tables, strict=True))
    ]


def _split(outputs: _Outputs) -> list[npt.NDArray[np.float32] | None]:
    """Waits for the results, and returns a table for each image; None where it is not settled."""
    if outputs.arrived:
        outputs.arrived.synchronize()
    values = outputs.table.numpy()
    if outputs.counts is None:
        return batched.unpack(values)
    return list(np.split(values, np.cumsum(outputs.counts)[:-1]))


def _check_range(images: list[PreparedImage], features: npt.NDArray[np.float16]) -> None:
    for row in np.flatnonzero(~np.isfinite(features).all(axis=1)):
        log_first_n(
            logging.WARNING,
            f"The features of {shorten(images[row].entry.key)} are not finite, so its boxes may be wrong: if "
            "CORAL_PRECISION is auto or fp16, set it to bf16.",
            n=3,
            name=__name__,
        )


def _make_row(
    image: PreparedImage, values: npt.NDArray[np.float32], feature: npt.NDArray[np.float16] | None
) -> parts.Row:
    """Makes a row of a part from a table of boxes: four corners, score, class, and the class probabilities."""
    return parts.Row(
        file_name=image.entry.key,
        etag=image.entry.etag,
        byte_size=image.entry.size,
        status="ok",
        width=image.width,
        height=image.height,
        # Copies, since views would keep the whole table in memory.
        boxes=values[:, :4].copy(),
        scores=values[:, 4].copy(),
        classes=values[:, 5].astype(np.int32),
        class_probabilities=values[:, 6:].astype(np.float16),
        thumbnail=image.thumbnail,
        feature=feature,
    )
