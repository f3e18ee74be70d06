"""Preparation of images for the detector."""

from pathlib import Path

from job import parts
from job.detect.model import Detector
from job.storage import Entry
from job.storage.local import LocalFolder
from tests.detect.conftest import prepared


def test_an_unusable_file_is_a_row(demo_detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"nothing of the sort")
    source = LocalFolder(str(tmp_path))
    entries = [*source.list(), Entry("gone.jpg", "e", 1), Entry("broken.jpg", "other", 19)]
    row, gone, changed = prepared(entries, source, demo_detector)
    assert isinstance(row, parts.Row) and row.status == "failed" and "not an image" in str(row.error)
    assert isinstance(changed, parts.Row) and changed.status == "unread" and "changed" in str(changed.error)
    assert isinstance(gone, parts.Row) and "deleted" in str(gone.error)
