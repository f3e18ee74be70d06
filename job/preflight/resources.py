"""Says before the selection what it will take beside what there is, and refuses what cannot fit."""

import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from job import forecast, limits
from job.errors import JobError, ServiceUnavailable
from job.forecast import MARGIN, Need, PoolSize
from job.names import quantify
from job.parts import choose_size, count_ahead, sizes
from job.preflight.check import Findings, State, Warn, format_bytes
from job.settings import Settings
from job.storage import Storage
from job.uris import Location

_GIB = 1 << 30
_PART_BYTES_PER_IMAGE = 5000  # with ten boxes and 80 classes


def selection(state: State) -> Findings:
    """What the selection will take, for the images of this process."""
    if state.listing is None or state.shard.count > 1 or state.output is None:
        return
    location = Location.parse(state.settings.output)
    exists = location.scheme or Path(location.path).is_dir()  # what the check itself made is deleted again
    yield from find(state.settings, state.output if exists else None, len(state.listing))


def find(settings: Settings, output: Storage | None, images: int) -> Iterator[str | JobError]:
    """Compares what the selection will take with what there is.

    Args:
        settings: The settings.
        output: Folder of the results; None if it does not exist. If it has parts, the largest one says how many boxes
            there are.
        images: Number of images.

    Yields:
        One sentence without its full stop on what it takes, or a warning or an error with all that is missing.
    """
    pool = estimate(settings, output, images)
    need, folder = forecast.forecast(pool), Path(tempfile.gettempdir())
    in_memory = limits.is_in_memory(folder)
    memory = need.memory_bytes + (need.temporary_bytes if in_memory else 0)
    limit, free = limits.memory_limit(), shutil.disk_usage(folder).free
    words = _describe(pool, need, memory, limit, folder, free)
    missing = []
    if MARGIN * memory > limit:
        advice = (
            f"raise the memory of the container to {math.ceil(MARGIN * memory / _GIB)} GiB (--memory, or "
            "resources.limits.memory)"
        )
        if in_memory:
            advice += f", or set TMPDIR to a folder on a disk, since {folder} is in memory"
        missing.append((memory > limit, advice))
    if MARGIN * need.temporary_bytes > free:
        room = format_bytes(MARGIN * need.temporary_bytes)
        missing.append((need.temporary_bytes > free, f"make room for {room} in {folder}, or set TMPDIR to another one"))
    if not missing:
        yield words
        return
    text = f"{words[0].upper()}{words[1:]}. To have enough, {'; and '.join(advice for _, advice in missing)}."
    yield ServiceUnavailable(text) if any(is_certain for is_certain, _ in missing) else Warn(text)


def _describe(pool: PoolSize, need: Need, memory: float, limit: int, folder: Path, free: int) -> str:
    hours = need.cpu_seconds / 3600
    duration = f"{hours:.1f} hours" if hours > 2 else quantify(math.ceil(need.cpu_seconds / 60), "minute")
    return (
        f"the selection among {quantify(pool.images, 'image')} needs about {format_bytes(memory)} of memory (there are "
        f"{format_bytes(limit)}), {format_bytes(need.temporary_bytes)} in {folder} ({format_bytes(free)} are free), "
        f"{format_bytes(need.result_bytes)} in the output and {duration} of one core"
    )


def estimate(settings: Settings, output: Storage | None, images: int) -> PoolSize:
    """Estimates the size of a pool, from the largest part if there is one.

    Args:
        settings: The settings.
        output: Folder of the results; None if it does not exist.
        images: Number of images.
    """
    measured = None if output is None else sizes.measure_largest(output)
    part_images = settings.part_size or choose_size(images)
    width = forecast.TYPICAL_FULL_WIDTH if settings.full_features else forecast.TYPICAL_WIDTH
    if not settings.uses_features and not settings.has_embedding_file and settings.embedding != "simclr":
        width = 0
    elif measured is not None and settings.uses_features:
        width = measured.width
    return PoolSize(
        images=images,
        boxes_per_image=forecast.TYPICAL_BOXES if measured is None else measured.boxes_per_image,
        classes=forecast.TYPICAL_CLASSES if measured is None else measured.classes,
        uses_objects=settings.strategy.uses_objects,
        width=width,
        part_images=part_images if measured is None else measured.images,
        num_ahead=count_ahead(part_images * _PART_BYTES_PER_IMAGE) if measured is None else measured.num_ahead,
        centers=settings.n_samples,
        in_memory=settings.has_embedding_file,
        trains=settings.embedding == "simclr",
    )
