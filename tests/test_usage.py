"""What each stage takes adds up to what the process takes."""

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from job import usage as module
from job.usage import OTHER, START, Usage
from tests.conftest import Job
from tests.external import write_own_data

BLOCK_BYTES = 200_000_000


def test_all_seconds_are_those_of_a_stage() -> None:
    begun = time.monotonic()
    used = Usage()
    time.sleep(0.02)
    used.enter("outer")
    time.sleep(0.02)
    used.enter("inner")
    sum(range(2_000_000))
    used.leave("outer")
    time.sleep(0.02)
    used.leave(None)
    time.sleep(0.02)
    stages = used.by_stage()
    assert list(stages) == [START, "outer", "inner", OTHER]
    total = sum(stage.seconds for stage in stages.values())
    assert total == pytest.approx(time.monotonic() - begun, abs=0.01)
    assert stages["outer"].seconds == pytest.approx(0.04, abs=0.015), "without the stage within it"
    assert stages["inner"].cpu_seconds > 0.01 > stages[OTHER].cpu_seconds


def test_memory_belongs_to_the_stage_that_held_it() -> None:
    used = Usage()
    used.enter("before")
    used.enter("large")
    block = np.ones(BLOCK_BYTES, np.uint8)
    del block
    used.enter("after")
    stages = used.by_stage()
    assert stages["large"].peak_bytes - stages["before"].peak_bytes > 0.9 * BLOCK_BYTES
    assert stages["large"].peak_bytes - stages["after"].peak_bytes > 0.9 * BLOCK_BYTES


def test_without_a_writable_proc_the_peak_is_that_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t    2048 kB\n")
    (tmp_path / "clear_refs").mkdir()  # no file can be written here
    monkeypatch.setattr(module, "_PROCESS", tmp_path)
    used = Usage()
    used.enter("a")
    assert {stage.peak_bytes for stage in used.by_stage().values()} == {2 << 20}
    (tmp_path / "status").unlink()
    assert Usage().by_stage()[START].peak_bytes == 0


def test_bytes_from_other_threads_belong_to_the_current_stage() -> None:
    used = Usage()
    used.enter("write")

    def write() -> None:
        for _ in range(1000):
            used.add_written(1)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used.leave(None)
    used.add_written(7)
    assert {name: stage.written_bytes for name, stage in used.by_stage().items()} == {START: 0, "write": 4000, OTHER: 7}


def test_run_json_accounts_for_the_whole_process_and_all_files(job: Job, tmp_path: Path) -> None:
    variables = write_own_data(tmp_path)
    begun = time.monotonic()
    done = job("select", **variables)
    whole = time.monotonic() - begun
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "out/run.json").read_text())
    # Python itself starts before, and ends after: 0.1 s each; this machine may be busy.
    assert whole - 1.5 < sum(run["seconds"].values()) < whole
    assert run["resources"].keys() == run["seconds"].keys()
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    present = sum(path.stat().st_size for path in files if path.name not in ("run.json", "status.json"))
    written = sum(stage["written_bytes"] for stage in run["resources"].values())
    assert present * 0.9 < written < present * 3  # the ledger and the claim are written several times
    assert all(stage["peak_memory_bytes"] > 50e6 for stage in run["resources"].values())
    results = [path for path in files if path.suffix in (".html", ".json", ".jsonl", ".parquet", ".txt")]
    results = [path for path in results if path.name not in ("status.json", "files.json", "owner.json")]
    assert max(results, key=lambda path: path.stat().st_mtime_ns).name == "run.json"
    assert "MB written" in done.stdout
