"""What the stages of one run share."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from job import parts
from job.errors import Stopped
from job.parts.pool import Pool
from job.progress import now
from job.settings import Settings
from job.stopping import MESSAGE, Stop
from job.storage import Storage

if TYPE_CHECKING:
    from job.detect.model import Detector
    from job.lightly.api import Platform


@dataclass
class Run:
    """What the stages of one run share.

    Attributes:
        settings: The settings.
        stop: Whether the job is asked to stop.
        output: Folder of the results.
        platform: Lightly's, if it is uploaded to.
        detector: Once it is built.
        seconds: Spent in each stage.
        within: The stage that is going on.
    """

    settings: Settings
    stop: Stop
    output: Storage
    platform: "Platform | None" = None
    detector: "Detector | None" = None
    seconds: dict[str, float] = field(default_factory=dict)
    within: str | None = None

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage, and says that it is the one; it does not begin once the job is asked to stop.

        Raises:
            Stopped: It is. A request that comes while Python cleans up is told of nowhere else.
        """
        if self.stop.requested.is_set():
            raise Stopped(MESSAGE)
        start = time.monotonic()
        outer, self.within = self.within, name
        now.enter(name)
        yield
        self.seconds[name] = time.monotonic() - start
        self.within = outer
        now.leave(outer)

    def need_detector(self) -> "Detector":
        """The detector, built on first use."""
        from job.detect import model  # detectron2, which detections from elsewhere do without

        if self.detector is None:
            with self.stage("load the detector"):
                self.detector = model.build(self.settings)
        return self.detector

    def detector_of(self, pool: Pool) -> "Detector":
        """The detector, once it is sure that the pool was detected with it."""
        detector = self.need_detector()
        self.check(pool)
        return detector

    def check(self, pool: Pool) -> None:
        """Refuses detections of another detector than the settings name.

        Raises:
            SettingsError: The output holds such.
        """
        if self.settings.predictions:
            return
        from job.detect import config

        described = config.read(self.settings)
        ours = dataclasses.replace(pool.provenance, config_sha256=described.sha256, class_names=described.class_names)
        if self.detector is not None:
            ours = dataclasses.replace(ours, weights_sha256=self.detector.weights_sha256)
        parts.check_same(self.output, pool.provenance, ours)
