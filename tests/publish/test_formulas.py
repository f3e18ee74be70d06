"""File names that a spreadsheet would take for formulas."""

import csv
import io
import json
from pathlib import Path

import pytest

from job.context import Selected
from job.publish.tables import write_selected
from job.storage.local import LocalFolder


@pytest.mark.parametrize(
    ("name", "harmless"),
    [
        ("=cmd|' !C calc'!A0.jpg", "'=cmd|' !C calc'!A0.jpg"),
        ("@SUM(1+1).jpg", "'@SUM(1+1).jpg"),
        ("+1.jpg", "'+1.jpg"),
        ("-1.jpg", "'-1.jpg"),
        ("\t=1.jpg", "'\t=1.jpg"),
        ("\r=1.jpg", "'\r=1.jpg"),
        ("a=1.jpg", "a=1.jpg"),
        ("'=1.jpg", "'=1.jpg"),
    ],
)
def test_a_name_is_exact_in_one_column_and_harmless_in_another(tmp_path: Path, name: str, harmless: str) -> None:
    pick = Selected(
        rank=1, file_name=name, score=0.5, value=0.5, distance=None, nearest=None, reason="r", factors={}, boxes=[]
    )
    write_selected(LocalFolder(str(tmp_path)), [pick])
    with io.StringIO((tmp_path / "selected.csv").read_bytes().decode(), newline="") as text:
        (row,) = csv.DictReader(text)
    assert (row["file_name"], row["spreadsheet_name"]) == (name, harmless)
    (line,) = (tmp_path / "selected.jsonl").read_text().splitlines()
    assert "spreadsheet_name" not in json.loads(line)
