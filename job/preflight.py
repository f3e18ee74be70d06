"""Everything that a run needs, tried one by one before any time on a GPU is spent: `check`."""

import dataclasses
import logging
from collections.abc import Callable

import torch

from job import inputs, pipeline
from job.detect import gpu, model
from job.errors import JobError, Stopped
from job.settings import Settings
from job.shards import Shard
from job.stopping import Stop
from job.storage import open_source

logger = logging.getLogger(__name__)


def check(settings: Settings, stop: Stop, shard: Shard) -> None:
    """Tries all of it, and logs a line for each.

    Raises:
        JobError: The first that failed, after the others have been tried, too.
    """
    usable = torch.device("cpu")  # without the device that was asked for, the detector is tried here

    def device() -> str:
        nonlocal usable
        usable, without_gpu = gpu.choose(settings)
        if without_gpu:
            logger.warning("check device: %s The job would go on on the CPU.", without_gpu)
        return torch.cuda.get_device_name(usable) if usable.type == "cuda" else "CPU"

    def output() -> str:
        return f"{pipeline.open_output(settings, stop).uri} can be written, listed and read"

    def images() -> str:
        source = open_source(settings.input, stop.requested)
        listing = inputs.list_images(settings, source, shard)
        inputs.probe(source, listing)
        if settings.labelled:
            inputs.read_labelled(settings.labelled, listing, shard)
        return f"{len(listing)} images"

    def detector() -> str:
        built = model.build(dataclasses.replace(settings, device=str(usable), require_gpu=False))
        return f"{len(built.class_names)} classes, class probabilities: {built.probabilities}"

    def lightly() -> str:
        return "the token is accepted" if pipeline.connect(settings, stop) else "no token, nothing will be uploaded"

    checks: tuple[Callable[[], str], ...] = (device, output, images, detector, lightly)
    failures: list[JobError] = []
    for each in checks:
        try:
            logger.info("check %s: ok, %s.", each.__name__, each())
        except Stopped:
            raise
        except JobError as error:
            logger.error("check %s: failed. %s", each.__name__, error)
            failures.append(error)
    if failures:
        raise type(failures[0])(f"{len(failures)} of {len(checks)} checks failed.")
