"""Which shards have finished, and the listings of their images.

A shard that has written a row for every image of its listing leaves that listing with the parts. The reduce step works
on these listings and does not list the images again: both steps then agree on which images exist, even if the bucket
changes in between. A shard that starts deletes its own listing of an earlier run, and those of other numbers of shards.
"""

import io
import re
from collections.abc import Iterator

from job import parts
from job.errors import DamagedFileError, TryAgain
from job.parts import checked
from job.parts.checked import DamagedTableError
from job.shards import Shard
from job.storage import Entry, Listing, Storage, read_required

_PREFIX = parts.FOLDER + "listing-"
_NAME = re.compile(re.escape(_PREFIX) + r"(\d+)-of-(\d+)\.parquet")
_MAX_INDICES_SHOWN = 10


def begin(output: Storage, shard: Shard) -> set[int]:
    """Deletes the listings that are no longer valid once this shard has started.

    Returns:
        The other numbers of shards that earlier runs had, if a shard of them had finished.
    """
    stale = [other for other in _finished_shards(output) if other == shard or other.count != shard.count]
    for other in stale:
        output.delete(_file_name(other))
    return {other.count for other in stale} - {shard.count}


def finish(output: Storage, shard: Shard, listing: Listing) -> None:
    """Marks a shard as finished."""
    output.write(_file_name(shard), checked.dump(listing.table, {}))


def find_missing(output: Storage, count: int) -> list[int]:
    """Finds the indices of the shards that have not finished, of so many."""
    return _missing(_finished_shards(output), count)


def read(output: Storage, count: int | None = None, *, allow_missing: bool = False) -> Listing:
    """Reads the listings of all shards as one.

    Args:
        output: Folder with the listings.
        count: Number of shards; None to use the number that the listings state.
        allow_missing: Whether shards that have not finished contribute the images that they have finished. Otherwise
            all shards must have finished.

    Raises:
        TryAgain: If a shard has not finished, or no shard has.
        DamagedFileError: If a listing is damaged.
    """
    finished = _finished_shards(output)
    counts = {count} if count else {shard.count for shard in finished}
    if len(counts) > 1:
        raise TryAgain(f"{output.uri} has results of runs with {_join(sorted(counts))} shards: set CORAL_SHARD_COUNT.")
    if not counts and not allow_missing:
        raise TryAgain(f"No shard has finished yet in {output.uri}: run `predict` until it has finished.")
    total = counts.pop() if counts else 1
    missing = _missing(finished, total)
    if missing and not allow_missing:
        raise TryAgain(
            f"{len(missing)} of {total} shards have not finished yet ({_join(missing)}): wait for them, or select from "
            "the finished images with --allow-missing."
        )
    names = [_file_name(shard) for shard in finished if shard.count == total]
    listings = [_read_listing(output, name) for name in names]
    if missing:
        listings.append(Listing.from_entries(_finished_images(output, [Shard(index, total) for index in missing])))
    return Listing.merge(listings)


def _read_listing(output: Storage, name: str) -> Listing:
    try:
        return Listing(checked.load(io.BytesIO(read_required(output, name))))
    except DamagedTableError as error:
        raise DamagedFileError.of(output.uri, name, error, "run `predict` again, which writes it again") from error


def _finished_images(output: Storage, shards: list[Shard]) -> Iterator[Entry]:
    for part in parts.read(output, ["key", "etag", "byte_size"]):
        for row in part.table.to_pylist():
            if any(shard.owns(row["key"]) for shard in shards):
                yield Entry(row["key"], row["etag"], row["byte_size"])


def list_files(output: Storage) -> list[Entry]:
    """Lists the files of the shards that have finished."""
    files = {entry.key: entry for entry in output.list(parts.FOLDER, lambda key: _NAME.fullmatch(key) is not None)}
    return [files[key] for key in sorted(files)]


def _finished_shards(output: Storage) -> list[Shard]:
    matches = [_NAME.fullmatch(entry.key) for entry in list_files(output)]
    return [Shard(int(match[1]), int(match[2])) for match in matches if match]


def _missing(finished: list[Shard], count: int) -> list[int]:
    return [index for index in range(count) if Shard(index, count) not in finished]


def _file_name(shard: Shard) -> str:
    return f"{_PREFIX}{shard.index}-of-{shard.count}.parquet"


def _join(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:_MAX_INDICES_SHOWN]))
    return shown + (" ..." if len(numbers) > _MAX_INDICES_SHOWN else "")
