"""`select` in little memory: no stage holds an object for each image, or all of the features or thumbnails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from job import parts
from job import select as library
from job.detect import config
from job.images import make_thumbnail
from job.parts import Provenance, Row, listings
from job.settings.resolve import resolve
from job.shards import Shard
from job.storage import Entry, Listing
from job.storage.local import LocalFolder
from tests.conftest import ROOT, picture

WIDTH = 2048  # of the features: 8 KB for each image in single precision
SMALL, LARGE = 2_000, 20_000
# Runs `select` and writes its exit code, the peak of its memory in megabytes, and which large libraries it imported.
# The stages that look at a sample of a large pool look at less, so that what they take is the same for both sizes.
PROGRAM = """
import json, sys
from pathlib import Path
sys.argv = ["entrypoint.py", "select"]
from job import cli
from job.report import duplicates, projection, space
from job.select import evidence
evidence._MAX_COVERED_IMAGES = projection._MAX_FITTED_POINTS = duplicates._MAX_IMAGES = 500
space.MAX_IMAGES = space.MAX_THUMBNAILS = 100
code = cli.main()
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
loaded = [name for name in ("torch", "detectron2", "lightly") if name in sys.modules]
print("RESULT" + json.dumps([code, peak, loaded]))
"""


def fill(folder: Path, count: int, shards: int = 1, part_size: int = 512) -> dict[str, str]:
    """Writes parts as the map step does with the default model; returns the variables of `select`."""
    variables = {
        "CORAL_INPUT": str(folder.parent),
        "CORAL_OUTPUT": str(folder),
        "CORAL_N_SAMPLES": "20",
        "CORAL_EXPORTS": "yolo",
        "CORAL_LIGHTLY_PREDICTIONS": "0",
        "CORAL_FULL_FEATURES": "1",
        "CORAL_LOG_FORMAT": "text",
    }
    described = config.read(resolve({}, variables))
    made_with = Provenance(described.sha256, "0" * 64, "fp32", "softmax", described.class_names, projection="")
    output, rng = LocalFolder(str(folder)), np.random.default_rng(0)
    classes = len(described.class_names)
    entries = [Entry(f"camera{number % 7}/{number:09d}.jpg", f"{number:032x}", 1000) for number in range(count)]
    thumbnail = make_thumbnail(picture(0, 72, 128))
    vectors = np.abs(rng.normal(size=(50, WIDTH))).astype(np.float16)
    rows: dict[str, Row] = {}
    for number, entry in enumerate(entries):
        boxes = number % 4
        certainty = np.full((boxes, classes + 1), 0.5 / classes, np.float16)
        certainty[:, number % classes] = 0.5
        rows[entry.key] = Row(
            file_name=entry.key, etag=entry.etag, byte_size=entry.size, status="ok", width=128, height=72,
            boxes=np.tile(np.array([1, 2, 50, 60 + number % 9], np.float32), (boxes, 1)),
            scores=np.full(boxes, 0.5, np.float32), classes=np.full(boxes, number % classes, np.int32),
            class_probabilities=certainty, thumbnail=thumbnail,
            box_features=rng.normal(size=(boxes, 64)).astype(np.float16),
            feature=vectors[number % 50] + np.float16(number % 11) * vectors[number % 49] / 16,
        )  # fmt: skip
    for index in range(shards):
        shard = Shard(index, shards)
        listing = Listing.from_entries(entry for entry in entries if shard.owns(entry.key))
        own = [rows[entry.key] for entry in listing]
        for start in range(0, len(own), part_size):
            parts.write(output, own[start : start + part_size], made_with)
        listings.finish(output, shard, listing)
    return variables


def select(variables: dict[str, str]) -> tuple[int, float, list[str], str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CORAL_", "LIGHTLY_"))}
    kept |= {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }
    command = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(command, cwd=ROOT, env=kept | variables, capture_output=True, text=True)
    line = next((line for line in result.stdout.splitlines() if line.startswith("RESULT")), "RESULT[-1, 0, []]")
    code, peak, loaded = json.loads(line.removeprefix("RESULT"))
    return code, peak, loaded, result.stdout[-2000:] + result.stderr[-2000:]


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, str]]:
    folder = tmp_path_factory.mktemp("memory")
    variables = {count: fill(folder / str(count), count) for count in (SMALL, LARGE)}
    for one in variables.values():  # the first run reads the configuration of the detector, and leaves its digest
        code, _, loaded, log = select(one)
        assert code == 0 and loaded, log
    return variables


@pytest.mark.parametrize("strategy", ["coral", "coral_objects"])
def test_memory_grows_by_little_for_each_image(pools: dict[int, dict[str, str]], strategy: str) -> None:
    """The features alone are 8 KB. The same run takes 200 to 240 MB, from time to time, so the limit is not tighter."""
    peaks = {}
    for count, variables in pools.items():
        code, peaks[count], loaded, log = select(variables | {"CORAL_STRATEGY": strategy})
        assert code == 0 and loaded == [], log
    grown = (peaks[LARGE] - peaks[SMALL]) * 2**20 / (LARGE - SMALL)
    assert grown < 5000, (grown, peaks)


@pytest.mark.parametrize(
    ("shards", "part_size", "strategy"),
    [(3, 512, "coral"), (7, 50, "coral"), (1, 33, "coral"), (3, 50, "coral_objects")],
)
def test_how_the_work_was_cut_changes_no_byte(tmp_path: Path, shards: int, part_size: int, strategy: str) -> None:
    whole, cut = fill(tmp_path / "whole", 700), fill(tmp_path / "cut", 700, shards, part_size)
    for variables in (whole, cut):
        shard_count = str(shards if variables is cut else 1)
        code, _, _, log = select(variables | {"CORAL_SHARD_COUNT": shard_count, "CORAL_STRATEGY": strategy})
        assert code == 0, log
    for name in ("selected.csv", "selected.txt", "images.parquet", "embeddings.parquet", "detections.parquet"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name


def test_picks_are_those_of_the_library_on_whole_arrays(tmp_path: Path) -> None:
    code, _, _, log = select(fill(tmp_path / "out", 700))
    assert code == 0, log
    images = pq.read_table(tmp_path / "out/images.parquet")
    column = pq.read_table(tmp_path / "out/embeddings.parquet")["embedding"].combine_chunks()
    embeddings = column.flatten().to_numpy().reshape(len(column), -1)
    selection = library.select(embeddings, images["entropy_sum"].to_numpy(), 20, score_strength=0.5)
    names = images["file_name"].to_pylist()
    assert (tmp_path / "out/selected.txt").read_text().split() == [names[pick.index] for pick in selection.picks]
