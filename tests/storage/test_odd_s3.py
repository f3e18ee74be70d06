"""Servers with odd answers, by a stand-in: no real server can be made to give them."""

import threading
from collections.abc import Iterator

import pytest

from job.errors import ServiceUnavailable
from job.retry import Patience
from job.storage import Entry, Storage, open_folder
from job.storage.s3 import S3Folder
from tests.standins.odd_s3_server import DATA, ETAG, PAGES, OddS3, run_odd_s3
from tests.standins.servers import ADMIN

BRISK = Patience(attempt=2, total=2, first_wait=0.02, longest_wait=0.1)


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Iterator[OddS3]:
    for name, value in ADMIN.items():
        monkeypatch.setenv(name, value)
    with run_odd_s3() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        yield server


@pytest.fixture
def folder(odd: OddS3) -> Storage:
    return open_folder("s3://b/x", patience=BRISK)


@pytest.mark.parametrize("mode", ["", "no length", "no etag"])
def test_objects_without_length_or_etag_are_read(odd: OddS3, folder: Storage, mode: str) -> None:
    odd.mode = mode
    assert folder.read("a.jpg") == folder.read("a.jpg", ETAG) == DATA
    assert folder.stat("a.jpg") == Entry("a.jpg", "" if mode == "no etag" else ETAG, len(DATA))
    with pytest.raises(OSError):
        folder.read("a.jpg", "0" * 32)


def test_an_object_without_length_is_limited_and_complete(odd: OddS3) -> None:
    odd.mode = "no length"
    limited = S3Folder("b", "x", stop=threading.Event(), patience=BRISK, max_bytes=len(DATA) - 1)
    with pytest.raises(OSError, match="its size is above the limit of 1,199 bytes"):
        limited.read("a.jpg", ETAG)
    odd.mode = "cut"
    with pytest.raises(OSError, match="it is listed but cannot be read"):
        open_folder("s3://b/x", patience=BRISK).read("a.jpg", ETAG)


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("repeated token", "the listing of the store has no end, since it repeats a continuation token"),
        ("no token", "the store says that its listing goes on, but gives no continuation token"),
        # What is no XML is an error of the server for boto3.
        *(
            (mode + name, r"s3://b/x cannot be reached \((its answer is not a listing|500 500)\)")
            for mode in ("", "late ")
            for name in PAGES
        ),
    ],
)
def test_a_listing_that_is_none_ends_the_job(odd: OddS3, folder: Storage, mode: str, says: str) -> None:
    assert [entry.key for entry in folder.list()] == ["a.jpg"]
    odd.requests.clear()
    odd.mode = mode
    with pytest.raises(ServiceUnavailable, match=says):
        list(folder.list())
    assert len(odd.requests) < 5000


@pytest.mark.parametrize("page", PAGES)
def test_a_page_that_is_no_listing_once_costs_nothing(odd: OddS3, folder: Storage, page: str) -> None:
    odd.mode = f"once late {page}"
    assert {entry.key for entry in folder.list()} == {"a.jpg", "b.jpg"}


def test_a_store_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ADMIN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:s3cret@127.0.0.1:9")
    with pytest.raises(ServiceUnavailable) as caught:
        list(open_folder("s3://b/x", patience=BRISK).list())
    assert str(caught.value) == "s3://b/x cannot be reached (EndpointConnectionError at http://127.0.0.1:9)."
