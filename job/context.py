"""What the stages of one run share."""

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from job import limits, parts
from job.detect import described
from job.errors import Stopped
from job.inputs.match import Match
from job.parts.owned import OwnedOutput
from job.parts.pool import Pool
from job.progress import now
from job.select.points import Points
from job.settings import Settings
from job.settings.schema import Precision
from job.stopping import MESSAGE, Stop
from job.usage import usage

if TYPE_CHECKING:
    from job.detect.model import Detector
    from job.lightly.api import Platform


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledElsewhere:
    """Labelled images that are not in CORAL_INPUT, and whose embeddings are known.

    Attributes:
        file_names: Names of the k images, as CORAL_LABELLED gives them, sorted bytewise.
        embeddings: (k, d) in this order.
    """

    file_names: list[str]
    embeddings: npt.NDArray[np.float32]


_SECONDS_UNTIL_NAMED = 3.0  # of a stage that shows no progress


def _name_stage(name: str) -> None:
    if now.stage == name and now.progress is None:
        logger.info("Working on: %s ...", name)


@dataclass(frozen=True)
class SelectionInputs:
    """Everything that the reduce step works out before it selects.

    Attributes:
        pool: The images.
        embeddings: (n, d) in the order of the pool.
        embedding: How the embeddings were made.
        labelled: File names of the images of the input that have labels.
        elsewhere: Other labelled images.
        digests: Digests of the names and sizes of the images, and of the list of labelled images.
        run_id: Name of the job's own selection.
        rejected: File names of the images of CORAL_REJECTED.
    """

    pool: Pool
    embeddings: Points
    embedding: dict[str, Any]
    labelled: list[str]
    elsewhere: LabelledElsewhere
    digests: dict[str, str]
    run_id: str
    rejected: frozenset[str] = frozenset()

    def name_center(self, index: int) -> str:
        """File name of a labelled or picked image: a row of the pool, or n + i for the i-th image elsewhere."""
        count = len(self.pool.file_names)
        return self.pool.file_names[index] if index < count else self.elsewhere.file_names[index - count]

    def find_labelled(self) -> list[int]:
        """The rows of the labelled images that are usable."""
        rows = self.pool.file_names.find(self.labelled)
        found: list[int] = rows[rows >= 0].tolist()
        return found

    @property
    def has_distances(self) -> bool:
        """Whether there are embeddings, so that distances mean something."""
        return bool(self.embedding["method"] != "none")


@dataclass(frozen=True)
class Selected:
    """One pick, as the result files describe it.

    Attributes:
        rank: 1 for the best pick.
        file_name: Relative to the input.
        score: Active-learning score that the strategy ranks by; None without a detector.
        value: Value that the image was picked for; it falls from pick to pick, except after the first.
        distance: Distance to the nearest labelled or earlier picked image, 0 to 2; None for a first pick.
        nearest: File name of that image.
        reason: Reason in words.
        factors: Factors of the value by name, each before its strength is applied, and the distance.
        boxes: At most three boxes that contribute most: class, score, box (left, top, right, bottom), contribution.
    """

    rank: int
    file_name: str
    score: float | None
    value: float
    distance: float | None
    nearest: str | None
    reason: str
    factors: dict[str, float]
    boxes: list[dict[str, Any]]


