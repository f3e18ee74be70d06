"""Several processes that write the results of one output at once: none takes the files of another for a person's."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.parts.owned import EDITED, LEDGER, OwnedOutput
from job.storage.base import Content
from job.storage.local import LocalFolder
from tests.exports.test_paths import tree
from tests.parts.test_owned import Killed, KilledFolder, run


def begin_together(folder: Path) -> tuple[OwnedOutput, OwnedOutput]:
    first, second = OwnedOutput(LocalFolder(str(folder))), OwnedOutput(LocalFolder(str(folder)))
    assert not first.has_written("run.json") and not second.has_written("run.json")  # both have read the ledger
    return first, second


def test_two_processes_that_write_at_once_are_nobody_else(tmp_path: Path) -> None:
    first, second = begin_together(tmp_path)
    for number in range(3):
        first.write("run.json", f"first {number}".encode())
        second.write("run.json", f"second {number}".encode())
    first.finish()
    second.finish()
    assert (tmp_path / "run.json").read_bytes() == b"second 2"
    assert not (tmp_path / EDITED).exists()
    (tmp_path / "run.json").write_text("by a person")
    second.write("run.json", b"third")
    assert [path.read_text() for path in tmp_path.glob("edited/*/run.json")] == ["by a person"]


def test_a_process_that_is_ahead_is_nobody_else(tmp_path: Path) -> None:
    first, second = begin_together(tmp_path)
    second.write("report.html", b"seconds of the second")
    first.write("images.parquet", b"same")
    first.write("report.html", b"seconds of the first")
    assert not (tmp_path / EDITED).exists()


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_whoever_ends_first_forgets_nothing_of_the_other(tmp_path: Path, first_ends_first: bool) -> None:
    run(tmp_path, {}, run_json=b"earlier")
    folder = LocalFolder(str(tmp_path))
    first, second = OwnedOutput(folder), OwnedOutput(folder)
    first.write("run.json", b"first")
    second.write("run.json", b"second")
    for output in (first, second) if first_ends_first else (second, first):
        output.finish()
    run(tmp_path, {}, run_json=b"later")
    assert not (tmp_path / EDITED).exists()
    (tmp_path / "run.json").write_bytes(b"earlier")  # nobody knows it any more
    run(tmp_path, {}, run_json=b"later")
    assert list(tree(tmp_path / EDITED).values()) == [b"earlier"]


def test_a_process_that_is_killed_while_another_ends_is_nobody_else(tmp_path: Path) -> None:
    first, second = begin_together(tmp_path)
    first.write("run.json", b"first")
    second.write("run.json", b"second")  # and is killed
    first.finish()
    run(tmp_path, {}, run_json=b"later")
    assert not (tmp_path / EDITED).exists()


def test_what_another_writes_after_the_ledger_and_before_the_look_is_known(tmp_path: Path) -> None:
    class Hooked(LocalFolder):
        after_ledger: Callable[[], None] | None = None

        def write(self, key: str, data: Content) -> None:
            super().write(key, data)
            if key == LEDGER and (hook := self.after_ledger):
                self.after_ledger = None
                hook()

    folder = Hooked(str(tmp_path))
    first, second = OwnedOutput(folder), OwnedOutput(LocalFolder(str(tmp_path)))
    first.write("report.html", b"0")
    folder.after_ledger = lambda: second.write("report.html", b"second")
    first.write("report.html", b"first")
    assert (tmp_path / "report.html").read_bytes() == b"first" and not (tmp_path / EDITED).exists()


def test_what_a_process_has_deleted_does_not_come_back_to_the_ledger(tmp_path: Path) -> None:
    run(tmp_path, {"exports/a": b"1", "exports/b": b"1"})
    run(tmp_path, {"exports/b": b"1"}, run_json=b"{}")
    assert not OwnedOutput(LocalFolder(str(tmp_path))).has_written("exports/a")
    output = OwnedOutput(LocalFolder(str(tmp_path)))
    for files in ({}, {"exports/b": b"1"}):
        output.write_all(files, "exports/")
    output.finish()
    run(tmp_path, {"exports/b": b"2"})
    assert tree(tmp_path / "exports") == {"b": b"2"}


RESULTS, EXPORTS = ("run.json", "report.html"), ("exports/a", "exports/b")
PROCESS = st.integers(0, 2)
STEP = st.one_of(
    st.tuples(st.just("write"), PROCESS, st.sampled_from(RESULTS)),
    st.tuples(st.just("export"), PROCESS, st.sets(st.sampled_from(EXPORTS))),
    st.tuples(st.just("delete"), PROCESS, st.sampled_from(RESULTS)),
    st.tuples(st.just("finish"), PROCESS, st.none()),
    st.tuples(st.just("kill"), PROCESS, st.integers(0, 3)),
    st.tuples(st.just("edit"), PROCESS, st.sampled_from((*RESULTS, *EXPORTS))),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEP, max_size=14))
def test_in_any_order_of_steps_edits_and_kills_everybody_keeps_what_is_theirs(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, object]]
) -> None:
    """Each content is another one, as those with times are."""
    folder = tmp_path_factory.mktemp("out")
    (folder / "exports").mkdir()
    stores = [KilledFolder(str(folder), -1) for _ in range(3)]
    outputs = [OwnedOutput(store) for store in stores]
    theirs: set[bytes] = set()  # that a person wrote, and did not replace
    for number, (action, process, what) in enumerate(steps):
        content, output = f"job {number}".encode(), outputs[process]
        try:
            if action == "write":
                output.write(str(what), content)
            elif action == "export":
                output.write_all({key: content for key in EXPORTS if key in what}, "exports/")  # type: ignore[operator]
            elif action == "delete":
                output.delete(str(what))
            elif action == "finish":
                output.finish()
            elif action == "kill":
                stores[process].remaining = int(str(what))  # at one of its next writes
            else:
                path, content = folder / str(what), f"person {number}".encode()
                theirs = (theirs - {path.read_bytes()} if path.exists() else theirs) | {content}
                path.write_bytes(content)
        except Killed:
            stores[process] = KilledFolder(str(folder), -1)
            outputs[process] = OwnedOutput(stores[process])
    run(folder, {"exports/a": b"last"}, run_json=b"last", report_html=b"last")
    found = tree(folder)
    assert theirs <= set(found.values())
    assert all(data.startswith(b"person") for path, data in found.items() if path.startswith(EDITED))
    assert {found["run.json"], found["report.html"]} == {b"last"}
    assert found["exports/a"] in theirs | {b"last"} and found.get("exports/b", b"") in theirs | {b""}
