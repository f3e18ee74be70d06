"""Copies of the picks after kills: what an interrupted run made is known, and the files of people stay."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job import exports
from job.exports.copies import LIST
from job.parts.owned import OwnedOutput
from job.parts.pool import Pool
from tests.exports.test_paths import Source, tree
from tests.exports.test_writing import filled
from tests.parts.test_owned import Killed, KilledFolder

NAMES = ["a.jpg", "b.jpg", "c.jpg"]
IMAGE = {name: name.encode() * 100 for name in NAMES}
KEPT = "1 file was changed by someone else and stays as it is"


class Case:
    """An output, and its input."""

    def __init__(self, folder: Path) -> None:
        self.output, pool, _ = filled(folder / "out", NAMES)
        self.source = Source(folder / "in", NAMES)
        self.pool: Pool = self.source.pool(pool)
        self.folder = folder / "out"

    def copy(self, *picks: str, killed_after: int = -1) -> None:
        """Runs once, until so many writes and deletions; deletes what is not picked, then writes the list."""
        output = OwnedOutput(KilledFolder(str(self.folder), killed_after))
        with contextlib.suppress(Killed):
            exports.copy_selected(output, self.source, self.pool, picks)

    def put(self, name: str, content: bytes) -> None:
        """Writes a file of a person."""
        path = self.folder / "selected" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    @property
    def copies(self) -> dict[str, bytes]:
        return tree(self.folder / "selected") if (self.folder / "selected").exists() else {}


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


LIST_WRITES = 2  # of the ledger that names it, and of the list


@pytest.mark.parametrize("before", [True, False])
def test_a_file_at_the_name_of_a_pick_stays_after_an_interrupted_run(
    case: Case, caplog: pytest.LogCaptureFixture, before: bool
) -> None:
    if before:
        case.put("a.jpg", b"work")
    case.copy("a.jpg", "b.jpg", killed_after=LIST_WRITES)
    assert json.loads((case.folder / LIST).read_text().splitlines()[-1])["sha256"] is None
    case.put("a.jpg", b"work")
    for _ in range(2):
        caplog.clear()
        case.copy("a.jpg", "b.jpg")
        assert case.copies == {"a.jpg": b"work", "b.jpg": IMAGE["b.jpg"]}
        assert KEPT in caplog.text
    caplog.clear()
    case.copy("c.jpg")
    assert case.copies == {"a.jpg": b"work", "c.jpg": IMAGE["c.jpg"]}
    assert KEPT in caplog.text and "a.jpg" in caplog.text


def test_copies_of_an_interrupted_run_that_are_no_longer_picked_go_away(case: Case) -> None:
    case.copy("a.jpg", "b.jpg", killed_after=LIST_WRITES + 1)
    assert len(case.copies) == 1
    case.copy("c.jpg")
    assert case.copies.keys() == {"c.jpg"}


@pytest.mark.parametrize("has_input", [True, False])
def test_without_copies_those_of_an_interrupted_run_go_away_if_they_can_be_compared(
    case: Case, caplog: pytest.LogCaptureFixture, has_input: bool
) -> None:
    case.copy("a.jpg", killed_after=LIST_WRITES + 1)
    exports.remove_copies(case.output, case.source if has_input else None, case.pool)
    assert case.copies.keys() == (set() if has_input else {"a.jpg"})
    assert (KEPT in caplog.text) is not has_input
    assert not (case.folder / LIST).exists()


def test_a_copy_that_an_interrupted_run_has_renewed_goes_away(case: Case) -> None:
    """The list has the digest of its earlier content."""
    case.copy("a.jpg")
    (case.source.folder / "a.jpg").write_bytes(b"another image")
    case.pool = case.source.pool(case.pool)
    case.copy("a.jpg", "b.jpg", killed_after=LIST_WRITES + 2)
    assert case.copies == {"a.jpg": b"another image", "b.jpg": IMAGE["b.jpg"]}
    case.copy("b.jpg")
    assert case.copies.keys() == {"b.jpg"}


def test_the_same_file_of_a_person_stays_after_an_interrupted_run(case: Case) -> None:
    case.put("a.jpg", IMAGE["a.jpg"])
    case.copy("a.jpg", "b.jpg", killed_after=LIST_WRITES)
    case.copy("b.jpg")
    assert case.copies.keys() == {"a.jpg", "b.jpg"}


@pytest.mark.parametrize("name", ["\ud800", "../in/a.jpg", 1, None, ["a.jpg"]])
def test_a_list_with_another_name_of_an_image_deletes_nothing(case: Case, name: object) -> None:
    case.put("a.jpg", IMAGE["a.jpg"])
    row = {"file_name": name, "copy": "selected/a.jpg", "sha256": None}
    case.output.write(LIST, json.dumps(row).encode())
    case.copy("b.jpg")
    assert case.copies.keys() == {"a.jpg", "b.jpg"}


SOME = st.sets(st.sampled_from(NAMES)).map(sorted)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SOME, st.integers(-1, 8), SOME), max_size=4), SOME)
def test_after_any_kills_and_edits_there_are_the_copies_and_the_files_of_people(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[list[str], int, list[str]]], picks: list[str]
) -> None:
    case = Case(tmp_path_factory.mktemp("case"))
    theirs = {}
    for number, (picked, killed_after, edited) in enumerate(runs):
        case.copy(*picked, killed_after=killed_after)
        for name in edited:
            theirs[name] = f"person {number}".encode()
            case.put(name, theirs[name])
    case.copy(*picks)
    assert case.copies == {name: IMAGE[name] for name in picks} | theirs
