"""Whose files they are: nothing that the job did not write is lost, whatever the order of runs, edits and kills."""

import errno
import shutil
import tracemalloc
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job import parts
from job.errors import AccessDenied, LinkError
from job.parts.owned import EDITED, LEDGER, LEDGER_FOLDER, OwnedOutput
from job.spool import Spool
from job.storage.base import Content
from job.storage.local import LocalFolder
from tests.exports.test_paths import tree

LABELS = "exports/yolo/labels/"


def open_output(folder: Path) -> OwnedOutput:
    return OwnedOutput(LocalFolder(str(folder), follows_links=False))


def run(folder: Path, files: dict[str, bytes], **results: bytes) -> None:
    """What one run writes: exports, and results such as ``selected_txt``."""
    output = open_output(folder)
    for name, content in results.items():
        output.write(name.replace("_", "."), content)
    output.write_all(files, "exports/")
    output.finish()


def test_own_files_are_replaced_and_deleted(tmp_path: Path) -> None:
    run(tmp_path, {LABELS + "a.txt": b"1", LABELS + "b.txt": b"1"}, selected_txt=b"a")
    run(tmp_path, {LABELS + "b.txt": b"2"}, selected_txt=b"b")
    assert tree(tmp_path / "exports") == {"yolo/labels/b.txt": b"2"}
    assert (tmp_path / "selected.txt").read_bytes() == b"b"
    assert not (tmp_path / EDITED).exists()


def test_a_file_of_the_same_content_is_not_written_again(tmp_path: Path) -> None:
    run(tmp_path, {LABELS + "a.txt": b"1"}, selected_txt=b"a")
    before = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.txt"))]
    run(tmp_path, {LABELS + "a.txt": b"1"}, selected_txt=b"a")
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.txt"))] == before


@pytest.mark.parametrize("next_content", [{LABELS + "a.txt": b"1"}, {LABELS + "a.txt": b"2"}, {}])
def test_a_corrected_label_file_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, next_content: dict[str, bytes]
) -> None:
    run(tmp_path, {LABELS + "a.txt": b"1"})
    (tmp_path / LABELS / "a.txt").write_bytes(b"CORRECTED")
    (tmp_path / LABELS / "own.txt").write_bytes(b"own")
    for _ in range(2):
        caplog.clear()
        run(tmp_path, next_content)
        assert tree(tmp_path / "exports") == {"yolo/labels/a.txt": b"CORRECTED", "yolo/labels/own.txt": b"own"}
        if next_content:
            assert (
                "1 file was changed by someone else and stays as it is" in caplog.text
                and LABELS + "a.txt" in caplog.text
            )


def test_a_result_of_someone_else_is_moved_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "report.html").write_bytes(b"a report of mine")
    run(tmp_path, {}, selected_txt=b"a", report_html=b"<html>")
    (tmp_path / "selected.txt").write_bytes(b"edited")
    run(tmp_path, {}, selected_txt=b"b", report_html=b"<html>")
    assert {path: data for path, data in tree(tmp_path).items() if path != LEDGER} == {
        "selected.txt": b"b",
        "report.html": b"<html>",
        f"edited/{sha256(b'edited').hexdigest()[:8]}/selected.txt": b"edited",
        f"edited/{sha256(b'a report of mine').hexdigest()[:8]}/report.html": b"a report of mine",
    }
    assert "report.html was not written by this job" in caplog.text


def test_a_file_that_was_moved_before_and_then_changed_is_not_replaced(tmp_path: Path) -> None:
    run(tmp_path, {}, report_html=b"<html>")
    for _ in range(3):
        (tmp_path / "report.html").write_bytes(b"mine")
        run(tmp_path, {}, report_html=b"<html>")
        (tmp_path / EDITED / sha256(b"mine").hexdigest()[:8] / "report.html").write_bytes(b"changed there")
    assert sorted(tree(tmp_path / EDITED).values()) == [b"changed there", b"mine"]


def test_links_are_not_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    elsewhere = tmp_path / "data"
    elsewhere.mkdir()
    for name in ("a.txt", "precious.txt"):
        (elsewhere / name).write_bytes(b"mine")
    out = tmp_path / "out"
    out.mkdir()
    run(out, {LABELS + "a.txt": b"1", "exports/voc/b.xml": b"1"})
    (out / LABELS / "a.txt").unlink()
    (out / LABELS).rmdir()
    (out / LABELS[:-1]).symlink_to(elsewhere)
    (out / "exports/voc/link").symlink_to(elsewhere)
    run(out, {LABELS + "a.txt": b"2"})
    run(out, {})
    assert tree(elsewhere) == {"a.txt": b"mine", "precious.txt": b"mine"}
    assert not (out / "exports/voc/b.xml").exists()
    assert "1 file was changed by someone else and stays as it is" in caplog.text
    (out / "selected.txt").symlink_to(elsewhere / "new.txt")
    with pytest.raises(LinkError, match=r"selected\.txt is a symbolic link, which the job does not replace"):
        run(out, {}, selected_txt=b"a")
    assert not (elsewhere / "new.txt").exists()
    (out / LEDGER_FOLDER).rename(out / "moved")
    (out / LEDGER_FOLDER[:-1]).symlink_to(out / "moved")
    with pytest.raises(LinkError, match=r"\.coralpick is a symbolic link, and the job does not write through links"):
        run(out, {}, run_json=b"{}")


