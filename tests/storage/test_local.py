"""Local folders: links, names, vanishing files, writes."""

import os
from pathlib import Path

import pytest

from job.errors import AccessDenied
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


def test_writes_are_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = LocalFolder(str(tmp_path / "new"))
    output.write("sub/a.txt", b"first")

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AccessDenied, match="No space left"):
        output.write("sub/a.txt", b"second")
    assert output.read("sub/a.txt") == b"first"
    assert os.listdir(tmp_path / "new" / "sub") == ["a.txt"]  # noqa: PTH208
