"""What an engine gets to do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from job.detect.imported import Imported
from job.detect.model import Detector
from job.settings import Settings
from job.settings.schema import Precision
from job.shards import Shard
from job.stopping import Stop
from job.storage import Listing, Source, Storage

Load = Callable[[], npt.NDArray[np.float32]]  # reads rows of the selection, on any machine


@dataclass(frozen=True)
class Work:
    """The map step of one run.

    Attributes:
        settings: The settings.
        listing: The images of the shard.
        shard: The shard.
        source: Store that the images are read from.
        output: Store that the parts are written to.
        detector: The detector, or the embedder if detections are imported.
        done: Key and ETag of the finished images.
        precision: Precision of the run.
        stop: Whether the job was asked to stop. Then no more images are taken, and what is on its way is saved.
        imported: Detections that were made elsewhere.
    """

    settings: Settings
    listing: Listing
    shard: Shard
    source: Source
    output: Storage
    detector: Detector
    done: set[tuple[str, str]]
    precision: Precision
    stop: Stop
    imported: Imported | None = None


class Engine(Protocol):
    """Something that detects."""

    @property
    def in_process(self) -> bool:
        """Whether this process itself detects. Otherwise it needs no GPU for its detector."""

    def agree_on_precision(self, settings: Settings, output: Storage, stop: Stop) -> Precision:
        """Returns the precision of the run (`job.detect.agreement`).

        Raises:
            JobError: If there is nothing to detect with.
        """

    def detect(self, work: Work) -> None:
        """Writes a row in a part for every unfinished image.

        Raises:
            JobError: If the work cannot be finished. Finished images are saved.
        """

    def close(self) -> None:
        """Ends what the engine has started."""
