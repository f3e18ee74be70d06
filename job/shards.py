"""Shards: which images this process works on.

Schedulers give the index of a process in variables of their own: Kubernetes, AWS Batch, Google Cloud Batch, Cloud Run
and Slurm are supported. CORAL_SHARD_INDEX together with CORAL_SHARD_COUNT overrides them. Without any of these
variables there is one shard.

A hash of its name decides which shard an image belongs to. So all processes agree, even if their listings differ, and
an image that is added or deleted moves no other image.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from job.errors import SettingsError
from job.names import shorten
from job.video.names import parse_frame

_FRAMES_PER_STRETCH = 256
MAX_SHARDS = 10_000  # of an array of AWS Batch; each shard lists the whole input


@dataclass(frozen=True)
class Shard:
    """One of `count` shards.

    Attributes:
        index: Index of the shard, from 0 to count - 1.
        count: Number of shards.
    """

    index: int = 0
    count: int = 1

    def owns(self, key: str) -> bool:
        """Returns whether an image belongs to this shard. Neighbouring frames of a video stay together."""
        if frame := parse_frame(key):
            key = f"{frame.video}#{frame.number // _FRAMES_PER_STRETCH}"
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index


@dataclass(frozen=True)
class Scheduler:
    """The variables in which a scheduler numbers its processes.

    Attributes:
        name: Name of the scheduler.
        index: Variable with the index of the process.
        count: Variable with the number of processes; None if the scheduler does not set one.
        first: Variable with the lowest index; None if the lowest index is 0.
    """

    name: str
    index: str
    count: str | None
    first: str | None = None


SCHEDULERS = (
    Scheduler("Kubernetes", "JOB_COMPLETION_INDEX", None),
    Scheduler("AWS Batch", "AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    Scheduler("Google Cloud Batch", "BATCH_TASK_INDEX", "BATCH_TASK_COUNT"),
    Scheduler("Cloud Run", "CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_COUNT"),
    Scheduler("Slurm", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
)


def detect(environment: Mapping[str, str], index: int | None = None, count: int | None = None) -> Shard:
    """Determines which shard this process is.

    Args:
        environment: The environment variables.
        index: CORAL_SHARD_INDEX.
        count: CORAL_SHARD_COUNT; alone, it completes a scheduler that gives only an index.

    Raises:
        SettingsError: If the variables are incomplete, contradictory or not numbers.
    """
    if index is not None:
        if count is None:
            raise SettingsError(f"CORAL_SHARD_INDEX={index} is set without CORAL_SHARD_COUNT: set both.")
        return _check(index, count, "CORAL_SHARD_INDEX", "CORAL_SHARD_COUNT")
    present = [scheduler for scheduler in SCHEDULERS if environment.get(scheduler.index)]
    if len(present) > 1:
        names = " and ".join(f"{scheduler.name} ({scheduler.index})" for scheduler in present)
        raise SettingsError(
            f"Several schedulers number this process, {names}: set CORAL_SHARD_INDEX and CORAL_SHARD_COUNT."
        )
    if not present:
        if count not in (None, 1):
            raise SettingsError(f"CORAL_SHARD_COUNT={count} is set without CORAL_SHARD_INDEX: set both.")
        return Shard()
    scheduler = present[0]
    first = _parse_number(environment, scheduler.first) if scheduler.first and environment.get(scheduler.first) else 0
    number = _parse_number(environment, scheduler.index) - first
    size = environment.get(scheduler.count) if scheduler.count else None
    if count is not None and size in (None, "", str(count)):
        return _check(number, count, scheduler.index, "CORAL_SHARD_COUNT")
    # If one task of an array is run again, alone, its variables no longer give the first index of the array.
    if count is not None or first > 1:
        raise SettingsError(
            f"{scheduler.name} runs only a part of an array: set CORAL_SHARD_INDEX and CORAL_SHARD_COUNT to the values "
            "in the whole array."
        )
    if scheduler.count is None or not size:
        raise SettingsError(
            f"{scheduler.index}={environment[scheduler.index]} ({scheduler.name}) is set, but the number of shards is "
            "not: set CORAL_SHARD_COUNT."
        )
    return _check(number, _parse_number(environment, scheduler.count), scheduler.index, scheduler.count)


def _parse_number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise SettingsError(f"{name}={shorten(text)} is not a number: set CORAL_SHARD_INDEX and CORAL_SHARD_COUNT.")
    return int(text)


def _check(index: int, count: int, index_name: str, count_name: str) -> Shard:
    if count > MAX_SHARDS:
        raise SettingsError(f"{count_name} is {count}, but at most {MAX_SHARDS:,} shards are supported: start fewer.")
    if not 0 <= index < count:
        raise SettingsError(
            f"{index_name} gives index {index}, but {count_name} is {count}: the index must be from 0 to {count - 1}."
        )
    return Shard(index, count)
