"""Videos as input of the whole job, with the demo's clip and its real detector."""

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from demo import fetch
from job.video.clip import Clip
from tests.conftest import Job, demo_variables, start_job

EVERY = {"CORAL_FRAMES": "every:10"}
NUMBERS = range(0, 250, 10)
COLUMNS = ["file_name", "num_boxes", "width", "height", "rank", "value", "distance", "nearest"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's clip."""
    fetch.fetch()
    folder = tmp_path_factory.mktemp("clip")
    shutil.copyfile(fetch.VIDEO, folder / "bikes.mp4")
    return folder


@pytest.fixture(scope="module")
def calm(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an undisturbed run."""
    import subprocess
    import sys

    from tests.conftest import ROOT, clean_environment

    output = tmp_path_factory.mktemp("calm") / "out"
    variables = demo_variables(clip, output, CORAL_COPY_SELECTED=1, CORAL_PART_SIZE=4, **EVERY)
    done = subprocess.run(
        [sys.executable, "entrypoint.py"],
        cwd=ROOT, env=clean_environment(**variables), capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 video with CORAL_FRAMES=every:10: 25 frames." in done.stderr + done.stdout
    return output


def rows(output: Path, columns: list[str] = COLUMNS) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(output / "images.parquet", columns=columns).to_pylist()
    return found


def test_frames_are_what_images_cut_from_the_clip_are(calm: Path, tmp_path: Path, job: Job) -> None:
    folder = tmp_path / "cut"
    folder.mkdir()
    reader = cv2.VideoCapture(str(fetch.VIDEO))
    for number in range(250):
        _, image = reader.read()
        if number % 10 == 0:
            cv2.imwrite(str(folder / f"bikes-{number:03}-mp4.png"), image)
    done = job(**demo_variables(folder, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert (calm / "selected.txt").read_bytes() == (tmp_path / "out" / "selected.txt").read_bytes()
    assert rows(calm) == rows(tmp_path / "out")
    for found, expected in zip(rows(calm, ["reason", "time_s"]), rows(tmp_path / "out", ["reason"]), strict=True):
        time = f"; {found['time_s']:.1f} s of bikes.mp4"
        assert found["reason"] == (expected["reason"] and expected["reason"] + time)
    found, expected = (pq.read_table(output / "detections.parquet").to_pylist() for output in (calm, tmp_path / "out"))
    assert found == expected and len(found) > 50


def test_frames_have_columns_and_copies(calm: Path) -> None:
    table = rows(calm, ["file_name", "video", "frame", "time_s"])
    assert [(row["video"], row["frame"], row["time_s"]) for row in table] == [
        ("bikes.mp4", number, pytest.approx(number / 25, abs=0.001)) for number in NUMBERS
    ]
    with fetch.VIDEO.open("rb") as file:
        video = Clip(file)
        for name in (calm / "selected.txt").read_text().split():
            image = cv2.imread(str(calm / "selected" / name))
            number = int(name.split("-")[1])
            assert image is not None and np.array_equal(image, video.read_until(number)[number])


def select_from(predictions: Path, source: Path, output: Path, calm: Path, job: Job, **more: Any) -> Path:
    """Selects from predictions and embeddings of frames as those of somebody else."""
    given = demo_variables(source, output, CORAL_PREDICTIONS=predictions, **EVERY, **more)
    done = job("select", **given | {"CORAL_EMBEDDING": calm / "embeddings.parquet"})
    assert done.returncode == 0, done.stderr
    return output


PLACES = ["file_name", "video", "frame", "time_s", "rank"]


def test_predictions_of_frames_from_elsewhere_have_the_same_places(
    calm: Path, clip: Path, tmp_path: Path, job: Job
) -> None:
    coco = calm / "predictions" / "coco.json"
    output = select_from(coco, clip, tmp_path / "out", calm, job, CORAL_COPY_SELECTED=1)
    assert rows(output, [*PLACES, "reason"]) == rows(calm, [*PLACES, "reason"])
    for name in (output / "selected.txt").read_text().split():
        assert (output / "selected" / name).read_bytes() == (calm / "selected" / name).read_bytes()


def test_predictions_with_other_names_and_a_list_of_videos_keep_picks_apart(
    calm: Path, clip: Path, tmp_path: Path, job: Job
) -> None:
    coco = json.loads((calm / "predictions" / "coco.json").read_text())
    for image in coco["images"]:
        image["file_name"] = "images/" + image["file_name"]
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    shutil.copyfile(clip / "bikes.mp4", tmp_path / "bikes.mp4")
    (tmp_path / "list.txt").write_text("bikes.mp4\ngone.jpg\n")
    more = {"CORAL_MIN_SECONDS": 3, "CORAL_MAX_FAILED": 0.9}
    output = select_from(tmp_path / "coco.json", tmp_path / "list.txt", tmp_path / "out", calm, job, **more)
    assert [(row["video"], row["frame"]) for row in rows(output, PLACES) if row["video"]] == [
        ("bikes.mp4", number) for number in NUMBERS
    ]
    picked = sorted(row["time_s"] for row in rows(output, PLACES) if row["rank"])
    assert len(picked) > 1 and np.diff(picked).min() >= 3 - 1e-6


def test_three_shards_and_then_select_give_the_same(calm: Path, clip: Path, tmp_path: Path, job: Job) -> None:
    variables = demo_variables(clip, tmp_path / "out", CORAL_SHARD_COUNT=3, **EVERY)
    for index in range(3):
        done = job("predict", **variables, CORAL_SHARD_INDEX=index)
        assert done.returncode == 0, done.stderr
    done = job("select", **variables)
    assert done.returncode == 0, done.stderr
    assert (calm / "selected.txt").read_bytes() == (tmp_path / "out" / "selected.txt").read_bytes()
    assert rows(calm) == rows(tmp_path / "out")


def test_a_killed_run_continues_in_the_middle(calm: Path, clip: Path, tmp_path: Path, job: Job) -> None:
    output = tmp_path / "out"
    variables = demo_variables(clip, output, CORAL_PART_SIZE=4, CORAL_COPY_SELECTED=1, **EVERY)
    for parts in (1, 3):
        process = start_job(**variables)
        end = time.monotonic() + 120
        while len(list((output / "parts").rglob("part-*"))) < parts and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = job(**variables)
    assert done.returncode == 0, done.stderr
    for name in ("selected.txt", "selected.csv", "images.parquet", "detections.parquet", "embeddings.parquet"):
        assert (output / name).read_bytes() == (calm / name).read_bytes(), name


def test_videos_that_are_broken_or_cut_are_rows(clip: Path, tmp_path: Path, job: Job) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    data = fetch.VIDEO.read_bytes()
    (folder / "whole.mp4").write_bytes(data)
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])
    (folder / "broken.mov").write_bytes(b"dash cam without power")
    done = job(**demo_variables(folder, tmp_path / "out", CORAL_MAX_FAILED=0.9, CORAL_FRAMES="every:25"))
    assert done.returncode == 0, done.stderr
    failures = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    reasons = {failure["file_name"]: failure["reason"] for failure in failures}
    assert reasons["broken.mov"].startswith("it is no video that can be read (")
    good = [row["file_name"] for row in rows(tmp_path / "out", ["file_name", "status"]) if row["status"] == "ok"]
    assert sum(name.startswith("whole") for name in good) == 10
    assert all(name.startswith("cut") or name == "broken.mov" for name in reasons)


def test_picks_are_balanced_over_videos(clip: Path, tmp_path: Path, job: Job) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copyfile(fetch.VIDEO, folder / name)
    balance = [
        {"input": {"type": "METADATA", "key": "video"}, "strategy": {"type": "BALANCE", "distribution": "UNIFORM"}}
    ]
    done = job(
        **demo_variables(folder, tmp_path / "out", CORAL_FRAMES="every:50", CORAL_STRATEGY=json.dumps(balance))
        | {"CORAL_N_SAMPLES": 4}
    )
    assert done.returncode == 0, done.stderr
    names = (tmp_path / "out" / "selected.txt").read_text().split()
    assert sorted(name[0] for name in names) == ["a", "a", "b", "b"]


def test_picks_of_a_video_keep_a_distance_in_time(calm: Path, clip: Path, tmp_path: Path, job: Job) -> None:
    """The clip has 10 s, so with 3 s between picks there is room for three or four of the five."""
    given = demo_variables(clip, tmp_path / "out", CORAL_MIN_SECONDS=3, CORAL_PREVIOUS=calm, **EVERY)
    done = job(**given | {"CORAL_N_SAMPLES": 5})
    assert done.returncode == 0, done.stderr
    picked = sorted(row["time_s"] for row in rows(tmp_path / "out", ["time_s", "rank"]) if row["rank"])
    assert len(picked) in (3, 4) and np.diff(picked).min() >= 3 - 1e-6
    assert "CORAL_MIN_SECONDS allows" in done.stderr


def test_a_wrong_rule_is_a_sentence(clip: Path, tmp_path: Path, job: Job) -> None:
    done = job(**demo_variables(clip, tmp_path / "out", CORAL_FRAMES="2fps"))
    assert done.returncode == 64
    assert "CORAL_FRAMES" in done.stderr and "fps:N (N frames per second)" in done.stderr
