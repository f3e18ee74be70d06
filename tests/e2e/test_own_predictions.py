"""Imported predictions with the embeddings of the job: as processes, on real frames with the real demo model."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from job import names
from tests.conftest import Job, demo_variables, start_job
from tests.e2e.test_job import content, parts_of, wait_for_parts


@pytest.fixture(scope="module")
def own(frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run with the job's own detector, and the variables for its predictions as those of somebody else."""
    folder = tmp_path_factory.mktemp("own")
    source, output = folder / "in", folder / "out"
    (source / "sub dir").mkdir(parents=True)
    for number, frame in enumerate(frames[::15]):
        shutil.copyfile(frame, source / ("sub dir" if number % 3 == 0 else ".") / frame.name)
    process = start_job(**demo_variables(source, output))
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    predictions = output / "predictions" / "coco.json"
    given = demo_variables(source, folder / "again", CORAL_PREDICTIONS=predictions, CORAL_PART_SIZE=4)
    return {"source": source, "output": output, "given": given}


@pytest.fixture(scope="module")
def again(own: dict[str, Any]) -> Path:
    """An undisturbed run with these predictions."""
    process = start_job(**own["given"])
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return Path(own["given"]["CORAL_OUTPUT"])


def list_picks(output: Path) -> list[str]:
    return names.parse((output / "selected.txt").read_text())


def read_rows(output: Path) -> dict[str, dict[str, Any]]:
    """The rows of all parts, of which no image has two."""
    rows = [row for path in (output / "parts").glob("part-*") for row in pq.read_table(path).to_pylist()]
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["key"]: row for row in rows}


def coco_without(own: dict[str, Any], absent: set[str], rename: str = "") -> dict[str, Any]:
    """The predictions without some images, and with a prefix before the names of the others."""
    coco: dict[str, Any] = json.loads((own["output"] / "predictions" / "coco.json").read_text())
    coco["images"] = [image for image in coco["images"] if image["file_name"] not in absent]
    for image in coco["images"]:
        image["file_name"] = rename + image["file_name"]
    kept = {image["id"] for image in coco["images"]}
    coco["annotations"] = [box for box in coco["annotations"] if box["image_id"] in kept]
    return coco


def test_the_backbone_alone_gives_the_features_and_the_picks_of_the_run_itself(
    own: dict[str, Any], again: Path
) -> None:
    """The truth is the run with the whole detector: the same features to the last bit, and the same picks."""
    assert (again / "embeddings.parquet").read_bytes() == (own["output"] / "embeddings.parquet").read_bytes()
    assert list_picks(again) == list_picks(own["output"])
    theirs, ours = read_rows(own["output"]), read_rows(again)
    for key, row in theirs.items():
        same = ("etag", "byte_size", "status", "width", "height", "thumbnail", "feature", "classes")
        assert {name: ours[key][name] for name in same} == {name: row[name] for name in same}
        assert ours[key]["scores"] == pytest.approx(row["scores"], abs=1e-6)  # as the COCO file has them
    run = json.loads((again / "run.json").read_text())
    assert run["names"]["predictions"] == {"matched": 17, "unknown": 0, "without": 0}
    assert run["embedding"]["method"] == "detector" and run["device"] == "cpu"
    assert run["detector"]["probabilities"] == "external" and run["detector"]["embedder"].startswith("detector ")


def test_killed_half_way_it_embeds_no_image_twice_and_gives_the_same(
    own: dict[str, Any], again: Path, job: Job, tmp_path: Path
) -> None:
    variables = own["given"] | {"CORAL_OUTPUT": tmp_path / "out"}
    process = start_job(**variables)
    wait_for_parts(tmp_path / "out", 2, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    kept = {name: time for name, time in parts_of(tmp_path / "out").items() if name.endswith(".parquet")}
    assert 2 <= len(kept) < 5
    resumed = job(**variables)
    assert resumed.returncode == 0, resumed.stderr
    assert f"{4 * len(kept)} of 17 images are already finished." in resumed.stderr
    assert kept.items() <= parts_of(tmp_path / "out").items()
    assert len(read_rows(tmp_path / "out")) == 17
    assert content(tmp_path / "out") == content(again)


def test_three_shards_give_the_same(own: dict[str, Any], again: Path, job: Job, tmp_path: Path) -> None:
    variables = own["given"] | {"CORAL_OUTPUT": tmp_path / "out", "CORAL_SHARD_COUNT": 3}
    early = job("select", **variables)
    assert early.returncode == 75 and "3 of 3 shards have not finished yet" in early.stderr
    for index in range(3):
        assert job("predict", **variables, CORAL_SHARD_INDEX=index).returncode == 0
    done = job("select", **variables)
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "out") == content(again)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["names"]["predictions"] == {"matched": 17, "unknown": 0, "without": 0}
    other = job("select", **variables, CORAL_STRATEGY="active_learning")  # needs no embeddings, and no other rows
    assert other.returncode == 0 and len(list_picks(tmp_path / "out")) == 5
    other = job("select", **variables, CORAL_MIN_SIZE=100)
    assert other.returncode == 64 and "(different model of the embeddings)" in other.stderr
    Path(tmp_path / "other.json").write_text(json.dumps(coco_without(own, {"frame-015.jpg"})))
    other = job("select", **variables | {"CORAL_PREDICTIONS": tmp_path / "other.json"})
    assert other.returncode == 64 and "different weights" in other.stderr


