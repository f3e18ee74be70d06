"""Parts of several shards: each reads only what can hold its images, whatever number of shards wrote it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from job import parts
from job.errors import SettingsError
from job.parts.part import may_hold
from job.shards import Shard
from job.storage import Storage
from job.storage.local import LocalFolder
from tests.parts.test_part import MADE_WITH, row

KEYS = [f"{number}.jpg" for number in range(60)]


class Counted(LocalFolder):
    """A folder that notes what is read from it."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.reads: list[str] = []

    def read(self, key: str, etag: str | None = None) -> bytes:
        self.reads.append(key)
        return super().read(key, etag)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        self.reads.append(key)
        return super().read_range(key, start, length)


def detect(output: Storage, count: int) -> None:
    for index in range(count):
        shard = Shard(index, count)
        if rows := [row(key, seed=number) for number, key in enumerate(KEYS) if shard.owns(key)]:
            parts.write(output, rows, MADE_WITH, shard)


@pytest.mark.parametrize("written", [1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7])
def test_a_shard_finds_all_that_is_finished_of_it(tmp_path: Path, written: int, count: int) -> None:
    output = Counted(tmp_path)
    detect(output, written)
    for index in range(count):
        shard = Shard(index, count)
        done = {key for key, _ in parts.find_done(output, MADE_WITH, shard)}
        assert {key for key in KEYS if shard.owns(key)} <= done
    assert {key for key, _ in parts.find_done(output, MADE_WITH)} == set(KEYS)


def test_a_shard_that_starts_again_reads_its_own_parts_and_one_of_the_others(tmp_path: Path) -> None:
    output = Counted(tmp_path)
    detect(output, 6)
    for shard, own in (
        (Shard(4, 6), {4}),
        (Shard(1, 3), {1, 4}),
        (Shard(0, 4), {0, 2, 4}),
        (Shard(0, 1), set(range(6))),
    ):
        output.reads.clear()
        parts.find_done(output, MADE_WITH, shard)
        folders = {int(key.removeprefix("parts/").partition("-of-6/")[0]) for key in output.reads}
        assert folders == own | set(sorted(set(range(6)) - own)[:1])
        assert len(output.reads) <= len(own) + 1


def test_the_parts_of_other_shards_still_tell_other_settings(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    detect(output, 1)
    (one,) = parts.list_files(output)
    assert one.key.startswith("parts/part-") and may_hold(one.key, Shard(3, 7))
    other = LocalFolder(str(tmp_path / "other"))
    parts.write(other, [row(KEYS[0])], parts.Provenance("x", "w", "fp32", "softmax", ("a", "b", "c")), Shard(0, 2))
    with pytest.raises(SettingsError, match="holds results of other settings"):
        parts.find_done(other, MADE_WITH, Shard(1, 2))


def test_one_of_100_shards_of_ten_million_images_starts_again_with_few_requests(tmp_path: Path) -> None:
    """A part is measured; the number of parts and of pages of 1,000 files follows from the size of parts."""
    size = parts.choose_size(100_000)
    output = Counted(tmp_path)
    rng = np.random.default_rng(0)
    rows = [
        replace(row(f"{number}.jpg", seed=number % 50), thumbnail=b"\xff\xd8" + rng.bytes(3000))
        for number in range(size)
    ]
    parts.write(output, rows, MADE_WITH, Shard(3, 100))
    assert len(parts.find_done(output, MADE_WITH, Shard(3, 100))) == size
    per_shard = -(-100_000 // size)
    assert per_shard * len(output.reads) + -(-100 * per_shard // 1000) <= 100


@pytest.mark.parametrize(
    ("images", "size"),
    [(0, 512), (512, 512), (16_384, 512), (16_416, 1024), (100_000, 4096), (524_288, 16_384), (10_000_000, 16_384)],
)
def test_large_listings_have_large_parts(images: int, size: int) -> None:
    assert parts.choose_size(images) == size