@dataclass
class Run:
    """What the stages of one run share.

    Attributes:
        settings: The settings.
        stop: Whether the job was asked to stop.
        output: Folder of the results, which replaces only files that the job wrote.
        platform: The Lightly platform; None if nothing is uploaded.
        detector: The detector, once it is built.
        class_names: Names by class index of the imported predictions; None if there are none.
        imported: What imported predictions were made with, if their images are read; else None.
        names: What was found when each list of names was compared with CORAL_INPUT, by the kind of list.
        current_stage: Name of the stage that is running.
    """

    settings: Settings
    stop: Stop
    output: OwnedOutput
    platform: "Platform | None" = None
    detector: "Detector | None" = None
    class_names: tuple[str, ...] | None = None
    imported: parts.Provenance | None = None
    names: dict[str, dict[str, int]] = field(default_factory=dict)
    current_stage: str | None = None

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage and reports it as the current one.

        Raises:
            Stopped: If the job was asked to stop before the stage began. A request that arrives while Python cleans up
                would be noticed nowhere else.
        """
        if self.stop.has_arrived:
            raise Stopped(MESSAGE)
        outer, self.current_stage = self.current_stage, name
        now.enter(name)
        usage.enter(name)
        timer = threading.Timer(_SECONDS_UNTIL_NAMED, _name_stage, (name,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        self.current_stage = outer
        limits.return_memory()
        now.leave(outer)
        usage.leave(outer)

    def current_class_names(self) -> tuple[str, ...]:
        """Names by class index, which may have been corrected since the detection."""
        if self.class_names is not None:
            return self.class_names
        if self.detector is not None:
            return self.detector.class_names
        return described.describe(self.settings, self.output).class_names

    def accept(self, kind: str, match: Match, num_elsewhere: int = 0) -> Match:
        """Notes for run.json how a list of names meets the images, and logs it once.

        Args:
            kind: Kind of the list, for run.json.
            match: What a comparison with CORAL_INPUT found.
            num_elsewhere: Number of unknown names that are those of images elsewhere.
        """
        if kind in self.names:
            return match
        self.names[kind] = match.counts
        if respelled := match.describe_respelled():
            logger.log(logging.WARNING if match.ignores_folders else logging.INFO, respelled)
        if unknown := match.describe_unknown(num_elsewhere):
            logger.warning(unknown)
        return match

    def need_detector(self, precision: Precision | None = None) -> "Detector":
        """The detector, or the embedder if the detections are imported; built on first use.

        Args:
            precision: ``fp32``, ``fp16`` or ``bf16``; None for that of the settings.
        """
        if self.detector is None:
            self.detector = self.build_detector(precision or self.settings.precision, self.settings.device)
        return self.detector

    def build_detector(self, precision: Precision, device: str) -> "Detector":
        """Builds the detector, or the embedder if the detections are imported.

        Args:
            precision: ``fp32``, ``fp16``, ``bf16`` or ``auto``.
            device: As CORAL_DEVICE.
        """
        from job.detect import embedder  # detectron2, which a selection from other detections does not need

        with self.stage("load the detector"):
            required = self.settings.require_gpu and device != "cpu"
            return embedder.build(
                dataclasses.replace(self.settings, precision=precision, device=device, require_gpu=required)
            )

    def need_detector_of(self, pool: Pool) -> "Detector":
        """The detector, after checking that the detections of the pool were made with it.

        Raises:
            SettingsError: If they were made with another detector.
        """
        detector = self.need_detector()
        self.check_provenance(pool)
        return detector

    def check_provenance(self, pool: Pool) -> None:
        """Checks that the detections of the pool were made with the detector that the settings name.

        Raises:
            SettingsError: If they were made with another detector.
        """
        if self.settings.predictions and self.imported is None:
            return
        if self.imported is not None:
            expected = dataclasses.replace(
                self.imported,
                embedder=pool.provenance.embedder,
                embedder_sha256=pool.provenance.embedder_sha256,
                projection=pool.provenance.projection,
            )
        else:
            config = described.describe(self.settings, self.output)
            expected = dataclasses.replace(pool.provenance, config_sha256=config.sha256, class_names=config.class_names)
            if self.detector is not None:
                expected = dataclasses.replace(expected, weights_sha256=self.detector.weights_sha256)
        if self.settings.uses_features:
            expected = dataclasses.replace(
                expected,
                embedder=described.describe_embedder(self.settings, self.output),
                projection=described.describe_projection(self.settings),
            )
            if self.detector is not None:
                expected = dataclasses.replace(expected, embedder_sha256=self.detector.embedder_sha256)
        parts.check_same(self.output, pool.provenance, expected)
        described.leave(self.settings, self.output)
