"""How the checks drive the job: the only module of this package that calls the map step.

Everything is measured on whole runs, from files to parts, so that the checks hold whatever the map step is made of.
"""

import hashlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from demo import fetch
from gpu.models import ARCHITECTURES, ROOT
from job import parts
from job.detect import runner
from job.detect.model import Detector
from job.storage import Listing
from job.storage.local import LocalFolder


@dataclass(frozen=True)
class Detections:
    """What a part has about one image.

    Attributes:
        status: Status of the row.
        boxes: (n, 4) corners in pixels.
        scores: (n,) confidences.
        classes: (n,) class indices.
        probabilities: (n, classes + 1) class probabilities, rounded to float16 by the part.
    """

    status: str
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int32]
    probabilities: npt.NDArray[np.float16]


def predict(
    detector: Detector, images: Path, output: Path, *, batch_size: int | None = None, part_size: int = 512
) -> float:
    """Runs the map step, from files to parts, and returns its seconds."""
    source, store = LocalFolder(str(images)), LocalFolder(str(output))
    listing = Listing.from_entries(source.list())
    never = threading.Event()
    start = time.perf_counter()
    runner.predict(listing, source, store, detector, set(), batch_size=batch_size, part_size=part_size, stop=never)
    return time.perf_counter() - start


def read(output: Path) -> dict[str, Detections]:
    """Reads the rows of all parts, by file name."""
    columns = ["key", "status", "boxes", "scores", "classes", "class_probabilities"]
    detections: dict[str, Detections] = {}
    for part in parts.read(LocalFolder(str(output)), columns):
        for row in part.table.to_pylist():
            count = len(row["scores"] or [])
            detections[row["key"]] = Detections(
                row["status"],
                np.array(row["boxes"] or [], np.float32).reshape(count, 4),
                np.array(row["scores"] or [], np.float32),
                np.array(row["classes"] or [], np.int32),
                np.array(row["class_probabilities"] or [], np.float16).reshape(count, -1 if count else 1),
            )
    return detections


def hash_parts(output: Path) -> dict[str, str]:
    """Returns the SHA-256 of each part, by its name."""
    store = LocalFolder(str(output))
    return {entry.key: hashlib.sha256(store.read(entry.key)).hexdigest() for entry in parts.list_files(store)}


def hash_rows(output: Path) -> dict[str, str]:
    """Returns the SHA-256 of each row with all its columns, by file name, however rows are spread over parts."""
    rows = (row for part in parts.read(LocalFolder(str(output))) for row in part.table.to_pylist())
    return {row["key"]: hashlib.sha256(repr(row).encode()).hexdigest() for row in rows}


def make_variables(images: Path, output: Path, device: str, **more: object) -> dict[str, str]:
    """Returns the variables of a run of the whole job with the demo's model."""
    variables = {
        "CORAL_INPUT": images,
        "CORAL_OUTPUT": output,
        "CORAL_MODEL": ARCHITECTURES["yolo"],
        "CORAL_WEIGHTS": fetch.WEIGHTS,
        "CORAL_DEVICE": device,
        "CORAL_LOG_FORMAT": "text",
        **more,
    }
    return {name: str(value) for name, value in variables.items()}


def start_job(command: str, variables: dict[str, str]) -> "subprocess.Popen[str]":
    """Starts the job as a process, with no other settings than the given ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CORAL_", "LIGHTLY_"))}
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    arguments = [sys.executable, "-W", "ignore", "entrypoint.py", command]
    return subprocess.Popen(arguments, cwd=ROOT, env=kept | variables, **streams)


def run_job(command: str, variables: dict[str, str]) -> tuple[int, str, float]:
    """Runs the job as a process; returns its exit code, its output and its seconds."""
    start = time.perf_counter()
    process = start_job(command, variables)
    text, _ = process.communicate()
    print(text, flush=True)  # into the log of the check
    return process.returncode, text, time.perf_counter() - start
