"""What a store does wrong, and what becomes of it: each fault at each operation, before a real S3 server."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pytest

from job import retry
from job.errors import AccessDenied, ServiceUnavailable, SettingsError, Stopped
from job.retry import Patience
from job.storage import Storage, open_folder
from job.storage.s3 import S3Folder
from tests.conftest import S3
from tests.standins.servers import BUCKET, Fault, FaultProxy, client

PATIENCE = Patience(attempt=0.6, bytes_per_second=1e7, total=10, first_wait=0.02, longest_wait=0.1, corrupt=3)
CONTENT = b"\xff\xd8 an image of some length \xff\xd9" * 20

LIST, READ, WRITE = r"GET /\w+\?", r"GET /\w+/faults/a\.jpg", r"PUT /\w+/faults/b\.jpg"


@pytest.fixture
def proxy(seaweedfs: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy before SeaweedFS, where one image is."""
    s3 = client(seaweedfs.endpoint)
    s3.put_object(Bucket=BUCKET, Key="faults/a.jpg", Body=CONTENT)
    s3.delete_object(Bucket=BUCKET, Key="faults/b.jpg")
    made = FaultProxy(seaweedfs.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
    yield made
    made.close()


def folder(patience: Patience = PATIENCE, stop: threading.Event | None = None) -> Storage:
    return open_folder(f"s3://{BUCKET}/faults", patience=patience, stop=stop)


def listed(store: Storage) -> Any:
    return [each.key for each in store.list()]


def read(store: Storage) -> Any:
    return store.read("a.jpg")


def written(store: Storage) -> Any:
    store.write("b.jpg", CONTENT)
    return store.read("b.jpg")


@dataclass(frozen=True)
class Case:
    """An operation, the requests of it that fail, and its right result."""

    operation: Callable[[Storage], Any]
    match: str
    result: Any


OPERATIONS = {
    "list": Case(listed, LIST, ["a.jpg"]),
    "read": Case(read, READ, CONTENT),
    "write": Case(written, WRITE, CONTENT),
}
PASSING = ["503", "500", "reset", "stall", "drip", "truncate"]


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("kind", [*PASSING, "corrupt"])
def test_a_fault_that_passes_is_not_noticed(proxy: FaultProxy, name: str, kind: str) -> None:
    case = OPERATIONS[name]
    # A read is tried by obstore first and then by boto3: both are to fail.
    proxy.faults = [Fault(kind, case.match, times=2)]
    assert case.operation(folder()) == case.result
    if (kind, name) != ("drip", "write"):  # the answer to a write has no body to come in drips
        assert [hit for hit, _ in proxy.hits] == [kind, kind]


BRIEF = Patience(attempt=0.3, total=1.2, first_wait=0.02, longest_wait=0.1, corrupt=3)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("kind", ["503", "500", "reset", "stall"])
def test_a_store_that_stays_away_ends_the_job(proxy: FaultProxy, name: str, kind: str) -> None:
    proxy.faults = [Fault(kind, "")]
    with pytest.raises(ServiceUnavailable, match=f"s3://{BUCKET}/faults cannot be reached"):
        OPERATIONS[name].operation(folder(BRIEF))


def test_patience_is_whole_once_the_store_has_answered(proxy: FaultProxy) -> None:
    patience = Patience(attempt=0.6, total=6, first_wait=0.02, longest_wait=0.1)
    proxy.faults = [Fault("503", "")]
    start = time.monotonic()
    with pytest.raises(ServiceUnavailable):
        folder(patience).read("a.jpg")
    assert time.monotonic() - start < 5  # a quarter, twice: for the read, and for asking whether the store lists
    proxy.faults = []
    store = folder(patience)
    assert store.read("a.jpg") == CONTENT
    proxy.faults = [Fault("503", "")]
    threading.Timer(3, proxy.faults.clear).start()
    assert store.read("a.jpg") == CONTENT


@pytest.mark.parametrize(
    ("name", "kind", "error", "says"),
    [
        ("list", "403", AccessDenied, "s3:ListBucket is missing"),
        ("list", "404", SettingsError, "no such bucket"),
        ("read", "403", PermissionError, "s3:GetObject is missing"),
        ("read", "404", FileNotFoundError, "no such object"),
        ("write", "403", AccessDenied, "s3:PutObject is missing"),
        ("write", "400", ServiceUnavailable, "the store answered 400 InvalidRequest to put_object"),
    ],
)
def test_what_is_refused_is_not_tried_again(
    proxy: FaultProxy, name: str, kind: str, error: type[Exception], says: str
) -> None:
    proxy.faults = [Fault(kind, OPERATIONS[name].match)]
    with pytest.raises(error, match=says):
        OPERATIONS[name].operation(folder())
    # Reads go to obstore first, and then to boto3, which knows the reason.
    assert len(proxy.hits) == (2 if name == "read" else 1)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("corrupt", "does not match .*, repeatedly"),
        ("truncate", "listed but cannot be read"),
        ("500", "listed but cannot be read"),
        ("drip", "listed but cannot be read .timed out"),
    ],
)
def test_one_object_that_cannot_be_had_does_not_end_the_job(proxy: FaultProxy, kind: str, says: str) -> None:
    proxy.faults = [Fault(kind, READ)]
    store = folder(BRIEF)
    with pytest.raises(OSError, match=says) as caught:
        store.read("a.jpg")
    assert type(caught.value) is OSError
    proxy.faults = []
    assert store.read("a.jpg") == CONTENT


