"""Log lines: their format, and text of others in them."""

import json
import logging
from datetime import UTC, datetime

import pytest

from job import logs


@pytest.fixture(autouse=True)
def restored() -> None:
    logs._fields.clear()


def log(capsys: pytest.CaptureFixture[str], form: str, *lines: tuple[int, str]) -> str:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure(form)
        for severity, text in lines:
            logging.getLogger("job.x").log(severity, text)
    finally:
        root.handlers[:], root.level = handlers, level
    return capsys.readouterr().err


def test_text_of_others_cannot_forge_a_line_or_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    text = log(capsys, "text", (logging.WARNING, "a.jpg\nerror: forged\x1b]0;title\x07\u202e"), (logging.INFO, "ä → b"))
    assert text == "warning: a.jpg\\nerror: forged\\x1b]0;title\\x07\\u202e\nä → b\n"


def test_json_lines_have_times_of_rfc_3339_and_name_run_and_shard(capsys: pytest.CaptureFixture[str]) -> None:
    logs.add_fields(shard_index=1, shard_count=4)
    logs.add_fields(run_id="a1b2c3d4")
    line = json.loads(log(capsys, "json", (logging.INFO, "text")))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO", "logger": "job.x", "message": "text", "shard_index": 1, "shard_count": 4, "run_id": "a1b2c3d4",
    }  # fmt: skip


def test_times_are_utc(capsys: pytest.CaptureFixture[str]) -> None:
    before = datetime.now(UTC)
    time = datetime.fromisoformat(json.loads(log(capsys, "json", (logging.INFO, "text")))["time"])
    assert time.tzinfo is not None and abs((time - before).total_seconds()) < 60