def test_damaged_images_and_images_without_predictions_are_rows_with_a_reason(
    own: dict[str, Any], again: Path, job: Job, tmp_path: Path
) -> None:
    shutil.copytree(own["source"], tmp_path / "in")
    picks = list_picks(again)
    broken, absent = sorted({row for row in read_rows(again) if row not in picks and "/" not in row})[:2]
    (tmp_path / "in" / broken).write_bytes((tmp_path / "in" / broken).read_bytes()[:9000])
    (tmp_path / "predictions.json").write_text(json.dumps(coco_without(own, {absent}, "images/")))
    variables = own["given"] | {
        "CORAL_INPUT": tmp_path / "in",
        "CORAL_OUTPUT": tmp_path / "out",
        "CORAL_PREDICTIONS": tmp_path / "predictions.json",
        "CORAL_MAX_FAILED": 0.2,
    }
    done = job(**variables)
    assert done.returncode == 0, done.stderr
    assert "16 names are spelled differently from the files, and are matched" in done.stderr
    failures = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    reasons = {failure["file_name"]: failure["reason"] for failure in failures}
    assert reasons.keys() == {broken, absent}
    assert reasons[broken].startswith("truncated or damaged")
    assert reasons[absent] == "no prediction in CORAL_PREDICTIONS"
    assert list_picks(tmp_path / "out") == picks
    before = parts_of(tmp_path / "out")
    assert job(**variables).returncode == 0 and parts_of(tmp_path / "out") == before
    # An image that was repaired is read, and only that one.
    shutil.copyfile(own["source"] / broken, tmp_path / "in" / broken)
    done = job(**variables)
    assert done.returncode == 0 and "16 of 17 images are already finished." in done.stderr
    assert len((tmp_path / "out" / "failures.jsonl").read_text().splitlines()) == 1


def test_simclr_trains_on_the_thumbnails(own: dict[str, Any], again: Path, job: Job, tmp_path: Path) -> None:
    """The same training on the same thumbnails from the same backbone as with the job's own detections."""
    found = []
    for earlier in (own["output"], again):
        output = tmp_path / earlier.name
        shutil.copytree(earlier / "parts", output / "parts")
        variables = own["given"] | {
            "CORAL_OUTPUT": output, "CORAL_EMBEDDING": "simclr", "CORAL_SSL_EPOCHS": 1, "CORAL_SSL_BATCH_SIZE": 8
        }  # fmt: skip
        if earlier == own["output"]:
            del variables["CORAL_PREDICTIONS"]
        done = job("select", **variables)
        assert done.returncode == 0, done.stderr
        found.append((list_picks(output), pq.read_table(output / "embeddings.parquet").to_pylist()))
    assert found[0] == found[1]


def test_without_predictions_the_embeddings_alone_decide(
    own: dict[str, Any], again: Path, job: Job, tmp_path: Path
) -> None:
    variables = own["given"] | {"CORAL_OUTPUT": tmp_path / "out", "CORAL_PREDICTIONS": "none"}
    done = job(**variables, CORAL_STRATEGY="coreset")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "embeddings.parquet").read_bytes() == (again / "embeddings.parquet").read_bytes()
    assert len(list_picks(tmp_path / "out")) == 5


def test_a_model_of_timm_with_own_predictions_and_beside_the_detector(
    own: dict[str, Any], job: Job, tmp_path: Path
) -> None:
    """The two differ in how an image is resized before the model, and hardly in its embedding."""
    timm: Any = pytest.importorskip("timm", reason="requirements/timm.txt is not installed")
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", pretrained=False, num_classes=0)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "random.safetensors")
    model = {"CORAL_EMBEDDING": "timm:resnet10t", "CORAL_EMBEDDING_WEIGHTS": tmp_path / "random.safetensors"}
    vectors = []
    for name in ("imported", "beside"):
        variables = own["given"] | model | {"CORAL_OUTPUT": tmp_path / name}
        if name == "beside":
            del variables["CORAL_PREDICTIONS"]
        done = job(**variables)
        assert done.returncode == 0, done.stderr
        run = json.loads((tmp_path / name / "run.json").read_text())
        expected = {"method": "timm", "model": "resnet10t", "dimension": 256}
        assert expected.items() <= run["embedding"].items() and run["detector"]["embedder"] == "timm:resnet10t"
        table = pq.read_table(tmp_path / name / "embeddings.parquet")["embedding"].combine_chunks()
        array = table.flatten().to_numpy().reshape(17, 256)
        vectors.append(array / np.linalg.norm(array, axis=1, keepdims=True))
        done = job("select", **variables | {"CORAL_EMBEDDING": "detector", "CORAL_EMBEDDING_WEIGHTS": ""})
        assert done.returncode == 64 and "(different model of the embeddings" in done.stderr
    assert (vectors[0] * vectors[1]).sum(axis=1).min() > 0.999


def test_check_says_what_a_run_would_do(own: dict[str, Any], again: Path, job: Job) -> None:
    done = job("check", "--trial", **own["given"], CORAL_DEVICE="cpu")
    assert done.returncode == 0, done.stderr
    for line in (
        "check device: ok, the CPU with ",
        "check images: ok, 17 images, ",
        "check predictions: ok, 17 of 17 images have an entry in CORAL_PREDICTIONS=",
        "check detector: ok, it embeds the images for CORAL_EMBEDDING='detector', fp32.",
        "check earlier results: ok, 17 of 17 images are finished.",
        "check trial: ok, all 17 images are usable.",
    ):
        assert line in done.stderr, line
    missing = job("check", **own["given"] | {"CORAL_WEIGHTS": "/no/such.weights"})
    assert missing.returncode == 64 and "check detector: failed. CORAL_WEIGHTS='/no/such.weights'" in missing.stderr
