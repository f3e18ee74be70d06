"""The detector at work: images in, rows of a part out, in batches that fit into memory."""

import logging

import numpy as np
import numpy.typing as npt
import torch

from job import parts
from job.detect import gpu, probabilities
from job.detect.features import PooledFeature
from job.detect.model import Detector
from job.detect.prepare import Prepared
from job.errors import ServiceUnavailable

logger = logging.getLogger(__name__)

_MOST, _MOST_OF_ANY_SIZE = 64, 8
# Blank images have few proposals, and no two libraries ask for memory in the same pieces.
_SHARE_OF_MEMORY = 0.5


class Inference:
    """A detector with the number of images that it takes at a time.

    Attributes:
        batch_size: Images in one forward pass; it is halved when the GPU runs out of memory, and grows no more.
    """

    def __init__(self, detector: Detector, batch_size: int | None = None) -> None:
        """Takes the batch size, or finds the one that suits the device."""
        self._detector = detector
        self._feature = PooledFeature(detector.model)
        self.batch_size = batch_size or 1
        if batch_size is None:
            self.batch_size = self._automatic_batch_size()

    def close(self) -> None:
        """Leaves the model as it was."""
        self._feature.close()

    def rows(self, batch: list[Prepared]) -> list[parts.Row]:
        """Detects on images of one shape.

        Raises:
            ServiceUnavailable: The GPU fails, or its memory does not hold even one of them.
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
                        f"The GPU's memory does not hold one image of {width}x{height} pixels: use a larger GPU, or "
                        "lower CORAL_MIN_SIZE and CORAL_MAX_SIZE."
                    ) from error
            except RuntimeError:
                with gpu.faults():
                    raise
            # Out here, where nothing of the attempt is held any more.
            self.batch_size = len(some) // 2
            logger.warning("The GPU is out of memory: going on with batches of %d.", self.batch_size)
            torch.cuda.empty_cache()
        return rows

    def _forward(self, batch: list[Prepared]) -> list[parts.Row]:
        detector = self._detector
        self._feature.expect(*batch[0].tensor.shape[1:])
        tensors = [each.tensor for each in batch]
        if detector.device.type == "cuda":
            # Bytes rather than floats, from memory that the GPU can read by itself, all in one go.
            tensors = list(torch.stack(tensors).pin_memory().to(detector.device, non_blocking=True))
        inputs = [
            {"image": tensor, "height": each.height, "width": each.width}
            for tensor, each in zip(tensors, batch, strict=True)
        ]
        half = detector.precision != "fp32"
        with torch.inference_mode(), torch.autocast(detector.device.type, detector.dtype, enabled=half):
            found = [output["instances"] for output in detector.model(inputs)]
            # All of the batch comes back at once: each copy waits for the GPU.
            table = torch.cat(
                [
                    torch.cat([each.pred_boxes.tensor for each in found]).float(),
                    torch.cat([each.scores for each in found])[:, None].float(),
                    torch.cat([each.pred_classes for each in found])[:, None].float(),
                    torch.cat([probabilities.of(each, len(detector.class_names)) for each in found]).float(),
                ],
                dim=1,
            )
        values = table.cpu().numpy()
        features: npt.NDArray[np.float16] | None = None
        if self._feature.value is not None:
            features = self._feature.value.cpu().numpy().astype(np.float16)
        ends = np.cumsum([len(each) for each in found])
        return [
            _row(each, values[end - len(instances) : end], None if features is None else features[index])
            for index, (each, instances, end) in enumerate(zip(batch, found, ends, strict=True))
        ]

    def _automatic_batch_size(self) -> int:
        """One on a CPU, where more gain nothing; on a GPU a power of two that its memory holds."""
        detector = self._detector
        if detector.device.type != "cuda":
            return 1
        side = detector.min_size or 640
        blank = torch.zeros(3, side, min(2 * side, detector.max_size or 640), dtype=torch.uint8)
        one = Prepared.blank(blank)
        self.rows([one])  # the libraries load, and choose their algorithms
        torch.cuda.reset_peak_memory_stats(detector.device)
        before = torch.cuda.memory_allocated(detector.device)
        self.rows([one])
        needed = torch.cuda.max_memory_allocated(detector.device) - before
        # Of all there is and not of what is free, so that the next start finds the same.
        memory = torch.cuda.get_device_properties(detector.device).total_memory
        size = fitting(memory, needed)
        if not detector.min_size:  # images come in sizes of their own, and the measured one says little
            size = min(size, _MOST_OF_ANY_SIZE)
        logger.info("Batches of %d images: one takes %.1f of the GPU's %.0f GiB.", size, needed / 2**30, memory / 2**30)
        return size


def fitting(memory: int, needed: int) -> int:
    """The largest power of two, up to 64, of images that memory holds with room to spare.

    Args:
        memory: Bytes there are.
        needed: Bytes that one image takes.
    """
    most = min(_MOST, max(1, int(_SHARE_OF_MEMORY * memory / max(1, needed))))
    return int(1 << (most.bit_length() - 1))


def _row(each: Prepared, values: npt.NDArray[np.float32], feature: npt.NDArray[np.float16] | None) -> parts.Row:
    """A row of a part, from a table of boxes: four corners, score, class, and the class probabilities."""
    return parts.Row(
        *(each.entry.key, each.entry.etag, each.entry.size, "ok", None, each.width, each.height),
        # Copies, for views would keep the whole table.
        boxes=values[:, :4].copy(),
        scores=values[:, 4].copy(),
        classes=values[:, 5].astype(np.int32),
        class_probabilities=values[:, 6:].astype(np.float16),
        thumbnail=each.thumbnail,
        feature=feature,
    )
