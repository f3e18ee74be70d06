"""Labelled images that are not in CORAL_INPUT: their embeddings in earlier outputs keep the picks at a distance."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from job import names
from tests.conftest import Job, demo_variables, start_job
from tests.external import read_picks, write_own_data


@pytest.fixture(scope="module")
def weeks(frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A finished run on the frames of last week, and a folder with those of this week, under other names."""
    folder = tmp_path_factory.mktemp("weeks")
    for number, frame in enumerate(frames[:: len(frames) // 16]):
        target = folder / ("last" if number % 2 else "this") / frame.name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(frame, target)
    process = start_job(**demo_variables(folder / "last", folder / "out last"))
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    variables = demo_variables(folder / "this", folder / "out this", CORAL_STRATEGY="coreset", CORAL_N_SAMPLES=4)
    process = start_job("predict", **variables)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return {"last": folder / "out last", "variables": variables | {"CORAL_LABELLED": folder / "out last"}}


def read_vectors(output: Path) -> dict[str, Any]:
    table = pq.read_table(output / "embeddings.parquet")
    vectors = np.array(table["embedding"].to_pylist(), np.float64)
    return dict(zip(table["file_name"].to_pylist(), vectors / np.linalg.norm(vectors, axis=1)[:, None], strict=True))


def list_picks(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "selected.jsonl").read_text().splitlines()]


def test_picks_keep_a_distance_to_what_was_labelled_last_week(weeks: dict[str, Any], job: Job) -> None:
    variables, last = weeks["variables"], weeks["last"]
    output = Path(variables["CORAL_OUTPUT"])
    unknown = job(**variables)
    assert unknown.returncode == 64 and "none of them is among the 9 of CORAL_INPUT" in unknown.stderr
    checked = job("check", **variables, CORAL_PREVIOUS=last)
    assert checked.returncode == 0, checked.stderr + checked.stdout
    done = job(**variables, CORAL_PREVIOUS=last)
    assert done.returncode == 0, done.stderr
    for told in (done, checked):
        said = "5 of 5 names are not in CORAL_INPUT. Earlier runs or CORAL_EMBEDDING know 5 of them"
        assert said in told.stderr + told.stdout
    labelled = names.parse((last / "selected.txt").read_text())
    vectors, known = read_vectors(output), read_vectors(last)
    taken = {name: known[name] for name in labelled}
    for pick in list_picks(output):  # the definition of the greedy, word by word
        distance = {
            name: min(np.linalg.norm(vector - other) for other in taken.values())
            for name, vector in vectors.items()
            if name not in taken
        }
        assert pick["file_name"] == max(distance, key=lambda name: distance[name])
        assert pick["distance"] == pytest.approx(distance[pick["file_name"]], abs=1e-5)
        nearest = min(taken, key=lambda name: np.linalg.norm(vectors[pick["file_name"]] - taken[name]))
        assert pick["nearest"] == nearest
        kind = "labelled image" if nearest in labelled else "pick"
        assert f"from the nearest {kind}, {nearest}" in pick["reason"]
        taken[pick["file_name"]] = vectors[pick["file_name"]]
    rows = pq.read_table(output / "images.parquet").to_pylist()
    assert {row["nearest"] for row in rows} & set(labelled)
    counts = json.loads((output / "run.json").read_text())["counts"]
    assert (counts["labelled"], counts["labelled_elsewhere"]) == (0, 5)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"detector": {"weights_sha256": "other"}}, "different weights"),
        ({"embedding": {"method": "simclr"}}, "their embeddings are of the kind 'simclr'"),
        ({"detector": {"schema_version": 0}}, "that run was made by another version of coralpick"),
        (None, "that run has not finished"),
    ],
)
def test_embeddings_that_cannot_be_compared_are_left_out_with_a_warning(
    weeks: dict[str, Any], job: Job, tmp_path: Path, changed: dict[str, dict[str, str]] | None, why: str
) -> None:
    variables, last = weeks["variables"], tmp_path / "last"
    shutil.copytree(weeks["last"], last)
    shutil.copytree(weeks["last"].parent / "out this" / "parts", tmp_path / "out" / "parts")
    if changed is None:
        (last / "_SUCCESS").unlink()
    else:
        run = json.loads((last / "run.json").read_text())
        for name, values in changed.items():
            run[name] |= values
        (last / "run.json").write_text(json.dumps(run))
    done = job("select", **variables | {"CORAL_OUTPUT": tmp_path / "out", "CORAL_PREVIOUS": last})
    assert done.returncode == 0, done.stderr
    assert f"but the picks keep no distance to them: {why}" in done.stderr
    assert list_picks(tmp_path / "out")[0]["nearest"] is None
    counts = json.loads((tmp_path / "out" / "run.json").read_text())["counts"]
    assert counts["labelled_elsewhere"] == 0


def test_damaged_embeddings_are_noticed(weeks: dict[str, Any], job: Job, tmp_path: Path) -> None:
    variables, last = weeks["variables"], tmp_path / "last"
    shutil.copytree(weeks["last"], last)
    shutil.copytree(weeks["last"].parent / "out this" / "parts", tmp_path / "out" / "parts")
    table = pq.read_table(last / "embeddings.parquet")
    shorter = pa.array([vector[:8] for vector in table["embedding"].to_pylist()], pa.list_(pa.float32(), 8))
    pq.write_table(table.set_column(1, "embedding", shorter), last / "embeddings.parquet")
    done = job("select", **variables | {"CORAL_OUTPUT": tmp_path / "out", "CORAL_PREVIOUS": last})
    assert done.returncode == 65 and "its embeddings are not those of run.json" in done.stderr
    data = bytearray((weeks["last"] / "embeddings.parquet").read_bytes())
    data[len(data) // 2] ^= 1
    (last / "embeddings.parquet").write_bytes(data)
    done = job("select", **variables | {"CORAL_OUTPUT": tmp_path / "out", "CORAL_PREVIOUS": last})
    assert done.returncode == 65 and "embeddings.parquet is damaged" in done.stderr


def test_the_file_of_embeddings_knows_labelled_images(job: Job, tmp_path: Path) -> None:
    given = write_own_data(tmp_path)
    (tmp_path / "images.txt").write_text("".join(f"{number}.jpg\n" for number in range(8)))
    content = json.loads((tmp_path / "predictions.json").read_text())
    content["images"] = content["images"][:8]
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] < 8]
    (tmp_path / "predictions.json").write_text(json.dumps(content))
    (tmp_path / "labelled.txt").write_text("9.jpg\nold.jpg\n")
    given |= {"CORAL_LABELLED": tmp_path / "labelled.txt", "CORAL_STRATEGY": "coreset"}
    checked, done = job("check", **given), job("select", **given)
    assert checked.returncode == done.returncode == 0, done.stderr + checked.stderr
    vectors = np.random.default_rng(1).normal(size=(12, 3))[::-1]  # as `write_own_data` has them
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    distance = np.linalg.norm(vectors[:8] - vectors[9], axis=1)
    first = read_picks(tmp_path)[0]
    assert (first["file_name"], first["nearest"]) == (f"{distance.argmax()}.jpg", "9.jpg")
    assert first["distance"] == pytest.approx(distance.max(), abs=1e-5)
