"""Which files the exports and the copies leave, whatever the images are called."""

import json
import logging
import os
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from job import exports
from job.exports import copies, paths
from job.exports.copies import LIST
from job.exports.xml import add_child, can_represent, replace_forbidden, serialize
from job.names import is_one_line
from job.parts import Row
from job.parts.owned import OwnedOutput
from job.parts.pool import Pool
from job.storage import Entry
from job.storage.local import LocalFolder
from job.uris import Location
from tests.exports.test_writing import NAMES, filled, parsed, uri_of

PIECES = ["a", "b", ".jpg", ".png", ".txt", "/", ".", "..", "images", "labels", "://", "\\", " ", "\n", "é", "x" * 120]
CHARACTERS = st.characters(exclude_categories=["Cs"])
NAME = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join), st.text(CHARACTERS, min_size=1, max_size=40)
)


def tree(folder: Path) -> dict[str, bytes]:
    return {each.relative_to(folder).as_posix(): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def check_paths(where: dict[str, str], names: list[str]) -> None:
    assert where.keys() == set(names)
    files = set(where.values())
    assert len(files) == len(names)
    folders = {path.rsplit("/", count)[0] for path in files for count in range(1, path.count("/") + 1)}
    assert files.isdisjoint(folders)
    for path in files:
        assert path == os.path.normpath(path) and not path.startswith("/") and ".." not in path.split("/")
        assert is_one_line(path) and path.strip().splitlines() == [path]
        assert all(len(each.encode()) <= 200 for each in path.split("/")) and "\\" not in path


@given(st.lists(NAME, unique=True, max_size=30))
@example([paths.assign_copies(["../up\n.jpg"])["../up\n.jpg"], "../up\n.jpg"])
@example(["q.jpg", "q.jpg.b c", "q.png", "q"])
def test_no_two_images_share_a_file_nor_a_file_and_a_folder(names: list[str]) -> None:
    check_paths(paths.assign_copies(names), names)
    check_paths(paths.assign_labels(names, ".xml"), names)
    labels = paths.assign_labels(names, ".txt", without="images")
    check_paths(labels, names)
    images = [label.removesuffix(".txt") + paths.find_extension(name) for name, label in labels.items()]
    assert len(set(images)) == len(names)
    assert not any("images" in each.split("/")[:-1] for each in images)
    assert paths.assign_copies(names[::-1]) == paths.assign_copies(names)


@given(
    st.lists(st.from_regex(r"[a-zä0-9_-]{1,9}(/[a-zä0-9_-]{1,9}){0,3}\.jpg", fullmatch=True), unique=True, max_size=20)
)
def test_ordinary_names_stay_as_they_are(names: list[str]) -> None:
    assert paths.assign_copies(names) == {name: name for name in names}
    assert paths.assign_labels(names, ".xml") == {name: name[:-4] + ".xml" for name in names}


@given(st.text(CHARACTERS), st.text(CHARACTERS))
@example("\r\n", "\r")
@example("]]>&#13;", "<script>'\"")
def test_xml_comes_back_as_it_was(text: str, attribute: str) -> None:
    root = ET.Element("root")
    add_child(root, "text", replace_forbidden(text)).set("attribute", replace_forbidden(attribute))
    (back,) = parsed(serialize(root))
    assert (back.text or "") == replace_forbidden(text) and back.attrib["attribute"] == replace_forbidden(attribute)
    assert (replace_forbidden(text) == text) == can_represent(text)


@pytest.mark.parametrize("formats", [exports.FORMATS, ("voc", "coco"), ()])
def test_nothing_of_an_earlier_run_stays(tmp_path: Path, formats: tuple[str, ...]) -> None:
    output, pool, found = filled(tmp_path / "again", NAMES)
    exports.write(output, pool, NAMES, uri_of, found, exports.FORMATS)
    theirs = {"yolo/images/a.jpg": b"i", "voc/notes.md": b"n", "yolo/labels.cache": b"c", "own.json": b"o"}
    for name, content in theirs.items():
        path = tmp_path / "again/exports" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    exports.write(output, pool, NAMES[10:], uri_of, found, formats)
    once, pool, found = filled(tmp_path / "once", NAMES)
    exports.write(once, pool, NAMES[10:], uri_of, dict(reversed(found.items())), formats)
    fresh = tree(tmp_path / "once/exports") if formats else {}
    assert tree(tmp_path / "again/exports") == fresh | theirs


def test_images_of_unknown_size_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    output, pool, found = filled(tmp_path, NAMES)
    with caplog.at_level(logging.WARNING):
        exports.write(output, pool, ["a.jpg", "unsized.jpg"], uri_of, found, ["coco", "voc", "label_studio", "cvat"])
    assert caplog.messages == [
        "1 of 2 picks have unknown width and height and are left out of voc, cvat.",
        "1 of 2 picks have unknown width and height and have no boxes in label_studio.",
    ]
    caplog.clear()
    exports.write(output, pool, ["a.jpg"], uri_of, found, exports.FORMATS)
    exports.write(output, pool, ["unsized.jpg"], uri_of, found, ["coco"])
    assert not caplog.messages


def test_names_that_xml_cannot_hold_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["a.jpg", "bell\a.jpg", "\ufffe.jpg"]
    output, pool, found = filled(tmp_path, names)
    exports.write(output, pool, names, uri_of, found, exports.FORMATS)
    assert caplog.messages == ["2 of 3 picks have names that XML cannot represent and are left out of voc, cvat."]
    assert [each.name for each in (tmp_path / "exports/voc").iterdir()] == ["a.xml"]
    root = parsed((tmp_path / "exports/cvat.xml").read_bytes())
    assert [each.attrib["name"] for each in root.findall("image")] == ["a.jpg"]
    assert len(list((tmp_path / "exports/yolo/labels").iterdir())) == 3


def test_images_that_no_detector_has_seen(tmp_path: Path) -> None:
    from job import parts
    from job.parts import NO_DETECTOR, Provenance, boxes
    from job.parts import pool as pools

    output = OwnedOutput(LocalFolder(str(tmp_path), follows_links=False))
    parts.write(output, [Row.undetected("a.jpg"), Row.undetected("b.jpg")], Provenance("", "", "", NO_DETECTOR, ()))
    pool = pools.load(output, [Entry("a.jpg", "", 0), Entry("b.jpg", "", 0)])
    exports.write(output, pool, ["b.jpg"], uri_of, boxes.detections(output, pool, [1]), exports.FORMATS)
    exports.write_all_images(output, pool, uri_of)
    content = json.loads((tmp_path / "predictions/coco.json").read_text())
    assert [each["file_name"] for each in content["images"]] == ["a.jpg", "b.jpg"]
    assert content["annotations"] == content["categories"] == []
    (task,) = json.loads((tmp_path / "exports/label_studio.json").read_text())
    assert task == {"data": {"image": uri_of("b.jpg"), "file_name": "b.jpg"}}


class Source(LocalFolder):
    """An input, and the pool of what is in it."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        folder.mkdir()
        super().__init__(str(folder))
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(name.encode() * 100)
        self.folder = folder

    def pool(self, pool: Pool) -> Pool:
        etags = {each.key: each.etag for each in self.list()}
        return Pool(**vars(pool) | {"etag": [etags.get(key, "") for key in pool.file_names]})


def test_copies_go_by_file_name_and_those_of_an_earlier_run_go_away(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "sub/a.jpg", "line\nbreak.jpg", "ä.jpg"]
    output, pool, _ = filled(tmp_path / "out", names)
    source = Source(tmp_path / "in", names)
    pool = source.pool(pool)
    assert exports.copy_selected(output, source, pool, names) == 5
    listed = [json.loads(line) for line in (tmp_path / "out" / LIST).read_text().splitlines()]
    assert [each["file_name"] for each in listed] == names
    copied = tree(tmp_path / "out/selected")
    assert {"a.jpg", "a.png", "sub/a.jpg", "ä.jpg"} < copied.keys() and len(copied) == 5
    for each in listed:
        assert copied[each["copy"].removeprefix("selected/")] == each["file_name"].encode() * 100
    output.write("selected/a.xml", b"work")
    assert exports.copy_selected(output, source, pool, ["ä.jpg"]) == 1
    assert tree(tmp_path / "out/selected").keys() == {"ä.jpg", "a.xml"}
    assert exports.copy_selected(output, source, pool, []) == 0
    assert tree(tmp_path / "out/selected").keys() == {"a.xml"}


@pytest.mark.parametrize(("limit", "at_once"), [(1, {1}), (1 << 20, set(range(5, 17)))])
def test_large_files_are_copied_after_each_other(
    limit: int, at_once: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number:02}.jpg" for number in range(20)]
    output, pool, _ = filled(tmp_path / "out", names)
    source = Source(tmp_path / "in", names)
    pool = source.pool(pool)
    reading = peak = 0
    lock, real = threading.Lock(), source.read

    def read(key: str, etag: str | None = None) -> bytes:
        nonlocal reading, peak
        with lock:
            reading += 1
            peak = max(peak, reading)
        time.sleep(0.1)
        with lock:
            reading -= 1
        return real(key, etag)

    monkeypatch.setattr(source, "read", read)
    monkeypatch.setattr(copies, "_MAX_BYTES", limit)
    assert exports.copy_selected(output, source, pool, names) == 20
    assert peak in at_once
    assert exports.copy_selected(output, source, pool, names[:3]) == 3
    assert tree(tmp_path / "out/selected").keys() == set(names[:3])
    exports.remove_copies(output, source, pool)
    assert not tree(tmp_path / "out/selected")


def test_files_that_are_gone_or_changed_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["a.jpg", "changed.jpg", "gone.jpg"]
    output, pool, _ = filled(tmp_path / "out", names)
    source = Source(tmp_path / "in", names)
    pool = source.pool(pool)
    assert exports.copy_selected(output, source, pool, names) == 3
    (source.folder / "gone.jpg").unlink()
    (source.folder / "changed.jpg").write_bytes(b"other")
    assert exports.copy_selected(output, source, pool, names) == 1
    assert tree(tmp_path / "out/selected").keys() == {"a.jpg"}
    (message,) = caplog.messages
    assert "2 of 3 picks could not be copied" in message and "'changed.jpg': it has changed since" in message


@pytest.mark.parametrize(
    "text",
    [
        '{"copy": "keep.txt"}\n{"copy": "selected/../keep.txt"}\n{"copy": 1}\n',
        "no JSON",
        "[1]",
        '{"a": 1}',
        '{"copy": [1]}',
    ],
)
def test_a_list_of_copies_that_somebody_has_changed_removes_nothing_else(tmp_path: Path, text: str) -> None:
    output, pool, _ = filled(tmp_path / "out", ["a.jpg"])
    output.write(LIST, text.encode())
    output.write("keep.txt", b"keep")
    source = Source(tmp_path / "in", ["a.jpg"])
    assert exports.copy_selected(output, source, source.pool(pool), ["a.jpg"]) == 1
    assert (tmp_path / "out/keep.txt").exists()


def test_where_the_images_of_a_folder_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert exports.make_uri_builder("frames/")("sub/a.jpg") == str(tmp_path / "frames/sub/a.jpg")
    assert exports.make_uri_builder("/")("a.jpg") == "/a.jpg"
    assert exports.make_uri_builder("s3://bucket/some/frames/")("ä ?#.jpg") == "s3://bucket/some/frames/ä ?#.jpg"
    assert exports.make_uri_builder("gs://bucket")("/a.jpg") == "gs://bucket//a.jpg"


def test_where_the_images_of_a_list_are(tmp_path: Path) -> None:
    from job.storage.filelist import FileList

    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "sub/b.jpg"):
        (tmp_path / name).write_text(name)
    keys = ["a.jpg", "./sub/../sub/b.jpg", str(tmp_path / "a.jpg"), f"file://{tmp_path}/a.jpg"]
    uri = str(tmp_path / "list.txt")
    source = FileList(uri, "\n".join(keys), Location("", "", str(tmp_path)), lambda at: LocalFolder(at.path))
    for key in keys:
        assert Path(exports.make_uri_builder(uri)(key)).read_bytes() == source.read(key)
        assert exports.make_uri_builder(uri)(key) == os.path.normpath(exports.make_uri_builder(uri)(key))
    of_bucket = exports.make_uri_builder("s3://bucket/lists/all.jsonl")
    assert of_bucket("a.jpg") == "s3://bucket/lists/a.jpg"
    assert of_bucket("s3://other/a.jpg") == "s3://other/a.jpg"
    assert of_bucket("gs://other/x/a.jpg") == "gs://other/x/a.jpg"
    assert exports.make_uri_builder("s3://bucket/all.txt")("a.jpg") == "s3://bucket/a.jpg"


def test_file_names_of_a_list_are_without_their_stores() -> None:
    keys = ["s3://bucket/x/a.jpg", "/data/a.jpg", "../a.jpg", "b.jpg"]
    assert list(paths.assign_copies(keys).values()) == ["a.jpg", "data/a.jpg", "b.jpg", "bucket/x/a.jpg"]


@given(st.integers(1, 60000), st.integers(0, 2**32))
def test_sizes_do_not_matter_to_a_hundredth_of_a_pixel(side: int, seed: int) -> None:
    from job.exports import yolo
    from job.exports.detected import DetectedImage, Export

    corners = np.sort(np.random.default_rng(seed).random((5, 2, 2)) * side, axis=1).reshape(-1, 4).round(3)
    image = DetectedImage(1, "a.jpg", "", side, side, corners, np.ones(5), np.zeros(5, np.int32))
    content = dict(yolo.FORMAT.render(Export([image], ("a",), "m", str)))["yolo/labels/a.txt"].decode()
    rows = np.array([[float(each) for each in line.split()[1:]] for line in content.splitlines()]) * side
    back = np.concatenate([rows[:, :2] - rows[:, 2:] / 2, rows[:, :2] + rows[:, 2:] / 2], axis=1)
    np.testing.assert_allclose(back, corners, atol=0.01)
