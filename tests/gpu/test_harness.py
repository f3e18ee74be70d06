"""Checks on a GPU: whatever one of them does, the others run, and nothing that was found is lost."""

import json
from pathlib import Path

import pytest

from gpu import harness
from gpu.harness import Bench, Runner


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, object]]:
    """The results of `stubborn`, as they are in the file."""
    monkeypatch.setattr(harness, "_PATIENCE", 1)
    monkeypatch.setattr(harness, "_GRACE_SECONDS", 0)
    bench = Bench("cpu", False, tmp_path)
    runner = Runner("tests.gpu.stubborn", bench, seconds=120, output=tmp_path, title="gpu-test")
    assert not runner.run()
    found: dict[str, dict[str, object]] = json.loads((tmp_path / "gpu-test.json").read_text())
    return found


def test_every_check_has_a_result(results: dict[str, dict[str, object]]) -> None:
    assert {name: result["status"] for name, result in results.items()} == {
        "good": "passed",
        "crash": "failed",
        "raise": "failed",
        "hang": "failed",
        "wrong": "failed",
        "skip": "skipped",
        "long": "skipped",
        "last": "passed",
    }
    assert results["good"]["figures"] == {"number": 8}
    assert results["crash"]["summary"] == "the process ended with -6"
    assert "Fatal Python error: Aborted" in str(results["crash"]["traceback"])
    assert results["raise"]["summary"] == "ValueError: no such thing"
    assert "in _raise" in str(results["raise"]["traceback"])
    assert results["hang"]["summary"] == "it did not end within 10 s"
    assert "in _hang" in str(results["hang"]["traceback"])
    assert results["wrong"]["problems"] == ["other boxes"]
    assert results["skip"]["summary"] == "there is no second GPU"
    assert str(results["long"]["summary"]).startswith("no time: it takes 1000 s, ")
