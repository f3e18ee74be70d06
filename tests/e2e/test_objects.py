"""The diversity of objects, through entrypoint.py on real frames, against the definition on the full arrays."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from job.select import Objects, select
from tests.conftest import Job, demo_variables
from tests.select.test_objects import naive

OF_IMAGES = {"input": {"type": "EMBEDDINGS"}, "strategy": {"type": "DIVERSITY"}}
OF_OBJECTS = {"input": {"type": "EMBEDDINGS", "task": "objects"}, "strategy": {"type": "DIVERSITY", "strength": 0.5}}


@pytest.fixture(scope="module")
def detected(frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """48 frames, and an empty folder beside them."""
    folder = tmp_path_factory.mktemp("objects")
    (folder / "in").mkdir()
    for frame in frames[::5][:48]:
        shutil.copyfile(frame, folder / "in" / frame.name)
    return folder / "in", folder / "out"


def read_arrays(output: Path) -> tuple[list[str], Any, Objects]:
    """File names, embeddings and objects of the pool, row by row."""
    rows = [row for path in output.glob("parts/part-*.parquet") for row in pq.read_table(path).to_pylist()]
    rows = sorted((row for row in rows if row["status"] == "ok"), key=lambda row: row["key"])
    boxes = np.concatenate([np.array(row["box_features"], np.float64).reshape(-1, 64) for row in rows])
    weights = []
    for probabilities in (of_box for row in rows for of_box in row["class_probabilities"]):
        shares = np.array(probabilities, np.float64) / np.sum(np.array(probabilities, np.float64))
        shares = shares[shares > 0]
        weights.append(float(-(shares * np.log2(shares)).sum() / np.log2(81)))
    counts = np.array([len(row["scores"]) for row in rows])
    objects = Objects(counts, (boxes - boxes.mean(axis=0)).astype(np.float32), np.array(weights), 0.5)
    return [row["key"] for row in rows], np.array([row["feature"] for row in rows], np.float32), objects


def read_picks(output: Path) -> list[str]:
    return (output / "selected.txt").read_text().splitlines()


def test_picks_are_those_of_the_definition_and_say_which_object_made_them(
    detected: tuple[Path, Path], tmp_path: Path, job: Job
) -> None:
    source, output = detected
    labelled = tmp_path / "labelled.txt"
    labelled.write_text("".join(f"{path.name}\n" for path in sorted(source.iterdir())[10:13]))
    options = {"CORAL_LABELLED": labelled, "CORAL_N_SAMPLES": 8, "CORAL_STRATEGY": "coral_objects"}
    done = job(**demo_variables(source, output, **options, CORAL_PART_SIZE=7))
    assert done.returncode == 0, done.stderr
    keys, embeddings, objects = read_arrays(output)
    assert len(keys) == 48 and int(objects.counts.sum()) > 100
    known = [keys.index(name) for name in labelled.read_text().splitlines()]
    expected = [keys[row] for row in naive(embeddings, np.ones(48), objects, 8, 1, known)]
    assert read_picks(output) == expected
    library = select(embeddings, None, 8, strategy="coral_objects", objects=objects, labelled=known, score_strength=0.5)
    assert [keys[row] for row in library.indices] == expected

    lines = [json.loads(line) for line in (output / "selected.jsonl").read_text().splitlines()]
    for line, pick in zip(lines, library.picks, strict=True):
        assert line["factors"]["objects"] == pytest.approx(pick.objects, abs=1e-6)
        assert line["reason"].startswith(("most new object: ", "nothing detected", "no object that differs"))
    assert " from the nearest known one; " in lines[0]["reason"]

    # Parts of another size, another order of the work, and the same as a list: the same picks.
    listed = {**options, "CORAL_STRATEGY": json.dumps([OF_OBJECTS, OF_IMAGES])}
    again = tmp_path / "again"
    done = job(**demo_variables(source, again, **listed, CORAL_PART_SIZE=20))
    assert done.returncode == 0, done.stderr
    assert read_picks(again) == expected
    # The parts of both runs hold the same features.
    assert np.array_equal(read_arrays(again)[2].features, objects.features)  # type: ignore[arg-type]

    # Imported detections have no features: that is said before any work.
    imported = {**options, "CORAL_PREDICTIONS": output, "CORAL_EMBEDDING": output / "embeddings.parquet"}
    done = job("select", **demo_variables(source, tmp_path / "imported", **imported))
    assert done.returncode == 64
    assert "CORAL_STRATEGY compares objects, and predictions from CORAL_PREDICTIONS have no features" in done.stderr
    assert not (tmp_path / "imported").exists()
