"""Which files of the input are images, and what is said of the others."""

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from job import images, inputs
from job.errors import AccessDenied, SettingsError
from job.shards import Shard
from job.stopping import Stop
from job.storage import Entry, Listing, open_folder, open_source
from job.video import Sampling
from tests.conftest import S3, Job, demo_variables, settings

CLUTTER = ("._a.jpg", "sub/._b.jpg", "__MACOSX/a.jpg", "lost+found/x.jpg", "@eaDir/a.jpg/thumb.jpg", ".Trash-0/a.jpg")
IMAGES = ("a.jpg", "sub/b.JPG", "c.jfif", "d.jpe", "e.avif", "f.jp2", "g.j2k", "h.mpo", ".hidden/i.png")
OTHERS = ("a.txt", "b.heic", "c.HEIC", "sub/d.arw", "noextension", ".jpg", "z.jpg ", "e.2024-05-17T12:00")


def listed(uri: Path | str, shard: Shard = Shard(), **values: Any) -> Listing:  # noqa: B008
    source = open_source(str(uri), Stop().requested, Sampling("all"))
    return inputs.list_images(settings(input=str(uri), **values), source, shard)


def fill(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"1")


def test_clutter_is_left_out_and_others_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, (*CLUTTER, *IMAGES, *OTHERS))
    with caplog.at_level(logging.INFO):
        assert {entry.key for entry in listed(tmp_path)} == set(IMAGES)
    said = "8 files are skipped: others 4, .heic 2, .txt 1, .arw 1. Convert .arw, .heic to JPEG to use them."
    assert said in caplog.messages
    assert "2 system files are skipped" in caplog.text  # the folders of clutter are not even opened


def test_a_bucket_is_listed_by_the_same_rules(moto: S3, caplog: pytest.LogCaptureFixture) -> None:
    bucket = open_folder(moto.uri("clutter"))
    # At the marker obstore gives up, and the listing begins again.
    names = ("__MACOSX/._a.jpg", "a.jfif", "b.heic", "empty/", "full/", "full/d.txt", "lost+found/c.jpg", "marker.jpg/")
    try:
        for name in names:
            bucket.write(name, b"" if name.endswith("/") else b"1")
        with caplog.at_level(logging.INFO, logger="job"):
            assert [entry.key for entry in listed(bucket.uri)] == ["a.jfif"]
    finally:
        for name in names:
            bucket.delete(name)
    assert "2 files are skipped: .heic 1, .txt 1. Convert .heic to JPEG to use them." in caplog.messages
    assert "2 system files are skipped, such as '__MACOSX/._a.jpg'." in caplog.messages


def test_few_kinds_are_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, ("a.jpg", *(f"{number}.x{kind:02d}" for kind in range(12) for number in range(12 - kind))))
    with caplog.at_level(logging.INFO):
        listed(tmp_path)
    assert "78 files are skipped: .x00 12, .x01 11," in caplog.text and ".x07 5, more kinds 10." in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_no_images_are_a_sentence_with_what_is_there(tmp_path: Path) -> None:
    fill(tmp_path, ("a.heic", "b.heic", "c.txt"))
    with pytest.raises(SettingsError, match=r"holds no images or videos \(.*\). 3 files are skipped: .heic 2, .txt 1."):
        listed(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="It holds no other files either"):
        listed(tmp_path / "empty")
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(SettingsError, match="names no files"):
        listed(tmp_path / "list.txt")


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_all_names_of_a_list_count(suffix: str, tmp_path: Path) -> None:
    names = (*IMAGES, *OTHERS, "._a.jpg", "lost+found/b.jpg", "gone.jpg")
    fill(tmp_path, names[:-1])
    lines = names if suffix == ".txt" else tuple(json.dumps({"uri": name}) for name in names)
    (tmp_path / f"list{suffix}").write_text("\n".join(lines))
    assert {entry.key for entry in listed(tmp_path / f"list{suffix}")} == set(names)


