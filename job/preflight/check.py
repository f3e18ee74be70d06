"""What one check is, what it finds, and what checks leave to those after them."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from job.errors import JobError
from job.parts import Provenance
from job.settings import Settings
from job.shards import Shard
from job.stopping import Stop
from job.storage import Listing, Source, Storage

if TYPE_CHECKING:
    import torch

    from job.detect.imported import Imported
    from job.detect.model import Detector
    from job.lightly.api import Platform

T = TypeVar("T")


class Warn(str):
    """A problem that does not prevent the run: whole sentences that say what to do."""

    __slots__ = ()


# A text without a full stop if all is well, a warning, or an error. A check may also raise the error.
Finding = str | JobError
Findings = Iterator[Finding]


@dataclass
class State:
    """What is given, and what checks have found so far.

    Attributes:
        settings: The settings of the run.
        stop: Whether the job was asked to stop.
        environment: The environment variables.
        is_run: Whether a run makes the checks; it keeps the folders that they create.
        uses_device: Whether the run needs the device that the settings name.
        device: Device for the detector; None for the CPU, also if the device that was asked for is missing.
        shard: Shard that this process runs.
        output: Folder of the results, once all permissions on it are verified.
        platform: The Lightly platform, if a token is set.
        source: Folder of the images.
        listing: Images of the shard.
        files: Images of all shards, if predictions come from elsewhere.
        to_embed: Predictions from another detector, if their images are read to embed them.
        previous: Outputs of earlier runs.
        detector: The detector, once it is built.
        class_names: Class names of predictions from another detector.
        imported: What the parts of imported predictions, or of embeddings alone, are made with.
        absent: Images that have no predictions, or no embeddings, where these are imported.
        num_done: Number of images that have results from an earlier run.
    """

    settings: Settings
    stop: Stop
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    is_run: bool = False
    uses_device: bool = True
    device: "torch.device | None" = None
    shard: Shard = Shard()
    output: Storage | None = None
    platform: "Platform | None" = None
    source: Source | None = None
    listing: Listing | None = None
    files: Listing | None = None
    to_embed: "Imported | None" = None
    previous: list[Storage] = field(default_factory=list)
    detector: "Detector | None" = None
    class_names: Sequence[str] | None = None
    imported: Provenance | None = None
    absent: frozenset[str] = frozenset()
    num_done: int = 0


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: Name in log lines.
        make: Makes the check. It yields nothing if it does not apply to the run, or if an earlier check has failed.
        in_run: Whether every run makes it before its work; `check` makes all.
    """

    name: str
    make: Callable[[State], Findings]
    in_run: bool


def require(value: T | None) -> T:
    """A value that an earlier check has set.

    Raises:
        RuntimeError: If it has not.
    """
    if value is None:
        raise RuntimeError("a check was made before the one that it needs")
    return value


def format_bytes(size: float) -> str:
    """A number of bytes for people, such as "1.5 GB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