def test_after_the_parts_are_deleted_own_files_are_still_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The messages advise to delete the parts to start again with other settings."""
    run(tmp_path, {LABELS + "a.txt": b"1", LABELS + "b.txt": b"1"}, selected_txt=b"a")
    shutil.rmtree(tmp_path / parts.FOLDER, ignore_errors=True)
    run(tmp_path, {LABELS + "b.txt": b"2"}, selected_txt=b"b")
    assert tree(tmp_path / "exports") == {"yolo/labels/b.txt": b"2"}
    assert not (tmp_path / EDITED).exists() and not caplog.text


def test_a_damaged_ledger_makes_all_files_those_of_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, {LABELS + "a.txt": b"1"})
    for content in (b"junk", b"[1]", b'{"a": 1}'):
        (tmp_path / LEDGER).write_bytes(content)
        run(tmp_path, {})
        assert tree(tmp_path / "exports") == {"yolo/labels/a.txt": b"1"}
    assert caplog.text.count("is damaged: existing files are treated as the work of others") == 3


class Killed(BaseException):
    """A kill, which no handler may catch."""


class KilledFolder(LocalFolder):
    """A folder whose process is killed at one of its writes or deletions."""

    def __init__(self, path: str, after: int) -> None:
        super().__init__(path, follows_links=False)
        self.remaining = after

    def _count(self) -> None:
        if self.remaining == 0:
            raise Killed
        self.remaining -= 1

    def write(self, key: str, data: Content) -> None:
        self._count()
        super().write(key, data)

    def delete(self, key: str) -> None:
        self._count()
        super().delete(key)


CONTENTS = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from([b"1", b"2", b"3"]))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(CONTENTS, st.integers(0, 9)), min_size=1, max_size=4), CONTENTS)
def test_after_any_kills_the_next_run_leaves_exactly_its_own_files(
    tmp_path_factory: pytest.TempPathFactory, killed: list[tuple[dict[str, bytes], int]], last: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("out")
    (folder / "exports").mkdir()
    (folder / "exports/mine").write_bytes(b"mine")
    for files, after in killed:
        output = OwnedOutput(KilledFolder(str(folder), after))
        try:
            output.write_all({f"exports/{name}": data for name, data in files.items()}, "exports/")
            output.finish()
        except Killed:
            pass
    run(folder, {f"exports/{name}": data for name, data in last.items()})
    assert tree(folder / "exports") == {"mine": b"mine"} | last
    assert not (folder / EDITED).exists()


def test_a_large_file_is_compared_block_by_block(tmp_path: Path) -> None:
    """`read` would hold the whole file in memory."""

    class RangesOnly(LocalFolder):
        def read(self, key: str, etag: str | None = None) -> bytes:
            assert key == LEDGER, key
            return super().read(key, etag)

    content = np.random.default_rng(0).bytes(5 * (1 << 24) + 5)
    for _ in range(2):
        output = OwnedOutput(RangesOnly(str(tmp_path)))
        made = Spool()
        made.file.write(content)
        output.write("embeddings.parquet", made)
        output.finish()
    assert (tmp_path / "embeddings.parquet").read_bytes() == content
    output = OwnedOutput(RangesOnly(str(tmp_path)))
    output.write("embeddings.parquet", b"1")
    assert tree(tmp_path)["embeddings.parquet"] == b"1" and not (tmp_path / "edited").exists()
    content = content[1:]
    (tmp_path / "embeddings.parquet").write_bytes(content)  # of a person
    tracemalloc.start()
    output.write("embeddings.parquet", b"2")
    assert tracemalloc.get_traced_memory()[1] < 2.5 * (1 << 24)
    tracemalloc.stop()
    assert tree(tmp_path)["embeddings.parquet"] == b"2"
    assert tree(tmp_path / EDITED) == {f"{sha256(content).hexdigest()[:8]}/embeddings.parquet": content}


class Meanwhile(LocalFolder):
    """A folder in which a person edits a file once, right after another file was written."""

    def __init__(self, folder: Path, after: str, edited: str) -> None:
        super().__init__(str(folder))
        self._after, self._edited = after, folder / edited

    def write(self, key: str, data: Content) -> None:
        super().write(key, data)
        if key.endswith(self._after):
            self._after = "nothing"
            self._edited.write_bytes(b"second edit")


def test_an_edit_while_a_file_is_moved_is_moved_as_well(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_bytes(b"first edit")
    OwnedOutput(Meanwhile(tmp_path, "/report.html", "report.html")).write("report.html", b"<html>")
    assert (tmp_path / "report.html").read_bytes() == b"<html>"
    assert sorted(tree(tmp_path / EDITED).values()) == [b"first edit", b"second edit"]


@pytest.mark.parametrize("forbidden", ["report.html", LABELS + "a.txt", LEDGER])
@pytest.mark.parametrize("begun", [True, False])
def test_a_file_that_may_not_be_read_is_one_sentence(tmp_path: Path, forbidden: str, begun: bool) -> None:
    """A file of another user, or a refusal for one object."""

    class Forbidding(LocalFolder):
        is_forbidden = False

        def read(self, key: str, etag: str | None = None) -> bytes:
            if self.is_forbidden and key == forbidden:
                raise PermissionError(errno.EACCES, "Permission denied", key)
            return super().read(key, etag)

    run(tmp_path, {LABELS + "a.txt": b"1"}, report_html=b"1")
    folder = Forbidding(str(tmp_path))
    output = OwnedOutput(folder)
    assert not begun or output.has_written("report.html")
    folder.is_forbidden = True
    with pytest.raises(AccessDenied) as caught:
        output.write("report.html", b"2")
        output.write_all({}, "exports/")
    assert str(caught.value) == f"Cannot read {tmp_path}/{forbidden}: Permission denied."
