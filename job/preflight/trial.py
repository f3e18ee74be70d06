"""A few images of the pool through detection, to estimate the time for all images: `check --trial`."""

import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from job import parts
from job.names import shorten
from job.preflight.check import Findings, State, Warn, format_bytes
from job.storage import Listing, Source
from job.storage.local import LocalFolder

if TYPE_CHECKING:
    from job.detect.model import Detector

_NUM_IMAGES, _NUM_BATCHES = 20, 4  # whichever are more: on a GPU, up to four batches are on their way


@dataclass(frozen=True)
class Measurement:
    """Result of a trial.

    Attributes:
        seconds: Time that all its images took.
        size: Bytes of their parts.
        failed: File name and reason of each unusable image.
    """

    seconds: float
    size: int
    failed: list[tuple[str, str]]


class Trial:
    """A trial of some images.

    Args:
        price_per_hour: Price of this machine per hour; None if unknown.
    """

    def __init__(self, price_per_hour: float | None) -> None:
        self._price = price_per_hour

    def estimate(self, state: State) -> Findings:
        """Runs the detector on images from the whole listing, into a folder that is removed afterwards."""
        if not state.listing or state.source is None or state.detector is None:
            yield Warn("No trial is possible: fix the images and the detector first.")
            return
        batch_size = _find_batch_size(state, state.detector)
        sample = Listing.from_entries(state.listing.sample(max(_NUM_IMAGES, _NUM_BATCHES * batch_size)))
        measured = _measure(state, sample, state.source, state.detector, batch_size)
        rate, left = len(sample) / measured.seconds, len(state.listing) - state.num_done
        shard = f" of shard {state.shard.index}" if state.shard.count > 1 else ""
        images = f"{left}{' unfinished' if state.num_done else ''} images{shard}"
        yield (
            f"{rate:.3g} images/s on {len(sample)} images: {images} would take about "
            f"{_format_duration(left / rate)}{self._format_cost(left / rate, state.shard.count)} and "
            f"{format_bytes(measured.size / len(sample) * left)} of parts"
        )
        yield from _check_failures(measured.failed, len(sample), state.settings.max_failed)

    def _format_cost(self, seconds: float, shards: int) -> str:
        if self._price is None:
            return ""
        cost = self._price * seconds / 3600
        return f", cost {cost:.2f}{f' (all {shards} shards: {cost * shards:.2f})' if shards > 1 else ''}"


def _find_batch_size(state: State, detector: "Detector") -> int:
    """Finds the batch size beforehand, as a run does once: among few images that would weigh too much."""
    from job.detect.inference import measure_batch_size

    return state.settings.batch_size or measure_batch_size(detector)


def _measure(state: State, sample: Listing, source: Source, detector: "Detector", batch_size: int) -> Measurement:
    from job.detect import runner

    # On a GPU, the first run also loads its code.
    for _ in range(2 if detector.device.type == "cuda" else 1):
        with tempfile.TemporaryDirectory(prefix="coralpick-") as folder, state.stop.defer() as requested:
            output = LocalFolder(folder)
            start = time.monotonic()
            runner.predict(
                sample,
                source,
                output,
                detector,
                set(),
                batch_size=batch_size,
                part_size=state.settings.part_size,
                stop=requested,
                imported=state.to_embed,
            )
            seconds = time.monotonic() - start
            tables = [part.table for part in parts.read(output, ["key", "status", "error"])]
            rows = [row for table in tables for row in table.to_pylist()]
            size = sum(file.size for file in parts.list_files(output))
    failed = [(row["key"], row["error"]) for row in rows if row["status"] != "ok"]
    return Measurement(seconds, size, failed)


def _check_failures(failed: list[tuple[str, str]], count: int, max_failed: float) -> Findings:
    if not failed:
        yield f"all {count} images are usable"
        return
    name, reason = failed[0]
    words = f"{len(failed)} of {count} images are unusable, such as {shorten(name)}: {reason}"
    if len(failed) > max_failed * count:
        yield Warn(f"{words}. With such a share the run would end with 65, since CORAL_MAX_FAILED={max_failed:g}.")
    else:
        yield words


def _format_duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
