"""One run at a time writes results: two with other settings never meet, and a killed one does not block for long."""

import errno
import json
import threading
import time
from pathlib import Path

import pytest

from job.errors import AccessDenied, JobError, ServiceUnavailable, Stopped, TryAgain
from job.parts.claim import KEY, Claim, Pace
from job.storage.local import LocalFolder

FAST = Pace(beat=0.1, watch=0.6, settle=0.05)


def make_claim(folder: Path, settings: str, stop: threading.Event | None = None) -> Claim:
    return Claim(LocalFolder(str(folder)), settings, stop or threading.Event(), FAST)


def test_a_run_with_other_settings_is_refused_while_the_owner_is_at_work(tmp_path: Path) -> None:
    with make_claim(tmp_path, "a") as claim:
        with pytest.raises(TryAgain, match="Another run with other settings") as error, make_claim(tmp_path, "b"):
            pytest.fail("it must not begin")
        assert error.value.exit_code == 75
        claim.verify()
    with make_claim(tmp_path, "b") as claim:
        claim.verify()
    assert not (tmp_path / KEY).exists()


def test_runs_with_the_same_settings_share_the_output(tmp_path: Path) -> None:
    with make_claim(tmp_path, "a") as first, make_claim(tmp_path, "a") as second:
        first.verify()
        second.verify()
        assert json.loads((tmp_path / KEY).read_text())["settings"] == "a"
    assert not (tmp_path / KEY).exists()


def test_the_second_of_two_equal_runs_keeps_the_claim_of_the_first(tmp_path: Path) -> None:
    with make_claim(tmp_path, "a") as second:
        (tmp_path / KEY).unlink()  # as the first does when it has finished
        time.sleep(3 * FAST.beat)
        with pytest.raises(TryAgain), make_claim(tmp_path, "b"):
            pytest.fail("it must not begin")
        second.verify()


@pytest.mark.parametrize("same", [True, False])
def test_the_claim_of_a_killed_run_does_not_block(tmp_path: Path, same: bool) -> None:
    (tmp_path / KEY).parent.mkdir()
    (tmp_path / KEY).write_text(json.dumps({"name": "x", "settings": "a", "started": "then", "beats": 7}))
    start = time.monotonic()
    with make_claim(tmp_path, "a" if same else "b") as claim:
        assert (time.monotonic() - start < FAST.watch) == same
        claim.verify()


def test_of_two_that_claim_at_the_same_time_one_goes(tmp_path: Path) -> None:
    with make_claim(tmp_path, "a") as first:
        content = json.loads((tmp_path / KEY).read_text())
        (tmp_path / KEY).write_text(json.dumps(content | {"name": "other", "settings": "b"}))
        with pytest.raises(TryAgain):
            first.verify()
    assert json.loads((tmp_path / KEY).read_text())["name"] == "other"


def test_a_stop_ends_the_wait(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    (tmp_path / KEY).parent.mkdir()
    (tmp_path / KEY).write_text('{"settings": "a"}')
    with pytest.raises(Stopped), make_claim(tmp_path, "b", stop):
        pytest.fail("it must not begin")


@pytest.mark.parametrize("content", ["", "[]", "junk", "{}", "[" * 100_000], ids=lambda content: content[:4])
def test_a_damaged_claim_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / KEY).parent.mkdir()
    (tmp_path / KEY).write_text(content)
    start = time.monotonic()
    with make_claim(tmp_path, "a") as claim:
        claim.verify()
        assert json.loads((tmp_path / KEY).read_text())["settings"] == "a"
    assert time.monotonic() - start < FAST.watch and not (tmp_path / KEY).exists()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EIO, "Input/output error"), ServiceUnavailable),
        (PermissionError(errno.EACCES, "Permission denied"), AccessDenied),
        (ServiceUnavailable("no answer"), ServiceUnavailable),
        (AccessDenied("no permission"), AccessDenied),
        (Stopped("as asked"), Stopped),
    ],
)
def test_a_claim_that_cannot_be_read_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, kind: type[JobError | Stopped]
) -> None:
    def fail(*_: object) -> bytes:
        raise error

    (tmp_path / KEY).parent.mkdir()
    (tmp_path / KEY).write_text('{"settings": "a"}')
    monkeypatch.setattr(LocalFolder, "read", fail)
    with pytest.raises(kind), make_claim(tmp_path, "b"):
        pytest.fail("it must not begin")
    assert (tmp_path / KEY).read_text() == '{"settings": "a"}'


def test_a_claim_that_is_deleted_since_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def delete_first(folder: LocalFolder, key: str) -> bytes:
        monkeypatch.undo()
        (tmp_path / key).unlink()
        return folder.read(key)

    (tmp_path / KEY).parent.mkdir()
    (tmp_path / KEY).write_text('{"settings": "a"}')
    monkeypatch.setattr(LocalFolder, "read", delete_first)
    with make_claim(tmp_path, "b") as claim:
        claim.verify()
