"""Which shards are through, and the listings that they worked through.

A shard that has given every image of its listing a row leaves that listing beside the parts. The reduce step works on
these listings and does not list the images itself: so both halves of a run agree on which images there are, whatever
happens to the bucket in between. A shard that starts takes away its own listing of an earlier run, and those of another
number of shards.
"""

import io
import re
from collections.abc import Iterator

import pyarrow.parquet as pq

from job import parts
from job.errors import TryAgain
from job.shards import Shard
from job.storage import Entry, Listing, Storage, read_required

_PREFIX = parts.FOLDER + "listing-"
_NAME = re.compile(re.escape(_PREFIX) + r"(\d+)-of-(\d+)\.parquet")


def begin(output: Storage, shard: Shard) -> None:
    """Takes away the listings that no longer hold once this shard has started."""
    for each in _present(output):
        if each == shard or each.count != shard.count:
            output.delete(_name(each))


def finish(output: Storage, shard: Shard, listing: Listing) -> None:
    """Says that a shard is through."""
    buffer = io.BytesIO()
    pq.write_table(listing.table, buffer, compression="zstd")
    output.write(_name(shard), buffer.getvalue())


def missing(output: Storage, count: int) -> list[int]:
    """Which of so many shards are not through."""
    return _lost(_present(output), count)


def listing(output: Storage, count: int | None = None, *, allow_missing: bool = False) -> Listing:
    """The listings of all shards together.

    Args:
        output: Where they are.
        count: How many shards there are; None to go by what is there.
        allow_missing: Whether shards that are not through contribute the images that they have done, rather than to be
            waited for.

    Raises:
        TryAgain: A shard is not through, or none has been.
    """
    present = _present(output)
    counts = {count} if count else {each.count for each in present}
    if len(counts) > 1:
        raise TryAgain(f"{output.uri} has results of {_words(sorted(counts))} shards: set CORAL_SHARD_COUNT.")
    if not counts and not allow_missing:
        raise TryAgain(f"No shard is through yet in {output.uri}: run `predict` to the end first.")
    total = counts.pop() if counts else 1
    lost = _lost(present, total)
    if lost and not allow_missing:
        raise TryAgain(
            f"{len(lost)} of {total} shards are not through yet ({_words(lost)}): "
            "wait for them, or select from what there is with --allow-missing."
        )
    tables = [pq.read_table(io.BytesIO(read_required(output, _name(each)))) for each in present if each.count == total]
    found = [Listing(table) for table in tables]
    if lost:
        found.append(Listing.of(_rows(output, [Shard(index, total) for index in lost])))
    return Listing.merged(found)


def _rows(output: Storage, shards: list[Shard]) -> Iterator[Entry]:
    """What shards have done so far."""
    for part in parts.read(output, ["key", "etag", "byte_size"]):
        for row in part.table.to_pylist():
            if any(each.has(row["key"]) for each in shards):
                yield Entry(row["key"], row["etag"], row["byte_size"])


def _present(output: Storage) -> list[Shard]:
    keys = {each.key for each in output.list(parts.FOLDER, lambda key: key.startswith(_PREFIX))}
    found = [_NAME.fullmatch(key) for key in sorted(keys)]
    return [Shard(int(each[1]), int(each[2])) for each in found if each]


def _lost(present: list[Shard], count: int) -> list[int]:
    return [index for index in range(count) if Shard(index, count) not in present]


def _name(shard: Shard) -> str:
    return f"{_PREFIX}{shard.index}-of-{shard.count}.parquet"


def _words(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return shown + (" ..." if len(numbers) > 10 else "")
