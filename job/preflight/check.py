"""What a check says, and what it leaves to those after it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from job.detect.model import Detector
from job.errors import JobError
from job.settings import Settings
from job.shards import Shard
from job.stopping import Stop
from job.storage import Listing, Source, Storage


class Warn(str):
    """Something that a run goes on with, although hardly as it is meant to; whole sentences, with what to do."""

    __slots__ = ()


# A text, without the full stop, of what is well; a warning; or what failed. An error may be raised as well.
Finding = str | JobError
Findings = Iterator[Finding]


@dataclass
class Known:
    """What is given, and what checks have found.

    Attributes:
        settings: Of the run.
        stop: Whether the job is asked to stop.
        environment: The environment variables.
        device: Where the detector runs; without the one that was asked for, it is tried on the CPU.
        shard: Which share of the images this process does.
        output: Once it is sure that it can be used.
        source: Of the images.
        listing: Of the images of the shard.
        detector: Once it is built.
        done: How many images have their results from an earlier run.
    """

    settings: Settings
    stop: Stop
    environment: Mapping[str, str]
    device: torch.device = torch.device("cpu")
    shard: Shard = Shard()
    output: Storage | None = None
    source: Source | None = None
    listing: Listing | None = None
    detector: Detector | None = None
    done: int = 0


class Check(Protocol):
    """One thing to try; it says nothing where that does not concern the run, or another check has failed before."""

    __name__: str

    def __call__(self, known: Known, /) -> Findings:
        """Tries it."""
        ...


def amount(size: float) -> str:
    """A number of bytes, for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