def test_a_body_in_drips_has_a_deadline(proxy: FaultProxy) -> None:
    proxy.faults = [Fault("drip", READ, times=2)]
    start = time.monotonic()
    assert folder().read("a.jpg") == CONTENT
    # At ten bytes a second it would take a minute; that it is tried again shows that each attempt was cut.
    assert len(proxy.hits) == 2 and time.monotonic() - start < 0.1 * len(CONTENT)


def test_a_large_object_has_more_time(proxy: FaultProxy) -> None:
    proxy.faults = [Fault("drip", READ, times=2)]
    # Of the two attempts the first is obstore's, whose limit is its own.
    folder().write("a.jpg", CONTENT[:30])
    assert folder(Patience(attempt=0.6, bytes_per_second=5, total=1)).read("a.jpg") == CONTENT[:30]
    assert len(proxy.hits) == 2


@pytest.mark.parametrize("kind", ["stall", "503"])
def test_a_job_that_is_asked_to_stop_does_not_wait(proxy: FaultProxy, kind: str) -> None:
    proxy.faults = [Fault(kind, "GET")]
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    start = time.monotonic()
    with pytest.raises(Stopped):
        folder(Patience(attempt=1, total=100, longest_wait=100), stop).read("a.jpg")
    assert time.monotonic() - start < 20


def test_what_is_done_is_still_saved_when_the_job_is_asked_to_stop(proxy: FaultProxy) -> None:
    """But not for ever."""
    stop = threading.Event()
    stop.set()
    proxy.faults = [Fault("503", "PUT", times=3)]
    folder(Patience(attempt=1, total=100, first_wait=0.02, grace=5), stop).write("b.jpg", CONTENT)
    proxy.faults = [Fault("stall", "PUT")]
    start = time.monotonic()
    with pytest.raises(ServiceUnavailable, match="timed out"):
        folder(Patience(attempt=30, total=100, grace=1), stop).write("b.jpg", CONTENT)
    assert time.monotonic() - start < 10


def test_threads_left_behind_are_used_again(proxy: FaultProxy) -> None:
    proxy.faults = [Fault("drip", READ)]
    with pytest.raises(OSError, match="cannot be read"):
        folder(BRIEF).read("a.jpg")
    for _ in range(100):
        running = sum(thread.name == "request" for thread in threading.enumerate())
        if len(retry._threads._idle) == running:
            return
        time.sleep(0.1)
    raise AssertionError("a thread still waits for drips")


def test_no_thread_is_started_for_a_read(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    store = folder()
    assert isinstance(store, S3Folder)
    store._read_by_boto3("a.jpg", None)
    started: list[str] = []
    start = threading.Thread.start

    def note_start(thread: threading.Thread) -> None:
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", note_start)
    assert store._fast.read("faults/a.jpg", None) == store.read("a.jpg") == CONTENT
    for _ in range(3):  # boto3's attempts run in a thread, which ends a body in drips, but always in the same one
        assert store._read_by_boto3("a.jpg", None) == CONTENT
    assert "request" not in started
    assert len(proxy.headers) == 6


def test_a_result_in_the_last_moment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(Future[int]):
        """Done just after the waiting for it has timed out."""

        def result(self, timeout: float | None = None) -> int:
            if timeout is not None:
                super().exception()  # waits
                raise TimeoutError
            return super().result(timeout)

    monkeypatch.setattr(retry, "Future", Late)
    assert retry.run_with_retries(lambda attempt: 7, patience=PATIENCE, stop=threading.Event(), total=1) == 7


def test_objects_that_obstore_cannot_check_are_read_by_boto3(proxy: FaultProxy) -> None:
    """After some failures in a row the attempts of obstore pause, since each costs a request."""
    store = folder()
    assert isinstance(store, S3Folder)
    proxy.faults = [Fault("500", READ, times=1), Fault("pass", READ)]
    for _ in range(3):
        store._fast._count_failure("a test")
    proxy.faults = [Fault("pass", READ)]
    assert store.read("a.jpg") == CONTENT
    assert [hit for hit, _ in proxy.hits] == ["pass"]  # one request, by boto3