Refuse = Callable[..., None]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Makes some folders unreadable, also for root, who runs these tests in CI."""
    scan = os.scandir

    def refuse(*folders: Path) -> None:
        def refusing(path: Any) -> Any:
            if Path(path) in folders:
                raise PermissionError(errno.EACCES, "Permission denied")
            return scan(path)

        monkeypatch.setattr(os, "scandir", refusing)

    return refuse


def test_an_unreadable_folder_is_a_warning(tmp_path: Path, refuse: Refuse, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, ("a.jpg", "no/b.jpg", "no2/c.jpg", "yes/d.jpg", "lost+found/e.jpg"))
    refuse(tmp_path / "lost+found")
    assert len(listed(tmp_path)) == 4 and not caplog.records
    refuse(*(tmp_path / name for name in ("no", "no2", "lost+found")))
    assert [entry.key for entry in listed(tmp_path)] == ["a.jpg", "yes/d.jpg"]
    (warning,) = caplog.messages
    assert warning.startswith("2 folders are skipped, since they cannot be read. The first: Cannot read")
    assert warning.endswith(": Permission denied.")


def test_nothing_readable_is_a_missing_permission(tmp_path: Path, refuse: Refuse) -> None:
    fill(tmp_path, ("no/b.jpg", "no2/c.jpg"))
    refuse(tmp_path)
    with pytest.raises(AccessDenied, match=f"Cannot read {tmp_path}: Permission denied"):
        listed(tmp_path)
    refuse(tmp_path / "no", tmp_path / "no2")
    with pytest.raises(AccessDenied, match="Permission denied"):
        listed(tmp_path)


def test_a_folder_that_may_be_listed_but_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, ("a.jpg", "no/b.jpg"))
    scan = os.scandir

    class Item:
        """An entry of a folder without the permission to search it."""

        name, path = "b.jpg", str(tmp_path / "no" / "b.jpg")

        def is_dir(self) -> bool:
            return False

        def stat(self, *, follow_symlinks: bool = True) -> Any:
            raise PermissionError(errno.EACCES, "Permission denied")

    class Scan:
        def __enter__(self) -> Iterator[Item]:
            return iter([Item()])

        def __exit__(self, *error: Any) -> None: ...

    monkeypatch.setattr(os, "scandir", lambda path: Scan() if Path(path).name == "no" else scan(path))
    assert [entry.key for entry in listed(tmp_path)] == ["a.jpg"]
    assert "1 folder is skipped" in caplog.text


def test_results_below_the_input_are_no_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, ("a.jpg", "out/selected/a.jpg", "out/report.html"))
    with caplog.at_level(logging.INFO):
        assert list(listed(tmp_path, output=str(tmp_path / "out"))) == [
            Entry("a.jpg", next(open_folder(str(tmp_path)).list(keep=lambda key: key == "a.jpg")).etag, 1)
        ]
    assert "skipped" not in caplog.text


def test_no_camera_format_is_both_read_and_to_be_converted() -> None:
    assert not images.EXTENSIONS & images.CONVERTIBLE


def entries(*names: str) -> Listing:
    return Listing.from_entries(Entry(name, "new", 1) for name in names)


def test_other_images_in_the_output() -> None:
    done = {("week1/a.jpg", "x"), ("week1/b.jpg", "y")}
    said = inputs.describe_replaced(done, entries("week2/a.jpg"), Shard())
    assert said is not None
    assert said.startswith(
        "CORAL_OUTPUT holds results of 2 other images, such as 'week1/a.jpg', and none of them is in"
    )
    # The same name is the same image, even if its content has changed.
    assert inputs.describe_replaced(done, entries("week1/b.jpg", "week2/a.jpg"), Shard()) is None
    assert inputs.describe_replaced(set(), entries("week2/a.jpg"), Shard()) is None


def test_images_that_another_shard_has_saved_are_not_others() -> None:
    names = [f"{number}.jpg" for number in range(20)]
    mine, other = Shard(0, 2), Shard(1, 2)
    saved = {(name, "x") for name in names if other.owns(name)}
    assert 0 < len(saved) < 20
    listing = entries(*(name for name in names if mine.owns(name)))
    assert inputs.describe_replaced(saved, listing, mine) is None
    of_another_run = {(f"week1/{name}", "x") for name in names}
    said = inputs.describe_replaced(of_another_run, listing, mine)
    assert said is not None and f"of {sum(mine.owns(name) for name, _ in of_another_run)} other images" in said


def test_a_run_and_a_check_warn_before_results_are_replaced(few_frames: Path, job: Job, tmp_path: Path) -> None:
    shutil.copytree(few_frames / "sub", tmp_path / "week1" / "1")
    shutil.copytree(few_frames / "sub", tmp_path / "week2" / "2")
    variables = demo_variables(tmp_path / "week1", tmp_path / "out", CORAL_N_SAMPLES=2, CORAL_EXPORTS="none")
    words = "CORAL_OUTPUT holds results of 4 other images, such as '1/frame-"
    assert words not in (first := job(**variables)).stderr and first.returncode == 0
    variables["CORAL_INPUT"] = tmp_path / "week2"
    checked = job("check", **variables)
    assert f"check earlier results: warning. {words}" in checked.stderr and checked.returncode == 0
    second = job(**variables)
    assert f"warning: {words}" in second.stderr and second.returncode == 0
