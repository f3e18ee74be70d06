"""Runs the detector on one batch, and makes rows of a part of what it finds."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from detectron2.utils.logger import log_first_n

from job import parts
from job.detect import batched, box_features, probabilities
from job.detect.accelerate import Acceleration
from job.detect.copies import Copies, OnItsWay
from job.detect.features import PooledFeature
from job.detect.model import Detector
from job.detect.prepare import PreparedImage
from job.detect.projection import BOX_SIZE, IMAGE_SIZE, Projection
from job.names import shorten

Tables = Sequence[npt.NDArray[np.floating]]

_BEFORE_PROBABILITIES = 6


@dataclass
class Pass:
    """A batch that the model has started on.

    Attributes:
        images: Its images, of one shape.
        steps: What the model does. They return the table of all boxes and the number of boxes of each image. Without
            these numbers, the table has a dimension of images before that of boxes, as `Found.pack` of
            `job.detect.batched` makes it.
        features: (images, D) float16, on the device; None if the model has no backbone.
        coming: What is on its way to main memory: the numbers that the next step needs or, after the last one, the
            results. First (boxes, 6) float32: four corners, score and class. Then (boxes, classes + 1 + D) float16:
            the class probabilities, and the feature, which may have a length of 0. They become halves where they were
            computed: a GPU needs no time for that, and has less to copy. Last the features of images, if there are any.
        counts: Number of boxes of each image; None if the tables have a dimension of images.
        is_launched: Whether the last step has been started.
    """

    images: list[PreparedImage]
    steps: batched.Steps[tuple[torch.Tensor, list[int] | None]]
    features: torch.Tensor | None = None
    coming: OnItsWay = field(default_factory=lambda: OnItsWay([]))
    counts: list[int] | None = None
    is_launched: bool = False


class Forward:
    """A detector that runs on whole batches. On a GPU, its model is accelerated until `close`.

    Args:
        detector: The detector.
        copies: Copies from the GPU; None on a CPU.
    """

    def __init__(self, detector: Detector, copies: Copies | None = None) -> None:
        self._detector, self._copies = detector, copies
        self._acceleration = Acceleration(detector.model, detector.dtype) if copies else None
        self._feature = PooledFeature(detector.model)
        self._projection, self._box_projection = Projection(IMAGE_SIZE), Projection(BOX_SIZE)

    def close(self) -> None:
        """Restores the model."""
        self._feature.close()
        if self._acceleration:
            self._acceleration.close()

    def start(self, images: list[PreparedImage], batch: torch.Tensor | list[torch.Tensor]) -> Pass:
        """Starts the model. With a model that `batched` supports, this does not wait for the GPU.

        Args:
            images: Images of one shape.
            batch: (n, 3, h, w) uint8 on the GPU; on a CPU, the tensors of the images.
        """
        started = Pass(images, self._run(images, batch))
        self.advance(started)
        return started

    def launch_rest(self, started: Pass) -> None:
        """Starts the other steps of a pass, once their numbers have come. Another pass may be started before."""
        while not started.is_launched:
            (numbers,) = started.coming.wait()
            self.advance(started, numbers.tolist())

    def advance(self, started: Pass, numbers: list[int] | None = None) -> None:
        """Starts the next step of a pass.

        Args:
            started: The pass.
            numbers: What this step needs; None for the first one.
        """
        table: torch.Tensor | None = None
        with torch.inference_mode(), self._autocast():
            try:
                asked = next(started.steps) if numbers is None else started.steps.send(numbers)
            except StopIteration as end:
                table, started.counts = end.value
            features = self._feature.value
            if numbers is None and features is not None:  # later steps may come after the backbone of the next pass
                shorten = self._projection.shorten if self._detector.projection else torch.Tensor.half
                started.features = shorten(features)
            results = [] if table is None else _split(table)
        if table is None:
            started.coming = self._fetch([asked])
        else:
            started.is_launched = True
            started.coming = self._fetch([*results, *([] if started.features is None else [started.features])])

    def read(self, started: Pass) -> list[parts.Row]:
        """Makes the rows of a batch, once the results are in main memory."""
        self.launch_rest(started)
        images = started.images
        numbers, halves, *others = [tensor.numpy() for tensor in started.coming.wait()]
        tables: Sequence[Tables | None]
        if started.counts is None:
            tables = batched.unpack(numbers, halves)
        else:
            # Copies, since views would keep the whole tables in memory.
            ends = np.cumsum(started.counts)
            starts = ends - started.counts
            both = numbers, halves
            tables = [[table[start:end].copy() for table in both] for start, end in zip(starts, ends, strict=True)]
        features: npt.NDArray[np.float16] | None = others[0] if others else None
        if features is not None:
            _check_range(images, features)
        return [
            _make_row(
                image,
                len(self._detector.class_names),
                # detectron2 itself settles the few images with more candidates or longer chains of overlaps.
                self._run_alone(image) if values is None else values,
                None if features is None else features[index],
            )
            for index, (image, values) in enumerate(zip(images, tables, strict=True))
        ]

    def _autocast(self) -> torch.autocast:
        detector = self._detector
        return torch.autocast(detector.device.type, detector.dtype, enabled=detector.precision != "fp32")

    def _expect(self, batch: torch.Tensor | list[torch.Tensor]) -> None:
        """Tells those who change the model what comes."""
        self._feature.expect(*batch[0].shape[1:])
        if self._acceleration and isinstance(batch, torch.Tensor):
            self._acceleration.expect(batch)

    def _run_alone(self, image: PreparedImage) -> Tables:
        with torch.inference_mode(), self._autocast():
            table, _ = self._run_model([image], image.tensor[None].to(self._detector.device))
            return [half.cpu().numpy() for half in _split(table)]

    def _fetch(self, results: list[torch.Tensor]) -> OnItsWay:
        return self._copies.fetch(results) if self._copies else OnItsWay(results)

    def _run(
        self, images: list[PreparedImage], batch: torch.Tensor | list[torch.Tensor]
    ) -> batched.Steps[tuple[torch.Tensor, list[int] | None]]:
        """Returns the steps of a pass, see `Pass.steps`."""
        # On a CPU nothing waits, and detectron2's own loops compute less.
        if not isinstance(batch, torch.Tensor) or not batched.supports(self._detector.model):
            return self._run_model(images, batch)
        self._expect(batch)
        sizes = [(image.height, image.width) for image in images]
        found = yield from batched.detect(self._detector.model, batch, sizes)
        return replace(found, features=self._box_projection.shorten(found.features)).pack(), None

    def _run_model(
        self, images: list[PreparedImage], batch: torch.Tensor | list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[int]]:
        """Runs the model as detectron2 does; returns its table and the number of boxes of each image."""
        self._expect(batch)
        inputs = [
            {"image": tensor, "height": image.height, "width": image.width}
            for tensor, image in zip(batch, images, strict=True)
        ]
        outputs = [output["instances"] for output in self._detector.model(inputs)]
        num_classes, features = len(self._detector.class_names), box_features.of_instances(outputs)
        columns = [
            torch.cat([instances.pred_boxes.tensor for instances in outputs]),
            torch.cat([instances.scores for instances in outputs])[:, None],
            torch.cat([instances.pred_classes for instances in outputs])[:, None],
            torch.cat([probabilities.of_instances(instances, num_classes) for instances in outputs]),
        ]
        columns += [] if features is None else [self._box_projection.shorten(features)]
        table = torch.cat([column.float() for column in columns], dim=1)
        return table, [len(instances) for instances in outputs]


def _split(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Splits a table of boxes into the two of `Pass.coming`."""
    return table[..., :_BEFORE_PROBABILITIES].contiguous(), table[..., _BEFORE_PROBABILITIES:].half()


