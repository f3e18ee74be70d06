"""A few images of the pool through the map step, to know how long all of them take: `check --trial`."""

import tempfile
import time
from dataclasses import dataclass

from job import parts
from job.detect import runner
from job.detect.inference import Inference
from job.detect.model import Detector
from job.preflight.check import Findings, Known, Warn, amount
from job.storage import Listing, Source
from job.storage.local import LocalFolder

_IMAGES = 20


@dataclass(frozen=True)
class Measured:
    """What came of it.

    Attributes:
        seconds: That the images took.
        size: Bytes of their parts.
        failed: Of each image that cannot be used, name and reason.
    """

    seconds: float
    size: int
    failed: list[tuple[str, str]]


class Trial:
    """The check.

    Args:
        price_per_hour: Of this machine; None where it is not known.
    """

    __name__ = "trial"

    def __init__(self, price_per_hour: float | None) -> None:
        self._price = price_per_hour

    def __call__(self, known: Known, /) -> Findings:
        """Detects on images from all over the listing, into a folder that is gone afterwards."""
        if not known.listing or known.source is None or known.detector is None:
            yield Warn("There is nothing to try: see what is said of the images and the detector.")
            return
        sample = Listing.of(known.listing.sample(_IMAGES))
        measured = _measured(known, sample, known.source, known.detector)
        rate, left = len(sample) / measured.seconds, len(known.listing) - known.done
        of_shard = f" of shard {known.shard.index}" if known.shard.count > 1 else ""
        what = f"{left} images{of_shard}{' that are not done yet' if known.done else ''}"
        yield (
            f"{rate:.3g} images/s on {len(sample)} of them: {what} would take about "
            f"{_duration(left / rate)}{self._cost(left / rate, known.shard.count)} and "
            f"make {amount(measured.size / len(sample) * left)} of parts"
        )
        yield from _failures(measured.failed, len(sample), known.settings.max_failed)

    def _cost(self, seconds: float, shards: int) -> str:
        if self._price is None:
            return ""
        cost = self._price * seconds / 3600
        return f", cost {cost:.2f}{f' (all {shards} shards: {cost * shards:.2f})' if shards > 1 else ''}"


def _measured(known: Known, sample: Listing, source: Source, detector: Detector) -> Measured:
    # Found out beforehand, as a run does once: it would weigh too much among few images.
    inference = Inference(detector, known.settings.batch_size)
    inference.close()
    # What is run on a GPU for the first time is loaded first.
    for _ in range(2 if detector.device.type == "cuda" else 1):
        with tempfile.TemporaryDirectory(prefix="coralpick-") as folder, known.stop.deferred() as requested:
            output = LocalFolder(folder)
            start = time.monotonic()
            runner.predict(
                *(sample, source, output, detector, set()),
                batch_size=inference.batch_size,
                part_size=known.settings.part_size,
                stop=requested,
            )
            seconds = time.monotonic() - start
            tables = [part.table for part in parts.read(output, ["key", "status", "error"])]
            rows = [row for table in tables for row in table.to_pylist()]
            size = sum(each.size for each in parts.files(output))
    failed = [(row["key"], row["error"]) for row in rows if row["status"] != "ok"]
    return Measured(seconds, size, failed)


def _failures(failed: list[tuple[str, str]], count: int, most: float) -> Findings:
    if not failed:
        yield f"all {count} images can be used"
        return
    key, reason = failed[0]
    words = f"{len(failed)} of {count} images cannot be used, such as {key!r}: {reason}"
    if len(failed) > most * count:
        yield Warn(f"{words}. That is more than CORAL_MAX_FAILED={most:g} allows: a run like that would end with 65.")
    else:
        yield words


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
