"""`make demo` and Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tests.conftest import ROOT, clean_environment

# The demo, but for its output, which is that of the user.
SCRIPT = "import sys, pathlib, demo.run as run; run.OUTPUT = pathlib.Path(sys.argv[1]); sys.exit(run.main())"
OF_CLIP = (
    "import sys, pathlib, demo.run as run, demo.clip as clip; run.OUTPUT = pathlib.Path(sys.argv[1]); "
    "clip.OUTPUT = pathlib.Path(sys.argv[2]); clip.FRAMES = 'fps:2'; sys.exit(clip.main())"
)


def test_the_demo_ends_with_its_worth_and_a_second_round(frames: list[Path], tmp_path: Path) -> None:
    assert frames
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "out"], cwd=ROOT, env=clean_environment(), capture_output=True,
        text=True, check=False, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    boxes = round(run["selection"]["expected_boxes"])
    of_random = run["selection"]["redundancy"]["random_images"]
    assert of_random > 20
    pattern = (
        rf"20 picks of 250 images\. 20 picks cover this pool as well as {of_random} random images do\. "
        rf"(\d+) near-duplicates of the picks avoided\. {boxes} boxes to label\. \d+ s\."
    )
    found = re.search(pattern, done.stdout)
    assert found, done.stdout
    # Counted from the embeddings themselves.
    table = pq.read_table(tmp_path / "out" / "embeddings.parquet")
    points = np.stack(table["embedding"].to_numpy(zero_copy_only=False)).astype(float)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    first = (tmp_path / "out" / "selected.txt").read_text().splitlines()
    picked = np.isin(table["file_name"].to_pylist(), first)
    nearest = np.linalg.norm(points[~picked][:, None] - points[picked][None], axis=2).min(axis=1)
    assert int(found[1]) == int((nearest < run["selection"]["near_duplicates_within"]).sum())

    command = re.search(r"(  CORAL_LABELLED=(?:.*\\\n)+.*)\nYour own", done.stdout)
    assert command, done.stdout
    again = subprocess.run(["bash", "-c", command[1]], cwd=ROOT, env=clean_environment(), check=False, timeout=300)
    assert again.returncode == 0
    second = (tmp_path / "out-2" / "selected.txt").read_text().splitlines()
    assert len(second) == 20 and not set(first) & set(second)

    # The same clip as a video.
    done = subprocess.run(
        [sys.executable, "-c", OF_CLIP, tmp_path / "out", tmp_path / "of-clip"], cwd=ROOT, env=clean_environment(),
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert len(done.stdout.splitlines()) < 12 and "10 picks of 20 images." in done.stdout
    named = [name.split("-")[1] for name in (tmp_path / "of-clip" / "selected.txt").read_text().split()]
    of_picks = [table["file_name"].to_pylist().index(f"frame-{number}.jpg") for number in named]
    mean = np.linalg.norm(points[:, None] - points[of_picks][None], axis=2).min(axis=1).mean()
    figures = [float(text) for text in re.findall(r"(\d\.\d+) with", done.stdout)]
    assert figures[0] == round(mean, 2) and max(figures[:2]) < figures[2]


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
