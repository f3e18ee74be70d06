"""status.json: the progress of a run, for programs that watch the output."""

import json
import logging
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import pytest

from job.context import Run
from job.errors import SettingsError, Stopped, TooManyFailedImages
from job.parts.owned import OwnedOutput
from job.progress import Progress, now
from job.publish import status
from job.publish.status import Status, file_name
from job.retry import Patience
from job.secret import Secret
from job.shards import Shard
from job.stopping import MESSAGE, Stop
from job.storage import Storage, open_folder
from job.storage.local import LocalFolder
from tests.conftest import S3, Job, demo_variables, picture, settings, start_job
from tests.standins.servers import BUCKET, Fault, FaultProxy, client

FIELDS = {
    "state", "stage", "done", "total", "rate", "eta_s", "failures", "started", "updated", "shard_index", "shard_count",
    "exit_code", "message",
}  # fmt: skip
COUNTS = ("done", "total", "rate", "eta_s")


def read(folder: Path, name: str = "status.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text())
    assert content.keys() == FIELDS
    return content


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Recorder:
    """An output that records every content of its status file."""

    def __init__(self, folder: Path) -> None:
        self.folder = LocalFolder(str(folder))
        self.contents: list[dict[str, Any]] = []

    def write(self, key: str, data: bytes) -> None:
        self.folder.write(key, data)
        self.contents.append(json.loads(data))

    def states(self, *names: str) -> list[tuple[Any, ...]]:
        return [tuple(each[name] for name in names) for each in self.contents]

    def wait(self, **values: Any) -> None:
        """Waits until a content has these values."""
        wait_for(lambda: any(values.items() <= each.items() for each in self.contents))


def status_in(recorder: Recorder, shard: Shard | None = None) -> Status:
    return Status(recorder, shard or Shard())  # type: ignore[arg-type]


def test_it_is_written_when_stages_begin_and_end(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    job = Run(settings(), Stop(), OwnedOutput(recorder.folder))
    with status_in(recorder):
        recorder.wait(state="running", stage=None, exit_code=None)
        with job.stage("list"):
            recorder.wait(stage="list", done=None, failures=0)
        with job.stage("detect"), Progress("Detecting", 4, "image") as progress:
            recorder.wait(stage="detect", total=4, done=0, eta_s=None)
            progress.add(3)
            now.failures += 1
        recorder.wait(stage="detect", done=3, failures=1)
    assert (
        recorder.contents[-1].items() >= {"state": "done", "exit_code": 0, "message": None, "stage": "detect"}.items()
    )
    assert read(tmp_path) == recorder.contents[-1]
    assert len(recorder.contents) < 12
    start, end = (datetime.fromisoformat(recorder.contents[-1][name]) for name in ("started", "updated"))
    assert start.tzinfo and end >= start
    rate, left = recorder.contents[-1]["rate"], recorder.contents[-1]["eta_s"]
    assert rate > 0 and left == pytest.approx(1 / rate)


def test_a_stage_within_another_gives_way_to_it(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    job = Run(settings(), Stop(), OwnedOutput(recorder.folder))
    with status_in(recorder), job.stage("embed"):
        with job.stage("load the detector"), Progress("Downloading the weights", 9, "byte"):
            recorder.wait(stage="load the detector", total=9)
        assert (now.stage, now.progress) == ("embed", None)
        with Progress("Training the embedding", 2, "epoch"):
            pass
    assert recorder.contents[-1]["stage"] == "embed" and recorder.contents[-1]["total"] == 2


def test_between_stages_it_is_written_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_SECONDS_BETWEEN_WRITES", 0.05)
    recorder = Recorder(tmp_path)
    job = Run(settings(), Stop(), OwnedOutput(recorder.folder))
    with status_in(recorder), job.stage("detect"), Progress("Detecting", 10, "image") as progress:
        for count in range(1, 4):
            progress.add()
            recorder.wait(stage="detect", done=count)
    monkeypatch.setattr(status, "_SECONDS_BETWEEN_WRITES", 30.0)
    recorder = Recorder(tmp_path)
    with status_in(recorder):
        recorder.wait(state="running")
        for _ in range(100):
            now.failures += 1
            time.sleep(0.002)
    assert recorder.states("state", "failures") == [("running", 0), ("done", 100)]


@pytest.mark.parametrize(
    ("error", "state", "code", "message"),
    [
        (TooManyFailedImages("Two\nlines."), "failed", 65, "Two lines."),
        (SettingsError("One.", "Two."), "failed", 64, "One. Two."),
        (SettingsError(f"The token {'t0ken' * 3} is wrong."), "failed", 64, "The token *** is wrong."),
        (Stopped(MESSAGE), "stopped", 143, MESSAGE),
        (KeyError("https://u:s3cret@host"), "failed", 70, "Internal error (KeyError): see the log."),
        (KeyboardInterrupt(), "stopped", 130, "Interrupted."),
    ],
)
def test_how_a_run_has_ended(tmp_path: Path, error: BaseException, state: str, code: int, message: str) -> None:
    assert Secret("t0ken" * 3)
    recorder = Recorder(tmp_path)
    job = Run(settings(), Stop(), OwnedOutput(recorder.folder))
    with pytest.raises(type(error)), status_in(recorder), job.stage("score"):
        raise error
    assert recorder.states("state", "exit_code", "message", "stage")[-1] == (state, code, message, "score")


def test_each_shard_has_its_own(tmp_path: Path) -> None:
    with status_in(Recorder(tmp_path), Shard(1, 3)):
        pass
    assert {each.name for each in tmp_path.iterdir()} == {"status-1-of-3.json"}
    content = read(tmp_path, file_name(Shard(1, 3)))
    assert (content["shard_index"], content["shard_count"]) == (1, 3)


class Broken(Recorder):
    """A store that fails in a way of its own, which must not be seen."""

    def write(self, key: str, data: bytes) -> None:
        self.contents.append(json.loads(data))
        raise ValueError("https://u:s3cret@host")


def test_a_fault_of_the_store_is_reported_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Broken(tmp_path)
    job = Run(settings(), Stop(), OwnedOutput(recorder.folder))
    with status_in(recorder):
        for name in ("list", "detect", "score"):
            with job.stage(name):
                recorder.wait(stage=name)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages == ["Cannot write status.json; the run continues without it: ValueError"]


def test_a_store_that_stalls_holds_nothing_up(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_SECONDS_AT_THE_END", 0.5)
    proxy.faults = [Fault("stall", "PUT .*status")]
    output: Storage = open_folder(f"s3://{BUCKET}/stalls", patience=Patience(attempt=3, total=0))
    job = Run(settings(), Stop(), OwnedOutput(output))
    start = time.monotonic()
    with Status(output, Shard()):
        for number in range(20):
            with job.stage(f"{number}"):
                pass
    assert time.monotonic() - start < 2
    assert [each for each in threading.enumerate() if each.name == "status"]  # it is left behind
    wait_for(lambda: proxy.hits)
    proxy.faults = []
    wait_for(lambda: not [each for each in threading.enumerate() if each.name == "status"])
    assert json.loads(output.read("status.json"))["state"] == "done"


@pytest.fixture
def pool(tmp_path: Path, small_rcnn: tuple[Path, Path]) -> dict[str, Any]:
    """The variables of a run on ten pictures, one of which cannot be read."""
    (tmp_path / "in").mkdir()
    for seed in range(9):
        cv2.imwrite(str(tmp_path / "in" / f"{seed}.jpg"), picture(seed, 64, 96))
    (tmp_path / "in" / "wrong.jpg").write_bytes(b"wrong")
    return {
        "CORAL_INPUT": tmp_path / "in", "CORAL_OUTPUT": tmp_path / "out", "CORAL_MODEL": small_rcnn[0],
        "CORAL_WEIGHTS": small_rcnn[1], "CORAL_N_SAMPLES": 3, "CORAL_MAX_FAILED": 0.2, "CORAL_LOG_FORMAT": "json",
    }  # fmt: skip


def watched(process: subprocess.Popen[str], path: Path) -> list[dict[str, Any]]:
    """What a status file says while a process runs, each state once."""
    seen: list[dict[str, Any]] = []
    while process.poll() is None:
        if path.is_file():
            content = read(path.parent, path.name)
            if not seen or content != seen[-1]:
                seen.append(content)
        time.sleep(0.002)
    return seen


def test_a_run_is_reported_from_beginning_to_end(pool: dict[str, Any]) -> None:
    process = start_job(**pool)
    out = Path(pool["CORAL_OUTPUT"])
    seen = watched(process, out / "status.json")
    text, _ = process.communicate()
    assert process.returncode == 0, text
    logged = [json.loads(line) for line in text.splitlines()]
    states = [each["state"] for each in seen]
    assert states == sorted(states, reverse=True), "running, then done"
    stages = list(dict.fromkeys(each["stage"] for each in seen if each["stage"]))
    order = list(json.loads((out / "run.json").read_text())["seconds"])
    assert "load the detector" in stages and "detect" in stages
    assert stages == [each for each in order if each in stages]
    last = read(out)
    assert (last["state"], last["exit_code"], last["message"], last["failures"]) == ("done", 0, None, 1)
    # Log lines name the same things alike.
    progress = [each for each in logged if "eta_s" in each]
    assert [each["stage"] for each in progress] == ["detect"]
    assert progress[-1]["done"] == progress[-1]["total"] == 10 and {"stage", *COUNTS} <= progress[-1].keys() & FIELDS


def test_a_run_that_fails_says_why(pool: dict[str, Any], job: Job) -> None:
    ran = job(**pool | {"CORAL_MAX_FAILED": 0})
    assert ran.returncode == 65
    content = read(Path(pool["CORAL_OUTPUT"]))
    assert (content["state"], content["exit_code"], content["failures"], content["stage"]) == ("failed", 65, 1, "score")
    assert content["message"] == json.loads(ran.stderr.splitlines()[-1])["message"]
    ran = job("select", **pool | {"CORAL_OUTPUT": Path(pool["CORAL_OUTPUT"]) / "new"})
    content = read(Path(pool["CORAL_OUTPUT"]) / "new")
    assert ran.returncode == content["exit_code"] == 75 and "No shard has finished yet" in content["message"]


def test_a_run_that_is_stopped_says_so(frames: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = start_job(**demo_variables(frames[0].parent, output, CORAL_PART_SIZE=5))
    wait_for(lambda: list(output.glob("parts/part-*.parquet")))
    assert read(output).items() >= {"state": "running", "stage": "detect", "total": len(frames)}.items()
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=30)
    assert process.returncode == 143, text
    content = read(output)
    assert (content["state"], content["exit_code"], content["stage"], content["message"]) == (
        "stopped",
        143,
        "detect",
        MESSAGE,
    )
    assert 5 <= content["done"] < content["total"] == len(frames)


def test_each_shard_has_its_own_progress(pool: dict[str, Any], job: Job) -> None:
    out = Path(pool["CORAL_OUTPUT"])
    for index in range(2):
        assert job("predict", CORAL_SHARD_INDEX=index, CORAL_SHARD_COUNT=2, **pool).returncode == 0
    assert job("select", CORAL_SHARD_COUNT=2, **pool).returncode == 0
    shards = [read(out, f"status-{index}-of-2.json") for index in range(2)]
    assert [(each["state"], each["stage"], each["shard_index"]) for each in shards] == [
        ("done", "detect", 0),
        ("done", "detect", 1),
    ]
    assert sum(each["done"] for each in shards) == sum(each["total"] for each in shards) == 10
    assert sum(each["failures"] for each in shards) == read(out)["failures"] == 1
    assert job("predict", CORAL_SHARD_INDEX=0, CORAL_SHARD_COUNT=3, **pool).returncode == 0
    assert sorted(path.name for path in out.glob("status*")) == ["status-0-of-3.json", "status.json"]


def test_a_store_that_refuses_it_gets_the_results_all_the_same(
    pool: dict[str, Any], job: Job, seaweedfs: S3, proxy: FaultProxy
) -> None:
    proxy.faults = [Fault("403", "PUT .*status")]
    ran = job(**pool | {"CORAL_OUTPUT": seaweedfs.uri("refused")})
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stderr.splitlines() if "status.json" in line]
    assert len(lines) == 1 and "the permission s3:PutObject is missing" in lines[0]
    assert len(proxy.hits) > 1
    listed = client(seaweedfs.endpoint).list_objects_v2(Bucket=BUCKET, Prefix="refused/")["Contents"]
    keys = {each["Key"].removeprefix("refused/") for each in listed}
    assert "selected.txt" in keys and "status.json" not in keys
