"""The end of a run, on terminals of any width and for programs."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.context import Selected
from job.publish import closing
from tests.conftest import settings

LONG = "2024-05-17/route_000123_front_wide_camera/segment_0001/frame-005.jpg"
REASON = (
    "uncertain: a car (0.31) that may be a truck, and 12 more boxes; 0.42 from the nearest earlier pick, frame-240.jpg"
)


def pick(name: str = LONG, reason: str = REASON, rank: int = 1) -> Selected:
    return Selected(rank, name, 0.12345, 1.0, None, None, reason, {}, [])


@given(st.integers(40, 250), st.text(max_size=90), st.text(max_size=200))
def test_the_table_fits_the_terminal(width: int, name: str, reason: str) -> None:
    text = closing._render_picks([pick(), pick(name, reason, rank=10)], "uncertainty_entropy", width)
    assert all(len(line) <= max(width, 70) for line in text.splitlines())
    assert all(character == "\n" or character.isprintable() for character in text)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_names_are_cut_at_their_beginning(width: int) -> None:
    text = closing._render_picks([pick()], "uncertainty_entropy", width)
    assert "...ide_camera/segment_0001/frame-005.jpg" in text and LONG not in text
    assert "0.123" in text and " ".join(REASON.split()[:3]) in text
    assert max(map(len, text.splitlines())) <= width


def test_no_file_name_can_move_the_cursor() -> None:
    text = closing.render(settings(output="/out"), [pick("a\x1b]0;pwned\x07.jpg", "a\nb")])
    assert "\x1b" not in text and "\x07" not in text and "a\\x1b]0;pwned\\x07.jpg" in text


def test_the_last_line_for_programs_has_picks_report_and_figures(tmp_path: Path) -> None:
    selection = {
        "covering_radius": 0.4,
        "covering_radius_random": 0.7,
        "boxes": 9,
        "expected_boxes": 3.5,
        "classes": {},
    }
    run = {"selection": selection, "counts": {"images": 250}, "seconds": {"list": 0.25, "detect": 10.0}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    described = closing.describe(settings(output=str(tmp_path)), [pick(), pick("b.jpg")])
    assert described == {
        "selected": 2, "picks": [LONG, "b.jpg"], "output": str(tmp_path), "selected_txt": f"{tmp_path}/selected.txt",
        "report": f"{tmp_path}/report.html", "covering_radius": 0.4, "covering_radius_random": 0.7, "boxes": 9,
        "expected_boxes": 3.5, "images": 250, "seconds": 10.25,
    }  # fmt: skip
