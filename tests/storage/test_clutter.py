"""Clutter of operating systems, by name."""

import pytest

from job.storage.clutter import is_clutter, is_clutter_folder


@pytest.mark.parametrize(
    "key",
    [
        "._a.jpg",
        "sub/._a.jpg",
        "__MACOSX/a.jpg",
        "__MACOSX/sub/._a.jpg",
        "lost+found/#1234.jpg",
        "sub/@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg",
        "#recycle/a.jpg",
        "@Recycle/a.jpg",
        "$RECYCLE.BIN/S-1-5-21/$R1.jpg",
        "$Recycle.Bin/a.jpg",
        "System Volume Information/a.jpg",
        ".Trash-1000/files/a.jpg",
        ".Trashes/501/a.jpg",
        ".Spotlight-V100/a.jpg",
        ".snapshot/daily.0/a.jpg",
        ".zfs/snapshot/now/a.jpg",
        "#snapshot/a.jpg",
    ],
)
def test_clutter(key: str) -> None:
    assert is_clutter(key)


@pytest.mark.parametrize(
    "key",
    [
        "a.jpg",
        ".a.jpg",
        "_a.jpg",
        "a._b.jpg",
        "trash/a.jpg",
        "snapshots/a.jpg",
        ".hidden/a.jpg",
        "lost+found",
        "._x/a.jpg",
    ],
)
def test_what_a_user_may_have_named_so(key: str) -> None:
    assert not is_clutter(key)


def test_only_whole_names_of_folders_count() -> None:
    assert is_clutter_folder("LOST+FOUND") and not is_clutter_folder("lost+found2")
