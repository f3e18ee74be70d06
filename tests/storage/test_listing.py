"""Listings: sorted bytewise, each key once, small."""

from hypothesis import given
from hypothesis import strategies as st

from job.storage import Entry, Listing
from job.storage.rangefile import RangeFile
from job.uris import Location, relativize

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
ETAGS = st.from_regex(r"[0-9a-f]{32}(-[0-9]+)?", fullmatch=True)
ENTRIES = st.lists(st.builds(Entry, TEXT, TEXT | ETAGS, st.integers(0, 2**40)), max_size=40)


@given(ENTRIES, ENTRIES)
def test_sorted_bytewise_and_the_last_of_each_key(first: list[Entry], second: list[Entry]) -> None:
    expected = {each.key: each for each in [*first, *second]}
    in_order = [expected[key] for key in sorted(expected, key=str.encode)]
    found = Listing.from_entries([*first, *second])
    assert list(found) == in_order and len(found) == len(in_order)
    assert list(Listing.merge([Listing.from_entries(first), Listing.from_entries(second)])) == in_order
    assert list(Listing.from_entries(in_order)) == in_order
    keys = [each.key for each in in_order]
    assert found.find_missing([*keys, "never " * 9]) == ["never " * 9]
    sample = found.sample(3)
    assert len(sample) == min(3, len(keys)) and sample == sorted(set(sample), key=in_order.index)


def test_many_entries_span_chunks() -> None:
    entries = [Entry(f"{number * 7919 % 25_013:05d}", "e", number) for number in range(25_013)]
    assert [each.key for each in Listing.from_entries(entries)] == [f"{number:05d}" for number in range(25_013)]


def test_where_one_folder_lies_in_another() -> None:
    assert relativize("/a/b", "/a/b/c/d") == "c/d/"
    assert relativize("/", "/a") == "a/"
    assert relativize("s3://bucket", "s3://bucket/out/") == "out/"
    assert relativize("s3://bucket/in", "s3://bucket/input") is None
    assert relativize("s3://bucket/in", "gs://bucket/in/out") is None
    assert relativize("/a", "/a") is None


def test_locations() -> None:
    assert Location.parse("s3://bucket/a//b/") == Location("s3", "bucket", "a//b")
    assert Location.parse("s3://bucket/a?b#c").normalized == "s3://bucket/a?b#c"
    assert Location.parse("S3://bucket").normalized == "s3://bucket"
    assert Location.parse("file:///a/../b").normalized == Location.parse("/b/").normalized == "/b"
    assert Location.parse("gs://bucket/a/b.txt").split() == (Location("gs", "bucket", "a"), "b.txt")
    assert Location.parse("/b.txt").split() == (Location("", "", "/"), "b.txt")


class Bytes:
    """A store of one file."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return self.data[start : start + length]


@given(st.binary(max_size=50), st.lists(st.tuples(st.integers(0, 60), st.integers(-1, 60)), max_size=8))
def test_a_range_file_reads_as_a_file_does(data: bytes, reads: list[tuple[int, int]]) -> None:
    file = RangeFile(Bytes(data), "key", len(data))  # type: ignore[arg-type]
    for start, length in reads:
        file.seek(start)
        assert file.read(length) == (data[start:] if length < 0 else data[start : start + length])
    assert file.seek(0, 2) == file.tell() == len(data)
