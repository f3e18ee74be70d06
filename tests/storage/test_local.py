"""Local folders: links, names, vanishing files, writes."""

import errno
import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from job.errors import AccessDenied, ServiceUnavailable, SettingsError
from job.retry import Patience
from job.storage import Entry
from job.storage.local import LocalFolder


def test_listing_finds_every_file_once(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    for name in ["a.jpg", "b/c.PNG", "b/d/e.txt", ".hidden/f.jpg", "out/g.jpg"]:
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        (inside / name).write_bytes(b"123")
    (inside / "b" / "loop").symlink_to(inside)
    (inside / "link.jpg").symlink_to(inside / "a.jpg")
    listed = {each.key: each for each in LocalFolder(str(inside)).list()}
    assert sorted(listed) == [".hidden/f.jpg", "a.jpg", "b/c.PNG", "b/d/e.txt", "link.jpg", "out/g.jpg"]
    assert listed["a.jpg"].size == 3
    before = listed["a.jpg"].etag
    os.utime(inside / "a.jpg", ns=(1, 1))
    assert {each.key: each for each in LocalFolder(str(inside)).list()}["a.jpg"].etag != before


def test_a_name_that_is_not_utf8_is_listed(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb") as file:  # noqa: PTH123
        file.write(b"1")
    (entry,) = LocalFolder(str(tmp_path)).list()
    assert entry.key == "\\udcff.jpg"


def test_links_and_files_that_vanish(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1")
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    # Broken links are listed, so that they become rows with a reason; a pipe is not a file.
    folder = LocalFolder(str(tmp_path))
    assert {each.key for each in folder.list()} == {"a.jpg", "nowhere.jpg", "circle.jpg"}
    for number in range(40):
        (tmp_path / f"{number:02d}.jpg").write_bytes(b"1")
    listing = folder.list()
    seen = {next(listing).key}
    for name in ("00.jpg", "20.jpg", "39.jpg"):
        (tmp_path / name).unlink()
    seen |= {each.key for each in listing}
    assert {f"{number:02d}.jpg" for number in range(40)} - {"00.jpg", "20.jpg", "39.jpg"} <= seen


def raising(number: int, times: int = -1) -> Callable[..., Any]:
    """A system call that fails with an error number so many times (-1: always), and then does nothing."""
    left = itertools.count(times, -1)

    def fail(*arguments: Any, **options: Any) -> None:
        if times < 0 or next(left) > 0:
            raise OSError(number, os.strerror(number))

    return fail


BRISK = Patience(total=0.5, first_wait=0.01, longest_wait=0.02)


def test_writes_are_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = LocalFolder(str(tmp_path / "new"))
    output.write("sub/a.txt", b"first")
    monkeypatch.setattr(os, "fsync", raising(errno.ENOSPC))
    with pytest.raises(ServiceUnavailable, match="No space left"):
        output.write("sub/a.txt", b"second")
    assert output.read("sub/a.txt") == b"first"
    assert os.listdir(tmp_path / "new" / "sub") == ["a.txt"]  # noqa: PTH208


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_disk_is_no_missing_permission(tmp_path: Path) -> None:
    """A real one: a file system of 64 kB in memory."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("this container may not mount")
    try:
        output = LocalFolder(str(tmp_path / "out"))
        with pytest.raises(
            ServiceUnavailable, match=r"No space left on device \(0\.\d MB are free in .*Free some space"
        ):
            output.write("parts/a", bytes(100_000))
        assert list((tmp_path / "out" / "parts").iterdir()) == []
        output.write("parts/a", b"1")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize(
    ("number", "error", "says"),
    [
        (errno.EACCES, AccessDenied, "Permission denied"),
        (errno.EPERM, AccessDenied, "not permitted"),
        (errno.EROFS, AccessDenied, "Read-only"),
        (errno.EDQUOT, ServiceUnavailable, "quota exceeded .* MB are free"),
        (errno.EIO, ServiceUnavailable, "Input/output error"),
        (errno.ESTALE, ServiceUnavailable, "Stale file handle"),
        (errno.EMFILE, ServiceUnavailable, "Too many open files. Raise the limit of open files"),
        (errno.EISDIR, SettingsError, "Is a directory. Move what is in the way"),
    ],
)
def test_the_exit_code_says_what_can_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception], says: str
) -> None:
    output = LocalFolder(str(tmp_path), patience=BRISK)
    output.write("a.txt", b"1")
    monkeypatch.setattr(os, "fsync", raising(number))
    with pytest.raises(error, match=says):
        output.write("a.txt", b"2")
    monkeypatch.setattr(Path, "unlink", raising(number))
    with pytest.raises(error, match=says.partition(" .*")[0]):
        output.delete("a.txt")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
def test_a_fault_that_passes_is_not_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    folder = LocalFolder(str(tmp_path), patience=BRISK)
    (tmp_path / "deep").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", raising(number, times=2))
        folder.write("deep/a.txt", b"1")
    real_open, real_scan = Path.open, os.scandir
    fails = raising(number, times=2)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *arguments: (fails(), real_open(*arguments))[1])
        assert folder.read("deep/a.txt") == b"1"
    fails = raising(number, times=2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda *arguments: (fails(), real_scan(*arguments))[1])
        assert [entry.key for entry in folder.list()] == ["deep/a.txt"]
    real_stat, fails = Path.stat, raising(number, times=1)

    def stat(path: Path, **options: Any) -> os.stat_result:
        if path == tmp_path and not options and sys._getframe(1).f_code.co_name == "list":
            fails()
        return real_stat(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", stat)
        assert [entry.key for entry in folder.list()] == ["deep/a.txt"]


@pytest.mark.parametrize(
    ("number", "found"),
    [
        (errno.ENOTDIR, None),
        (errno.ELOOP, None),
        (errno.ENAMETOOLONG, None),
        (errno.EIO, Entry("a.txt", "", 0)),  # this file alone is damaged, and must not vanish
    ],
)
def test_a_file_that_cannot_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, found: Entry | None
) -> None:
    folder = LocalFolder(str(tmp_path), patience=BRISK)
    monkeypatch.setattr(Path, "stat", raising(number))
    assert folder.stat("a.txt") == found
    monkeypatch.setattr(Path, "stat", raising(errno.EACCES))
    with pytest.raises(AccessDenied, match="Permission denied"):
        folder.stat("a.txt")
    monkeypatch.setattr(Path, "stat", raising(errno.ESTALE))
    monkeypatch.setattr(os, "scandir", raising(errno.ESTALE))
    with pytest.raises(ServiceUnavailable, match="Stale file handle"):
        folder.stat("a.txt")


def test_a_file_system_that_is_gone_ends_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = LocalFolder(str(tmp_path), patience=BRISK)
    folder.write("a.txt", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", raising(errno.EIO))  # one bad file, in a folder that can be read
        with pytest.raises(OSError, match="Input/output error") as caught:
            folder.read("a.txt")
        assert type(caught.value) is OSError
        patch.setattr(os, "scandir", raising(errno.ESTALE))
        with pytest.raises(ServiceUnavailable, match="Stale file handle"):
            folder.read("a.txt")
        with pytest.raises(ServiceUnavailable, match="Stale file handle"):
            list(folder.list())
    assert folder.read("a.txt") == b"1"


def test_what_a_killed_write_left_is_removed(tmp_path: Path) -> None:
    """A real kill, of a process that has written half a file."""
    script = (
        "import os, signal, sys\n"
        "from job.storage.local import LocalFolder\n"
        "os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)\n"
        "LocalFolder(sys.argv[1]).write('sub/a.txt', b'half')"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "sub").iterdir()
    assert left.name.endswith(".tmp")
    mine = tmp_path / "sub" / ".mine.tmp"
    mine.write_bytes(b"of somebody else")
    writing = tmp_path / "sub" / f".b.txt.{'0' * 32}.tmp"
    with writing.open("wb") as file:  # of a process that is still at it
        fcntl.flock(file, fcntl.LOCK_EX)
        LocalFolder(str(tmp_path)).write("sub/a.txt", b"whole")
        assert {path.name for path in (tmp_path / "sub").iterdir()} == {"a.txt", mine.name, writing.name}


def test_an_output_that_is_removed_meanwhile_is_not_made_again(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path / "out"))
    output.write("parts/a", b"1")
    shutil.rmtree(tmp_path / "out")
    for operation in (lambda: output.write("parts/b", b"1"), lambda: list(output.list("parts/"))):
        with pytest.raises(ServiceUnavailable, match="was removed while the job ran"):
            operation()
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_larger_than_listed_is_not_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"12345")
    assert LocalFolder(str(tmp_path), max_bytes=5).read("a.jpg") == b"12345"
    with pytest.raises(OSError, match="above the limit of 4 bytes"):
        LocalFolder(str(tmp_path), max_bytes=4).read("a.jpg")
