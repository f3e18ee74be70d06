"""Which share of the images this process does.

The platform says so in variables of its own: Kubernetes, AWS Batch, Google Cloud Batch, Cloud Run and Slurm are known.
The explicit pair CORAL_SHARD_INDEX and CORAL_SHARD_COUNT wins over them. Without any of them there is one shard.

An image belongs to the shard that a hash of its name gives. So all processes agree, whatever they see in their
listings, and an image that comes or goes moves no other.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from job.errors import SettingsError


@dataclass(frozen=True)
class Shard:
    """One of `count` shards.

    Attributes:
        index: From 0 to count - 1.
        count: How many there are.
    """

    index: int = 0
    count: int = 1

    def owns(self, key: str) -> bool:
        """Whether an image belongs to this shard."""
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index


@dataclass(frozen=True)
class Scheduler:
    """The variables in which a platform numbers its processes.

    Attributes:
        name: Of the platform.
        index: Variable of the process's number.
        count: Variable of how many there are; None where the platform does not say.
        first: Variable of the lowest number; None where it is 0.
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
    """Finds out which shard this process is.

    Args:
        environment: The environment variables.
        index: CORAL_SHARD_INDEX.
        count: CORAL_SHARD_COUNT; alone it completes a platform that gives only an index.

    Raises:
        SettingsError: The variables are incomplete, contradictory or no numbers.
    """
    if index is not None:
        if count is None:
            raise SettingsError(f"CORAL_SHARD_INDEX={index} is set without CORAL_SHARD_COUNT: set both.")
        return _checked(index, count, "CORAL_SHARD_INDEX", "CORAL_SHARD_COUNT")
    present = [each for each in SCHEDULERS if environment.get(each.index)]
    if len(present) > 1:
        names = " and ".join(f"{each.name} ({each.index})" for each in present)
        raise SettingsError(f"Two platforms number this process, {names}: set CORAL_SHARD_INDEX and CORAL_SHARD_COUNT.")
    if not present:
        if count not in (None, 1):
            raise SettingsError(f"CORAL_SHARD_COUNT={count} is set without CORAL_SHARD_INDEX: set both.")
        return Shard()
    platform = present[0]
    first = _number(environment, platform.first) if platform.first and environment.get(platform.first) else 0
    number = _number(environment, platform.index) - first
    theirs = environment.get(platform.count) if platform.count else None
    if count is not None and theirs in (None, "", str(count)):
        return _checked(number, count, platform.index, "CORAL_SHARD_COUNT")
    # One task of an array that is run again, alone, no longer knows where its array began.
    if count is not None or first > 1:
        raise SettingsError(
            f"{platform.name} runs a part of an array: set CORAL_SHARD_INDEX and CORAL_SHARD_COUNT as in the whole one."
        )
    if platform.count is None or not theirs:
        raise SettingsError(
            f"{platform.index}={environment[platform.index]} ({platform.name}) is set, but not how many shards there "
            "are: set CORAL_SHARD_COUNT."
        )
    return _checked(number, _number(environment, platform.count), platform.index, platform.count)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise SettingsError(f"{name}={text!r} is not a number: set CORAL_SHARD_INDEX and CORAL_SHARD_COUNT.")
    return int(text)


def _checked(index: int, count: int, index_name: str, count_name: str) -> Shard:
    if not 0 <= index < count:
        raise SettingsError(
            f"{index_name} says shard {index} where {count_name} says {count}: it must be from 0 to {count - 1}."
        )
    return Shard(index, count)