def _check_range(images: list[PreparedImage], features: npt.NDArray[np.float16]) -> None:
    """Warns of features that half precision cannot hold, and makes them zeros, as a part holds finite numbers only."""
    for row in np.flatnonzero(~np.isfinite(features).all(axis=1)):
        log_first_n(
            logging.WARNING,
            f"The features of {shorten(images[row].entry.key)} are not finite, so its boxes may be wrong: if "
            "CORAL_PRECISION is auto or fp16, set it to bf16.",
            n=3,
            name=__name__,
        )
        features[row] = 0


def _make_row(
    image: PreparedImage, num_classes: int, tables: Tables, feature: npt.NDArray[np.float16] | None
) -> parts.Row:
    """Makes a row of a part from the tables of an image's boxes, see `Pass.coming`."""
    numbers, halves = tables
    of_boxes = halves[:, num_classes + 1 :].copy()
    of_boxes[~np.isfinite(of_boxes).all(axis=1)] = 0  # in half precision, an activation may be too large
    return parts.Row(
        file_name=image.entry.key,
        etag=image.entry.etag,
        byte_size=image.entry.size,
        status="ok",
        width=image.width,
        height=image.height,
        boxes=numbers[:, :4].astype(np.float32),
        scores=numbers[:, 4].astype(np.float32),
        classes=numbers[:, 5].astype(np.int32),
        class_probabilities=halves[:, : num_classes + 1].astype(np.float16),
        box_features=of_boxes if of_boxes.shape[1] else None,
        thumbnail=image.thumbnail,
        feature=feature,
    )
