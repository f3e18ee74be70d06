"""Runs the detector on prepared images, in batches that fit into memory, and returns rows of a part."""

import logging

import numpy as np
import numpy.typing as npt
import torch

from job import parts
from job.detect import gpu, probabilities
from job.detect.features import PooledFeature
from job.detect.model import Detector
from job.detect.prepare import PreparedImage
from job.errors import ServiceUnavailable

logger = logging.getLogger(__name__)

_MAX_BATCH, _MAX_BATCH_OF_MIXED_SIZES = 64, 8
# Leaves room, since the measured blank image has few proposals and each library allocates in blocks of its own.
_MEMORY_SHARE = 0.5


class Inference:
    """A detector with its batch size.

    Attributes:
        batch_size: Images in one forward pass. It is halved when the GPU runs out of memory, and never grows again.
    """

    def __init__(self, detector: Detector, batch_size: int | None = None) -> None:
        """Sets the batch size; None measures the one that fits the device."""
        self._detector = detector
        self._feature = PooledFeature(detector.model)
        self.batch_size = batch_size or 1
        if batch_size is None:
            self.batch_size = self._measure_batch_size()

    def close(self) -> None:
        """Restores the model."""
        self._feature.close()

    def detect(self, batch: list[PreparedImage]) -> list[parts.Row]:
        """Detects objects in images of one shape.

        Raises:
            ServiceUnavailable: If the GPU fails, or one image alone does not fit into its memory.
        """
        rows: list[parts.Row] = []
        while len(rows) < len(batch):
            some = batch[len(rows) : len(rows) + self.batch_size]
            try:
                rows += self._forward(some)
                continue
            except torch.OutOfMemoryError as error:
                if len(some) == 1:
                    height, width = some[0].tensor.shape[1:]
                    raise ServiceUnavailable(
                        f"One image of {width}x{height} pixels does not fit into GPU memory: use a GPU with more "
                        "memory, or lower CORAL_MIN_SIZE and CORAL_MAX_SIZE."
                    ) from error
            except RuntimeError:
                with gpu.translate_errors():
                    raise
            # Outside of the except block, which keeps the tensors of the failed attempt alive.
            self.batch_size = len(some) // 2
            logger.warning("The GPU ran out of memory: continuing with batch size %d.", self.batch_size)
            torch.cuda.empty_cache()
        return rows

    def _forward(self, batch: list[PreparedImage]) -> list[parts.Row]:
        detector = self._detector
        self._feature.expect(*batch[0].tensor.shape[1:])
        tensors = [image.tensor for image in batch]
        if detector.device.type == "cuda":
            # One copy of bytes, not floats, from pinned memory, which the GPU reads without the CPU.
            tensors = list(torch.stack(tensors).pin_memory().to(detector.device, non_blocking=True))
        inputs = [
            {"image": tensor, "height": image.height, "width": image.width}
            for tensor, image in zip(tensors, batch, strict=True)
        ]
        half = detector.precision != "fp32"
        with torch.inference_mode(), torch.autocast(detector.device.type, detector.dtype, enabled=half):
            outputs = [output["instances"] for output in detector.model(inputs)]
            num_classes = len(detector.class_names)
            # One copy for the whole batch, since each copy waits for the GPU.
            table = torch.cat(
                [
                    torch.cat([instances.pred_boxes.tensor for instances in outputs]).float(),
                    torch.cat([instances.scores for instances in outputs])[:, None].float(),
                    torch.cat([instances.pred_classes for instances in outputs])[:, None].float(),
                    torch.cat([probabilities.of_instances(instances, num_classes) for instances in outputs]).float(),
                ],
                dim=1,
            )
        values = table.cpu().numpy()
        features: npt.NDArray[np.float16] | None = None
        if self._feature.value is not None:
            features = self._feature.value.cpu().numpy().astype(np.float16)
        ends = np.cumsum([len(instances) for instances in outputs])
        return [
            _make_row(image, values[end - len(instances) : end], None if features is None else features[index])
            for index, (image, instances, end) in enumerate(zip(batch, outputs, ends, strict=True))
        ]

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
