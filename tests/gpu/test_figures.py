import json
from pathlib import Path

from gpu import figures


def test_tables_of_a_run(tmp_path: Path) -> None:
    run = {"images_per_s": 512.4, "busy_by_events": 0.914, "precision": "fp16", "allocated_gib": 12.34,
           "stages": {"launch": 0.5, "wait for the GPU": 0.25, "other": 0.25}}  # fmt: skip
    results = {
        "machine": {"status": "passed", "summary": "NVIDIA H100", "figures": {}},
        "rcnn, 720p": {"status": "passed", "summary": "", "figures": run},
        "feed, 720p": {"status": "failed", "summary": "", "figures": {}},
        "precisions": {"status": "passed", "summary": "", "figures": {"bf16": run}},
        "DefaultPredictor": {"status": "passed", "summary": "", "figures": {"720p": 25.04}},
    }
    (tmp_path / "gpu.json").write_text(json.dumps(results))
    table = figures.benchmark_table(tmp_path / "gpu.json")
    assert table.startswith("On NVIDIA H100, with 2,000 JPEG files:\n")
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert "| R50-FPN, 800 x 1333: 720p files, fp16 | 512 | 91% | 0% | 0% | 50% | 25% | 0% | 12.3 |" in rows
    assert "| R50-FPN, 800 x 1333: 500 720p files, bf16 | 512 | 91% | 0% | 0% | 50% | 25% | 0% | 12.3 |" in rows
    assert rows[-1].startswith("| detectron2's DefaultPredictor in a loop: 720p files | 25.0 |")


def test_tables_without_a_run(tmp_path: Path) -> None:
    assert figures.benchmark_table(tmp_path / "gpu.json") == "Not measured: no GPU has run `make bench-gpu` yet."
    assert figures.checks_table(tmp_path / "gpu-test.json") == "Not measured: no GPU has run `make gpu-test` yet."
