"""`make demo` and Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import ROOT, clean_environment

# The demo, but for its output, which is that of the user.
SCRIPT = "import sys, pathlib, demo.run as run; run.OUTPUT = pathlib.Path(sys.argv[1]); sys.exit(run.main())"


def test_ctrl_c_saves_the_work_of_the_demo(frames: list[Path], tmp_path: Path) -> None:
    assert frames
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, tmp_path / "out"], cwd=ROOT, env=clean_environment(), start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    status = tmp_path / "out" / "status.json"
    deadline = time.monotonic() + 200
    while not (status.exists() and json.loads(status.read_text())["stage"] == "detect"):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    time.sleep(3)
    os.killpg(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=100)
    assert process.returncode == 143, text
    assert "Traceback" not in text and "Run the same command again to resume" in text
    assert json.loads(status.read_text())["state"] == "stopped"
    assert list((tmp_path / "out" / "parts").glob("part-*"))
