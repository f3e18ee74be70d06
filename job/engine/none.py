"""No engine: this process detects, on one GPU or the CPU."""

import logging

from job.detect import runner
from job.detect.agreement import agree_on_precision
from job.engine.choice import Choice
from job.engine.work import Work
from job.settings import Settings
from job.settings.schema import Precision
from job.stopping import Stop
from job.storage import Storage

logger = logging.getLogger(__name__)


class InProcess:
    """This process as the only worker."""

    in_process = True

    def __init__(self, choice: Choice) -> None:
        if choice.words:
            logger.info(choice.words)

    def agree_on_precision(self, settings: Settings, output: Storage, stop: Stop) -> Precision:
        """See `Engine`."""
        return agree_on_precision(settings, output)

    def detect(self, work: Work) -> None:
        """See `Engine`."""
        runner.predict(
            work.listing,
            work.source,
            work.output,
            work.detector,
            work.done,
            batch_size=work.settings.batch_size,
            part_size=work.settings.part_size,
            stop=work.stop.requested,
            imported=work.imported,
            shard=work.shard,
        )

    def close(self) -> None:
        """Nothing was started."""
