"""`make demo-video`: runs the job on the clip itself, and compares its picks with those of `make demo`.

The demo's 250 frames were cut out of this clip. Here the job reads it, with five frames of each second.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from demo import fetch, run, summary

OUTPUT = run.ROOT / "demo" / "output-video"
FRAMES = "fps:5"
_LIST = fetch.CACHE / "clip.txt"  # the folder holds other clips
_DRAWS = 50


def environment() -> dict[str, str]:
    """The variables that the run sets: those of the demo, but for the input, the output and the number of picks."""
    changed = {"CORAL_INPUT": _LIST, "CORAL_OUTPUT": OUTPUT}
    return run.environment() | {name: run.shorten(path) for name, path in changed.items()} | {
        "CORAL_FRAMES": FRAMES, "CORAL_N_SAMPLES": "10",
    }  # fmt: skip


def main() -> int:
    """Runs the job quietly; returns its exit code."""
    fetch.fetch()
    _LIST.write_text(f"{fetch.VIDEO.name}\n")
    given = environment()
    print("\nPicking 10 frames of the demo's clip, as the demo picks images. Changed settings:\n")
    changed = dict(sorted(given.items() - run.environment().items()))
    print("\n".join(f"  {name}={value}" for name, value in changed.items()), flush=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CORAL_", "LIGHTLY_"))}
    process = subprocess.Popen(
        [sys.executable, "entrypoint.py"], cwd=run.ROOT, env=kept | given,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the demo
    text, _ = process.communicate()
    if process.returncode:
        print(text)
    else:
        print(f"\n{summary.describe(OUTPUT)}\n{compare(OUTPUT, run.OUTPUT)}")
    return process.returncode


def compare(of_clip: Path, of_frames: Path) -> str:
    """Says how well as many picks of the clip, of its frames and of chance show all frames.

    Args:
        of_clip: Output of the run on the clip.
        of_frames: Output of the demo.
    """
    table = pq.read_table(of_frames / "embeddings.parquet")
    points = np.stack(table["embedding"].to_numpy(zero_copy_only=False)).astype(float)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    names = table["file_name"].to_pylist()
    frames = pq.read_table(of_clip / "images.parquet", columns=["rank", "frame"]).to_pylist()
    picks = [names.index(f"frame-{row['frame']:03d}.jpg") for row in frames if row["rank"]]
    first = [names.index(name) for name in (of_frames / "selected.txt").read_text().split()[: len(picks)]]
    rng = np.random.default_rng(0)
    drawn = [rng.choice(len(names), len(picks), replace=False).tolist() for _ in range(_DRAWS)]
    by_chance = np.mean([_measure(points, rows) for rows in drawn])
    return (
        f"Mean distance of all {len(names)} frames to the nearest of {len(picks)}: {_measure(points, picks):.2f} with "
        f"these picks, {_measure(points, first):.2f} with the first of make demo, {by_chance:.2f} with random frames."
    )


def _measure(points: npt.NDArray[np.float64], rows: list[int]) -> float:
    return float(np.linalg.norm(points[:, None] - points[rows][None], axis=2).min(axis=1).mean())


if __name__ == "__main__":
    sys.exit(main())
