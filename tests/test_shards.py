"""Shards: which one a process is, which images it owns, and when all have finished."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job import parts
from job.errors import SettingsError, TryAgain
from job.parts import listings
from job.shards import Shard, detect
from job.storage import Entry, Listing
from job.storage.local import LocalFolder
from tests.parts.test_part import MADE_WITH, row


@pytest.mark.parametrize(
    ("environment", "given_index", "given_count", "expected"),
    [
        ({}, None, None, Shard(0, 1)),
        ({}, 2, 3, Shard(2, 3)),
        ({}, None, 1, Shard(0, 1)),
        ({"JOB_COMPLETION_INDEX": "4"}, None, 7, Shard(4, 7)),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "0", "AWS_BATCH_JOB_ARRAY_SIZE": "2"}, None, None, Shard(0, 2)),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "1"}, None, 2, Shard(1, 2)),
        ({"BATCH_TASK_INDEX": "5", "BATCH_TASK_COUNT": "6"}, None, None, Shard(5, 6)),
        ({"CLOUD_RUN_TASK_INDEX": "0", "CLOUD_RUN_TASK_COUNT": "1"}, None, None, Shard(0, 1)),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, None, None, Shard(3, 4)),
        # `sbatch --array=1-4`
        (
            {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"},
            None,
            None,
            Shard(3, 4),
        ),
        # the explicit pair wins
        ({"JOB_COMPLETION_INDEX": "9", "BATCH_TASK_INDEX": "8", "BATCH_TASK_COUNT": "9"}, 1, 2, Shard(1, 2)),
    ],
)
def test_the_platform_says_which_shard(
    environment: dict[str, str], given_index: int | None, given_count: int | None, expected: Shard
) -> None:
    assert detect(environment, given_index, given_count) == expected


@pytest.mark.parametrize(
    ("environment", "given_index", "given_count", "says"),
    [
        ({}, 1, None, "CORAL_SHARD_INDEX=1 is set without CORAL_SHARD_COUNT"),
        ({}, None, 3, "CORAL_SHARD_COUNT=3 is set without CORAL_SHARD_INDEX"),
        ({}, 3, 3, "must be from 0 to 2"),
        ({"JOB_COMPLETION_INDEX": "4"}, None, None, "set CORAL_SHARD_COUNT"),
        ({"JOB_COMPLETION_INDEX": "4"}, None, 4, "must be from 0 to 3"),
        ({"JOB_COMPLETION_INDEX": "0"}, 1, None, "without CORAL_SHARD_COUNT"),
        ({"BATCH_TASK_INDEX": "6", "BATCH_TASK_COUNT": "6"}, None, None, "must be from 0 to 5"),
        ({"BATCH_TASK_INDEX": "x", "BATCH_TASK_COUNT": "6"}, None, None, "'x' is not a number"),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "1"}, None, None, "the number of shards is not"),
        (
            {"JOB_COMPLETION_INDEX": "0", "BATCH_TASK_INDEX": "0", "BATCH_TASK_COUNT": "1"},
            None,
            1,
            "Several schedulers",
        ),
        (
            {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "2"},
            None,
            None,
            "runs only a part of an array",
        ),
        # one task of seven that is run again
        (
            {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "1", "SLURM_ARRAY_TASK_MIN": "3"},
            None,
            7,
            "of an array",
        ),
        ({"BATCH_TASK_INDEX": "1", "BATCH_TASK_COUNT": "2"}, None, 3, "runs only a part of an array"),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "1", "AWS_BATCH_JOB_ARRAY_SIZE": "10001"}, None, None, "at most 10,000 shards"),
        ({"JOB_COMPLETION_INDEX": "0"}, None, 10**10, "at most 10,000 shards are supported: start fewer"),
        # `sbatch --array=0-9:3` leaves gaps, which no hash can fill
        ({"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "4"}, None, None, "must be from 0 to 3"),
    ],
)
def test_what_does_not_fit_together_is_an_error(
    environment: dict[str, str], given_index: int | None, given_count: int | None, says: str
) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        detect(environment, given_index, given_count)
    assert caught.value.exit_code == 64


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), unique=True), st.integers(1, 9))
def test_every_image_belongs_to_one_shard(keys: list[str], count: int) -> None:
    for key in keys:
        assert sum(Shard(index, count).owns(key) for index in range(count)) == 1


def test_the_hash_is_the_same_on_every_machine_and_day() -> None:
    """`printf a.jpg | b2sum -l 64` prints fe47f0026e12a789, which leaves 6 when divided by 7."""
    assert [index for index in range(7) if Shard(index, 7).owns("a.jpg")] == [6]


def test_shards_are_of_nearly_equal_size() -> None:
    rng = random.Random(0)
    sizes = [0] * 7
    for _ in range(7000):
        key = f"{rng.random()}.jpg"
        sizes[next(index for index in range(7) if Shard(index, 7).owns(key))] += 1
    assert min(sizes) > 850 and max(sizes) < 1150


def listing(*keys: str) -> Listing:
    return Listing.from_entries(Entry(key, "e", 10) for key in keys)


def keys_of(found: Listing) -> list[str]:
    return [each.key for each in found]


def test_the_reduce_step_waits_for_all_shards(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    with pytest.raises(TryAgain, match="No shard has finished yet") as caught:
        listings.read(output)
    assert caught.value.exit_code == 75
    listings.finish(output, Shard(0, 3), listing("b.jpg"))
    listings.finish(output, Shard(2, 3), listing("c.jpg", "a.jpg"))
    assert listings.find_missing(output, 3) == [1]
    with pytest.raises(TryAgain, match=r"1 of 3 shards have not finished yet \(1\)"):
        listings.read(output)
    listings.finish(output, Shard(1, 3), listing())
    assert listings.find_missing(output, 3) == []
    assert keys_of(listings.read(output)) == ["a.jpg", "b.jpg", "c.jpg"]
    assert keys_of(listings.read(output, 3)) == ["a.jpg", "b.jpg", "c.jpg"]
    with pytest.raises(TryAgain, match="2 of 2 shards have not finished yet"):
        listings.read(output, 2)


def test_a_shard_that_starts_takes_back_what_it_said(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    for index in range(3):
        listings.finish(output, Shard(index, 3), listing(f"{index}.jpg"))
    listings.begin(output, Shard(1, 3))
    assert listings.find_missing(output, 3) == [1]
    listings.begin(output, Shard(0, 1))
    assert listings.find_missing(output, 3) == [0, 1, 2]
    listings.finish(output, Shard(0, 1), listing("0.jpg"))
    listings.finish(output, Shard(0, 2), listing("0.jpg"))
    with pytest.raises(TryAgain, match="results of runs with 1, 2 shards: set CORAL_SHARD_COUNT"):
        listings.read(output)
    assert keys_of(listings.read(output, 1)) == ["0.jpg"]


def test_a_damaged_name_is_no_listing(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    output.write("parts/listing-of.parquet", b"")
    listings.finish(output, Shard(0, 1), listing("0.jpg"))
    assert listings.find_missing(output, 1) == [] and keys_of(listings.read(output)) == ["0.jpg"]


def test_with_allow_missing_what_is_done_counts(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    names = [f"{number}.jpg" for number in range(20)]
    mine = [name for name in names if Shard(0, 2).owns(name)]
    theirs = [name for name in names if Shard(1, 2).owns(name)]
    parts.write(output, [row(name) for name in mine], MADE_WITH)
    parts.write(output, [row(name) for name in theirs[:3]], MADE_WITH)
    assert keys_of(listings.read(output, allow_missing=True)) == sorted([*mine, *theirs[:3]])
    # Of a finished shard only its listing counts, not what else it has done before.
    listings.finish(output, Shard(0, 2), listing(*mine[1:]))
    assert keys_of(listings.read(output, allow_missing=True)) == sorted([*mine[1:], *theirs[:3]])
