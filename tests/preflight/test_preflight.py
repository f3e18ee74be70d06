"""`check`: what a run needs, and each way in which it can be missing."""

import errno
import json
import os
import re
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from job import limits, preflight
from job.detect import gpu
from job.detect.model import Detector
from job.errors import AccessDenied, JobError, ServiceUnavailable, SettingsError, Stopped
from job.lightly import transport
from job.preflight import inputs, machine, plan, trial
from job.preflight import output as stores
from job.preflight.check import Check, Finding, Findings, State, Warn, format_bytes
from job.retry import Patience
from job.settings import Settings
from job.settings.resolve import resolve
from job.shards import Shard
from job.stopping import Stop
from job.storage import Entry, Listing, open_folder
from tests.conftest import S3, SMALL_RCNN, Job, demo_variables, picture, random_checkpoint, settings
from tests.detect.test_gpu import H100
from tests.external import write_own_data
from tests.standins.lightly_server import TOKEN, LightlyServer
from tests.standins.servers import BUCKET, LISTER, READER, Fault, FaultProxy
from tests.video.clips import draw, write_video

Variables = dict[str, str]


def known(ours: Settings | None = None, environment: Variables | None = None, **found: Any) -> State:
    return State(ours or settings(), Stop(), dict(os.environ) if environment is None else environment, **found)


def tried(check: Callable[[State], Iterator[Finding]], what: State) -> list[Finding]:
    """All that a check says, with what it raises at the end."""
    said: list[Finding] = []
    try:
        for each in check(what):
            said.append(each)  # noqa: PERF402  # what comes before an error counts
    except JobError as error:
        said.append(error)
    return said


def only(check: Callable[[State], Iterator[Finding]], what: State, kind: type = str) -> str:
    """The one thing that a check says."""
    (said,) = tried(check, what)
    assert type(said) is kind, said
    return str(said)


def listing(count: int = 30) -> Listing:
    return Listing.from_entries(Entry(f"{number:03}.jpg", "", 1000) for number in range(count))


def test_check_tries_everything_and_leaves_nothing(few_frames: Path, tmp_path: Path, job: Job) -> None:
    done = job("check", **demo_variables(few_frames, tmp_path / "new" / "out"), CORAL_DEVICE="cpu")
    assert done.returncode == 0, done.stderr
    for line in (
        f"device: ok, the CPU with {os.cpu_count()} cores",
        "memory: ok, ",
        "temporary files: ok, ",
        f"output: ok, {tmp_path}/new/out allows listing, reading, writing, overwriting and deleting.",
        "shard: ok, this process runs all images.",
        "images: ok, 12 images, ",
        "detector: ok, 80 classes (person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, "
        "traffic light ...), class probabilities: native, fp32.",
        "disk: ok, ",
        "lightly: ok, no token is set, so nothing is uploaded.",
        "run: ok, it would use 12 images (",
        f"kB), pick 5 by coral with entropy_sum, and write to {tmp_path}/new/out.",
    ):
        assert line in done.stderr, line
    assert "warning" not in done.stderr and "trial" not in done.stderr
    assert {each.name for each in tmp_path.iterdir()} == {"in"}


def test_check_tells_all_that_fails_and_ends_with_the_first(few_frames: Path, tmp_path: Path, job: Job) -> None:
    (tmp_path / "empty").mkdir()
    wrong = {"CORAL_WEIGHTS": tmp_path / "none.pth", "CORAL_DEVICE": "cuda:99", "SLURM_ARRAY_TASK_ID": "x"}
    done = job(
        "check", "--trial", **demo_variables(tmp_path / "empty", tmp_path / "out") | wrong, CORAL_LOG_FORMAT="json"
    )
    assert done.returncode == 69  # of the device, which is checked first
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    outcomes = {line["check"]: (line["outcome"], line["message"]) for line in lines if "check" in line}
    assert {name for name, (outcome, _) in outcomes.items() if outcome == "failed"} == {
        *("device", "shard", "images", "detector")
    }
    assert outcomes["device"][1].startswith("check device: failed. CORAL_DEVICE='cuda:99': ")
    assert outcomes["output"][0] == outcomes["lightly"][0] == "ok" and outcomes["trial"][0] == "warning"
    assert lines[-1]["message"] == f"4 of {len(outcomes)} checks failed."


def test_the_first_failure_decides_the_exit_code(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing right on the output comes before a wrong input."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write anywhere
    ours = settings(input=str(tmp_path / "none"), output=str(tmp_path / "out"), model="none.yaml")
    with pytest.raises(AccessDenied, match="checks failed"):
        preflight.run_checks(ours, Stop(), {})
    assert "check images: failed." in caplog.text and "check detector: failed." in caplog.text


def list_errors(kind: type[JobError] = JobError) -> list[type[JobError]]:
    assert transport.Refused in ServiceUnavailable.__subclasses__()  # all rooms that have errors are imported
    return [kind, *(below for subclass in kind.__subclasses__() for below in list_errors(subclass))]


@pytest.mark.parametrize("kind", list_errors())
def test_an_error_of_every_kind_decides_the_exit_code(
    kind: type[JobError], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(state: State) -> Findings:
        raise kind("It is wrong.")
        yield

    monkeypatch.setattr(preflight, "CHECKS", [Check("it", fail, in_run=True)])
    with pytest.raises(kind) as raised:
        preflight.run_checks(settings(input=str(tmp_path), output=str(tmp_path / "out")), Stop(), {})
    assert raised.value.exit_code == kind.exit_code
    assert str(raised.value) == "1 of 1 checks failed."


def test_each_problem_of_a_check_is_a_line(few_frames: Path, tmp_path: Path, job: Job) -> None:
    pq.write_table(pa.table({"file_name": ["a.jpg"]}), tmp_path / "predictions.parquet")
    variables = demo_variables(few_frames, tmp_path / "out", CORAL_PREDICTIONS=tmp_path / "predictions.parquet")
    done = job("check", **variables)
    lines = [line for line in done.stderr.splitlines() if "check predictions: failed. " in line]
    assert done.returncode == 64 and [line.partition("no column ")[2].partition(".")[0] for line in lines] == [
        *("boxes", "scores", "classes")
    ]
    assert "1 of " in done.stderr and "\\n" not in done.stderr


def test_a_run_makes_the_checks_of_check_before_its_work(few_frames: Path, tmp_path: Path, job: Job) -> None:
    """What `check` finds wrong ends a run, too: with the same words, and before the detector is loaded."""
    (tmp_path / "a.csv").write_text("file_name,x\nnone of them.jpg,1\n")
    variables = demo_variables(few_frames, tmp_path / "out", CORAL_DEVICE="cpu", CORAL_EMBEDDING=tmp_path / "a.csv")
    wrong = [tmp_path / "no folder", tmp_path / "a.csv"]
    for name, value in (("CORAL_LABELLED", wrong[0]), ("CORAL_PREVIOUS", wrong[0]), ("CORAL_EMBEDDING", wrong[1])):
        given = variables | {"CORAL_EMBEDDING": "detector", name: value}
        checked, ran = job("check", **given), job(**given)
        assert checked.returncode == ran.returncode == 64
        (said,) = [line for line in checked.stderr.splitlines() if ": failed. " in line]
        assert said.partition(": failed. ")[2] in ran.stderr


def test_check_names_a_class_that_does_not_exist(few_frames: Path, tmp_path: Path, job: Job) -> None:
    wrong = {"CORAL_CLASS_WEIGHTS": "bycicle=2", "CORAL_DEVICE": "cpu"}
    done = job("check", **demo_variables(few_frames, tmp_path / "out"), **wrong)
    assert done.returncode == 64 and "check classes: failed. CORAL_CLASS_WEIGHTS names 'bycicle'" in done.stderr
    wrong = {"CORAL_EXPORT_CLASSES": "bycicle=bike", "CORAL_DEVICE": "cpu"}
    done = job("check", **demo_variables(few_frames, tmp_path / "out", **wrong))
    assert done.returncode == 64 and "check classes: failed. CORAL_EXPORT_CLASSES names 'bycicle'" in done.stderr
    assert "did you mean bicycle?" in done.stderr


def test_objects_need_a_model_whose_boxes_have_features(demo_detector: Detector) -> None:
    of_objects = settings(strategy="coral_objects")
    found = known(of_objects, detector=demo_detector)
    assert tried(plan.objects, found) == ["the detector has the features of boxes that CORAL_STRATEGY compares"]
    unknown = replace(demo_detector, probabilities="synthetic")  # as of a model of an unknown class
    (error,) = tried(plan.objects, known(of_objects, detector=unknown))
    assert isinstance(error, SettingsError)
    assert "CORAL_STRATEGY compares objects, and their boxes have no features" in str(error)
    assert tried(plan.objects, known(detector=unknown)) == []


@pytest.mark.parametrize("variable", ["CORAL_EXPORT_CLASSES", "CORAL_CLASS_WEIGHTS"])
def test_check_and_run_know_the_classes_of_predictions(tmp_path: Path, job: Job, variable: str) -> None:
    value = {"CORAL_EXPORT_CLASSES": "cat=animal", "CORAL_CLASS_WEIGHTS": "cat=2"}
    given = write_own_data(tmp_path) | {variable: value[variable]}
    for command in ("check", "select"):
        done = job(command, **given)
        assert done.returncode == 64 and f"{variable} names 'cat', which is not a class" in done.stderr
    assert not (tmp_path / "out" / "selected.txt").exists()
    done = job("check", **given | {variable: value[variable].replace("cat", "dog")})
    assert done.returncode == 0 and f"check classes: ok, the detector has the classes of {variable}" in done.stderr


def test_check_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> Any:
        raise Stopped("as asked")

    monkeypatch.setattr(inputs, "open_source", stop)
    with pytest.raises(Stopped):
        preflight.run_checks(settings(output=str(tmp_path / "out")), Stop(), {})
    monkeypatch.setattr(stores._Probe, "read", stop)
    with pytest.raises(Stopped):
        preflight.run_checks(settings(output=str(tmp_path / "out")), Stop(), {})
    assert list(tmp_path.iterdir()) == []


def test_the_options_of_check_are_its_own(job: Job) -> None:
    shown = job("check", "--help").stdout
    assert re.search(r"Options:\n +--trial .*\n(.*\n)? +--price-per-hour X ", shown)
    assert "--trial" not in job("--help").stdout + job("run", "--help").stdout
    assert job("--trial").returncode == 64
    wrong = job("check", "--price-per-hour", "3", CORAL_INPUT="in", CORAL_OUTPUT="out")
    assert wrong.returncode == 64 and "needs --trial" in wrong.stderr


# The device


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "inspect", lambda: H100)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (70 << 30, 79 << 30))
    said = only(machine.device, known())
    assert said == (
        "NVIDIA H100 of compute capability 9.0, driver 580.95.05 for CUDA up to 13.0, torch for CUDA 13.0, "
        "70.0 of 79.0 GiB free"
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 << 30, 79 << 30))
    assert "3.0 of 79.0 GiB free: find out with nvidia-smi who uses the rest" in only(machine.device, known(), Warn)

    def broken(_: Any) -> Any:
        raise torch.AcceleratorError("busy")

    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    assert "GPU error (busy)" in only(machine.device, known(), ServiceUnavailable)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu() -> None:
    assert "There is no NVIDIA GPU" in only(machine.device, known(), Warn)
    assert "cores" in only(machine.device, known(settings(device="cpu")))
    assert "forbids falling back to the CPU" in only(
        machine.device, known(settings(require_gpu=True)), ServiceUnavailable
    )


# Memory, temporary files and disks

GIB = 1 << 30


def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "memory_limit", lambda: 2 * GIB)
    assert only(machine.memory, known(), Warn).startswith("2.0 GiB of memory, but images that wait for the detector")
    monkeypatch.setattr(limits, "memory_limit", lambda: 3 * GIB)
    assert only(machine.memory, known()) == "3.0 GiB of memory"


def test_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)  # as in a new process
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert only(machine.temporary_files, known()) == f"{tmp_path} is writable"
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    assert only(machine.temporary_files, known(), Warn).startswith(
        f"{tmp_path}/none is not writable, so temporary files go to"
    )
    monkeypatch.setattr(tempfile, "tempdir", None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # no file may hold anything, as on full disks
    try:
        said = tried(machine.temporary_files, known())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [type(each) for each in said] == [ServiceUnavailable]
    assert "No temporary file can be written" in str(said[0]) and "mount a writable /tmp" in str(said[0])


def test_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert tried(machine.disk, known()) == []
    ours = settings(output=str(tmp_path / "new" / "out"), weights="/model.pth")
    assert "free in " in only(machine.disk, known(ours, listing=listing()))
    ours = settings(output="/proc/out", weights="/model.pth")  # a file system without room
    said = only(machine.disk, known(ours, listing=listing(1000)), Warn)
    assert said == (
        "0 bytes are free in /proc/out; the results will take about 40 MB: free some space, or set CORAL_OUTPUT to "
        "another folder."
    )
    assert tried(machine.disk, known(settings(output="s3://b/out", weights="/a"), listing=listing())) == []
    (said,) = map(str, tried(machine.disk, known(settings(output="s3://b/out"), listing=listing())))
    assert f"free in {tmp_path}/hub; the checkpoint will take about 1 GB" in said


def test_amounts() -> None:
    assert [format_bytes(each) for each in (0, 999, 1500, 40_000_000, 1.25e9, 2e12)] == [
        *("0 bytes", "999 bytes", "1.5 kB", "40 MB", "1.25 GB", "2 TB")
    ]


# The output


def rights(uri: str) -> list[Finding]:
    return tried(stores.output, known(settings(output=uri)))


def named(said: list[Finding]) -> list[str]:
    """Which of S3's rights are said to be missing."""
    assert all(type(each) is AccessDenied for each in said), said
    return [right for each in said for right in re.findall(r"permission (s3:\w+) is missing", str(each))]


@pytest.mark.parametrize(
    ("identity", "missing"),
    [
        (READER, ["s3:PutObject", "s3:DeleteObject"]),
        (LISTER, ["s3:PutObject", "s3:GetObject", "s3:DeleteObject"]),
    ],
)
def test_each_missing_right_is_named(
    seaweedfs: S3, monkeypatch: pytest.MonkeyPatch, identity: Variables, missing: list[str]
) -> None:
    for name, value in identity.items():
        monkeypatch.setenv(name, value)
    said = rights(seaweedfs.uri("checked"))
    assert named(said) == missing
    assert all("Grant the job's credentials this permission." in str(each) for each in said)


def test_nothing_stays_in_a_bucket(seaweedfs: S3, proxy: FaultProxy) -> None:
    what = known(settings(output=seaweedfs.uri("checked")))
    assert only(stores.output, what) == (
        f"s3://{BUCKET}/checked allows listing, reading, writing, overwriting and deleting"
    )
    assert what.output is not None and list(what.output.list()) == []
    proxy.faults = [Fault("403", r"GET /\w+\?")]
    assert named(rights(seaweedfs.uri("checked"))) == ["s3:ListBucket"]
    proxy.faults = [Fault("pass", "PUT", times=1), Fault("403", "PUT")]  # a store that lets nothing be overwritten
    assert named(rights(seaweedfs.uri("checked"))) == ["s3:PutObject"]
    assert list(what.output.list()) == []
    proxy.faults = [Fault("403", "DELETE")]
    (said,) = rights(seaweedfs.uri("checked"))
    assert named([said]) == ["s3:DeleteObject"]
    proxy.faults = []
    (left,) = what.output.list()
    assert f"{left.key} remains in the output." in str(said)
    what.output.delete(left.key)


def test_what_concerns_the_whole_store_is_told_once(
    seaweedfs: S3, moto: S3, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    (said,) = rights(f"s3://{BUCKET}/rights")
    assert type(said) is AccessDenied and "renew or correct them." in str(said)
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.endpoint)
    (said,) = rights("s3://nowhere/rights")
    assert type(said) is SettingsError and "there is no such bucket" in str(said)
    monkeypatch.setattr(stores, "PATIENCE", Patience(attempt=0.5, total=1))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    (said,) = rights("s3://nowhere/rights")
    assert type(said) is ServiceUnavailable


def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    folder = "/sys/coral"  # which even root cannot write
    if os.geteuid():
        folder = str(tmp_path / "out")
        Path(folder).mkdir(mode=0o500)
    said = rights(folder)
    assert type(said[0]) is AccessDenied
    assert f"{folder}" in str(said[0]) and f"Allow user {os.getuid()} to do that" in str(said[0])


# The clock


def test_the_clock_is_compared(seaweedfs: S3, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = settings(input=seaweedfs.uri("in"), output=seaweedfs.uri("out"))
    host = proxy.endpoint.removeprefix("http://")
    assert only(stores.clock, known(ours)) == f"it agrees with the clock of {host}"
    for minutes, said in (
        (-20, f"The clock is 20 minutes ahead of that of {host}"),
        (6, "The clock is 6 minutes behind that of"),
    ):
        shown = formatdate(time.time() + 60 * minutes, usegmt=True)
        monkeypatch.setattr(proxy._server.RequestHandlerClass, "date_time_string", lambda _, text=shown: text)
        assert said in only(stores.clock, known(ours), Warn)
    monkeypatch.setattr(proxy._server.RequestHandlerClass, "date_time_string", lambda _: "noon")
    assert "sent no Date header (ValueError)" in only(stores.clock, known(ours), Warn)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "127.0.0.1:9 sent no Date header (ConnectionError)" in only(stores.clock, known(ours), Warn)
    assert tried(stores.clock, known(settings())) == []


AGREES = "it agrees with the clock of "


def test_where_stores_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_measure_skew", lambda _: 0.0)
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)

    def hosts(source: str, output: str, **environment: str) -> list[Finding]:
        return tried(stores.clock, known(settings(input=source, output=output), environment))

    assert hosts("s3://a/b", "gs://a/b", AWS_REGION="eu-west-1") == [
        *(
            "it agrees with the clock of s3.eu-west-1.amazonaws.com",
            "it agrees with the clock of storage.googleapis.com",
        )
    ]
    assert hosts("az://a/b", "/out", AZURE_STORAGE_ACCOUNT_NAME="me") == [
        "it agrees with the clock of me.blob.core.windows.net"
    ]
    assert hosts("az://a/b", "/out", AZURE_STORAGE_ENDPOINT="http://u:p@127.0.0.1:1/me") == [
        "it agrees with the clock of 127.0.0.1:1"
    ]
    assert hosts("az://a/b", "/out") == []
    monkeypatch.setenv("AWS_PROFILE", "of-nobody")
    assert hosts("s3://a/b", "/out") == []


# The images


@pytest.mark.parametrize(
    ("given", "environment", "said"),
    [
        ({}, {}, ["this process runs all images"]),
        ({"shard_index": 1, "shard_count": 3}, {}, ["1 of 3, from CORAL_SHARD_INDEX"]),
        (
            {"shard_index": 1, "shard_count": 3},
            {"JOB_COMPLETION_INDEX": "0"},
            ["1 of 3, from CORAL_SHARD_INDEX; JOB_COMPLETION_INDEX is ignored"],
        ),
        (
            {},
            {"AWS_BATCH_JOB_ARRAY_INDEX": "2", "AWS_BATCH_JOB_ARRAY_SIZE": "4"},
            ["2 of 4, from AWS_BATCH_JOB_ARRAY_INDEX (AWS Batch)"],
        ),
        ({"shard_count": 4}, {"JOB_COMPLETION_INDEX": "3"}, ["3 of 4, from JOB_COMPLETION_INDEX (Kubernetes)"]),
        (
            {},
            {"CLOUD_RUN_TASK_COUNT": "5"},
            [
                "this process runs all images",
                "CLOUD_RUN_TASK_COUNT=5 (Cloud Run) is set, but CLOUD_RUN_TASK_INDEX is not, so every process would "
                "run all images: set CLOUD_RUN_TASK_INDEX, or CORAL_SHARD_INDEX and CORAL_SHARD_COUNT.",
            ],
        ),
    ],
)
def test_which_shard_this_is(given: dict[str, Any], environment: Variables, said: list[str]) -> None:
    found = tried(inputs.shard, known(settings(**given), environment))
    assert found == said
    assert [type(each) for each in found] == [str, *[Warn] * (len(said) - 1)]


@pytest.mark.parametrize(
    ("given", "environment"),
    [({"shard_index": 1}, {}), ({"shard_count": 3}, {}), ({}, {"JOB_COMPLETION_INDEX": "0"})],
)
def test_half_a_pair_that_ends_a_run_fails_here(given: dict[str, Any], environment: Variables) -> None:
    what = known(settings(**given), environment)
    assert "CORAL_SHARD_COUNT" in only(inputs.shard, what, SettingsError)
    assert what.shard == Shard()


def test_images(few_frames: Path, tmp_path: Path, seaweedfs: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    what = known(settings(input=str(few_frames)))
    assert re.fullmatch(r"12 images, [\d.]+ kB", only(inputs.images, what))
    assert what.listing is not None and len(what.listing) == 12
    lines = [json.dumps({"uri": f"/far/{number}.jpg", "etag": "x", "size": 5_000_000}) for number in range(3000)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    assert only(inputs.images, known(settings(input=str(tmp_path / "list.jsonl")))) == "3000 images, 15 GB"
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "drive.mp4", [draw(number) for number in range(60)])
    videos = settings(input=str(tmp_path / "videos"))
    assert only(inputs.images, known(videos)) == "3 images, 3 of them frames of videos (CORAL_FRAMES=fps:1)"
    (tmp_path / "empty").mkdir()
    assert "holds no images or videos" in only(
        inputs.images, known(settings(input=str(tmp_path / "empty"))), SettingsError
    )
    empty = next(Shard(i, 200) for i in range(200) if not any(map(Shard(i, 200).owns, (e.key for e in what.listing))))
    assert "use fewer shards" in only(inputs.images, known(settings(input=str(few_frames)), shard=empty), Warn)
    frame = next(few_frames.glob("*.jpg")).read_bytes()
    open_folder(seaweedfs.uri("denied")).write("a.jpg", frame)
    for name, value in LISTER.items():
        monkeypatch.setenv(name, value)
    said = only(inputs.images, known(settings(input=seaweedfs.uri("denied"))), AccessDenied)
    assert "the permission s3:GetObject is missing" in said


def test_the_labelled_list(tmp_path: Path) -> None:
    path = tmp_path / "labelled.txt"
    path.write_text("000.jpg\n001.jpg\n")
    ours = settings(labelled=str(path))
    assert only(inputs.labelled, known(ours, listing=listing())) == "2 images are labelled"
    path.write_text("000.jpg\nold.jpg\n")
    said, warned = tried(inputs.labelled, known(ours, listing=listing()))
    assert said == "1 image is labelled" and type(warned) is Warn and "1 of 2 names are not in CORAL_INPUT" in warned
    assert tried(inputs.labelled, known(ours, listing=listing(), is_run=True)) == [said], "`select` warns"
    path.write_text("none.jpg\n")
    said = only(inputs.labelled, known(ours, listing=listing()), SettingsError)
    assert "none of them is among the 30 of CORAL_INPUT" in said and "'none.jpg'" in said and "'000.jpg'" in said
    ours = settings(labelled=str(path), allow_missing=True)
    said, warned = tried(inputs.labelled, known(ours, listing=listing()))
    assert said == "0 images are labelled" and "1 of 1 names are not in CORAL_INPUT" in str(warned), "as in `select`"
    assert tried(inputs.labelled, known(ours)) == tried(inputs.labelled, known(listing=listing())) == []


def test_the_images_of_similarity() -> None:
    def ours(*images: str) -> Settings:
        entries = [{"input": {"type": "EMBEDDINGS"}, "strategy": {"type": "SIMILARITY", "images": images}}]
        return settings(strategy=json.dumps(entries))

    said, respelled = tried(inputs.similar_images, known(ours("./000.jpg", "001.jpg"), listing=listing()))
    assert said == "CORAL_STRATEGY names 2 images for SIMILARITY" and "'./000.jpg' is '000.jpg'" in str(respelled)
    wrong = only(inputs.similar_images, known(ours("000.jpg", "001.JPG"), listing=listing()), SettingsError)
    assert "names '001.JPG', which is not a usable image in CORAL_INPUT. 1 of 1 such names differ" in wrong
    assert tried(inputs.similar_images, known(ours("no.jpg"), listing=listing(), shard=Shard(0, 2))) == []


# What a run works with


def test_weights_of_another_shape(small_rcnn: tuple[Path, Path], tmp_path: Path) -> None:
    yaml, weights = small_rcnn
    what = known(settings(model=str(yaml), weights=str(weights), device="cuda:9", require_gpu=True))
    assert only(plan.detector, what) == (
        "5 classes (class 0, class 1, class 2, class 3, class 4), class probabilities: softmax, fp32"
    )
    other = tmp_path / "other.yaml"
    other.write_text(SMALL_RCNN.replace("NUM_CLASSES: 5", "NUM_CLASSES: 7"))
    wrong = random_checkpoint(other, tmp_path / "other.pth")
    said = only(plan.detector, known(settings(model=str(yaml), weights=str(wrong))), SettingsError)
    assert "The weights do not fit the model: " in said and "has shape (8, 64), but the model needs (6, 64)" in said
    said = only(plan.detector, known(settings(model=str(yaml), weights=str(tmp_path / "none"))), SettingsError)
    assert "there is no such file" in said


@pytest.fixture
def pool(tmp_path: Path, small_rcnn: tuple[Path, Path]) -> Settings:
    """A pool of 40 images, of which every fifth cannot be read."""
    (tmp_path / "in").mkdir()
    for number in range(40):
        path = tmp_path / "in" / f"{number:02}.jpg"
        if number % 5 == 2:
            path.write_bytes(b"no image")
        else:
            cv2.imwrite(str(path), picture(number, 60, 80))
    yaml, weights = small_rcnn
    return settings(
        input=str(tmp_path / "in"), output=str(tmp_path / "out"), model=str(yaml), weights=str(weights), device="cpu"
    )


def with_detector(ours: Settings, **found: Any) -> State:
    what = known(ours, **found)
    for each in (stores.output, inputs.images, plan.detector):
        assert type(only(each, what)) is str
    return what


def test_results_of_an_earlier_run(pool: Settings, job: Job) -> None:
    given = {
        "CORAL_INPUT": pool.input, "CORAL_OUTPUT": pool.output, "CORAL_MODEL": pool.model, "CORAL_MAX_FAILED": 1,
        "CORAL_WEIGHTS": pool.weights, "CORAL_DEVICE": "cpu",
    }  # fmt: skip
    assert tried(plan.earlier_results, with_detector(pool)) == []
    assert job("predict", **given).returncode == 0
    cv2.imwrite(f"{pool.input}/new.jpg", picture(99, 60, 80))
    what = with_detector(pool)
    assert only(plan.earlier_results, what) == "40 of 41 images are finished" and what.num_done == 40
    other = resolve({}, {name: str(value) for name, value in given.items()} | {"CORAL_SCORE_THRESHOLD": "0.5"})
    assert "holds results of other settings" in only(plan.earlier_results, with_detector(other), SettingsError)
    (said, _) = tried(trial.Trial(None).estimate, what)
    assert re.search(r": 1 unfinished images would take about \d+ seconds and ", str(said))
    earlier = settings(previous=(pool.output,))
    assert only(inputs.previous_run, known(earlier)) == f"{pool.output} has parts of an earlier run"
    assert "no parts" in only(inputs.previous_run, known(settings(previous=(pool.input,))), SettingsError)


def test_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert only(plan.lightly, known()) == "no token is set, so nothing is uploaded"
    with LightlyServer().running() as server:

        def ours(**more: str) -> Settings:
            given = {"CORAL_INPUT": "in", "CORAL_OUTPUT": "out", "LIGHTLY_SERVER_LOCATION": server.url}
            return resolve({}, given | {"LIGHTLY_TOKEN": TOKEN, "CORAL_LIGHTLY_DATASET": "street"} | more)

        assert only(plan.lightly, known(ours())) == "the token is accepted; the dataset 'street' will be created"
        server.add_dataset("street")
        said = "the token is accepted; the dataset 'street' exists"
        assert only(plan.lightly, known(ours())) == said
        found = tried(plan.lightly, known(ours(), shard=Shard(0, 2)))
        assert found[0] == said and "does not upload" in found[1] and type(found[1]) is Warn  # type: ignore[operator]
        assert "Lightly does not accept this token" in only(
            plan.lightly, known(ours(LIGHTLY_TOKEN="f" * 32)), AccessDenied
        )
        unknown = ours(CORAL_LIGHTLY_DATASET="0" * 24)
        assert "no access to a dataset with this id" in only(plan.lightly, known(unknown), SettingsError)
    assert "The upload comes last" in only(
        plan.lightly, known(ours(LIGHTLY_SERVER_LOCATION="http://127.0.0.1:9")), Warn
    )


def test_what_would_be_done(tmp_path: Path) -> None:
    given = settings(output="/out", n_samples=20)
    assert only(plan.run, known(given, listing=listing())) == (
        "it would use 30 images (30 kB), pick 20 by coral with entropy_sum, and write to /out"
    )
    entries = '[{"input": {"type": "EMBEDDINGS"}, "strategy": {"type": "DIVERSITY"}}]'
    for strategy, by in (("coreset", "coreset"), (entries, "a list of strategies"), ("random", "random")):
        said = only(plan.run, known(settings(strategy=strategy, n_samples=1), listing=listing()))
        assert f"pick 1 by {by}, and" in said
    found = tried(plan.run, known(listing=listing()))
    assert type(found[1]) is Warn and "CORAL_N_SAMPLES=100 is more than the number of images" in str(found[1])
    assert "in shard 1 of 3, pick" in only(plan.run, known(listing=listing(), shard=Shard(1, 3)))
    assert tried(plan.run, known()) == []


def test_detections_from_elsewhere_need_no_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    names = [f"{number}.jpg" for number in range(3)]
    coco = {
        "images": [{"id": number, "file_name": name, "width": 9, "height": 9} for number, name in enumerate(names)],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [{"image_id": 0, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 0.5}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    (tmp_path / "images.txt").write_text("0.jpg\n1.jpg\n2.jpg\nnot predicted.jpg\n")
    vectors = [np.ones(4, np.float32)] * 2
    pq.write_table(pa.table({"file_name": names[:2], "embedding": vectors}), tmp_path / "own.parquet")
    ours = settings(
        input=str(tmp_path / "images.txt"), output=str(tmp_path / "out"), n_samples=2,
        predictions=str(tmp_path / "coco.json"), embedding=str(tmp_path / "own.parquet"),
    )  # fmt: skip
    with pytest.raises(SettingsError, match="1 of "):
        preflight.run_checks(ours, Stop(), {})
    for line in (
        "check images: ok, 4 file names.",
        "check predictions: ok, 3 images with boxes of 1 class (car).",
        f"check predictions: ok, 3 of 4 images have an entry in CORAL_PREDICTIONS='{tmp_path}/coco.json'.",
        "check predictions: warning. 1 of 4 images of CORAL_INPUT have no prediction in CORAL_PREDICTIONS=",
        f"check embeddings: ok, 2 embeddings of 4 dimensions in {tmp_path}/own.parquet.",
        "own.parquet' has no embedding for 1 of 3 images: '2.jpg'",
        "check run: ok, it would use 3 images",
    ):
        assert line in caplog.text
    for word in ("check detector", "weights"):
        assert word not in caplog.text
    (tmp_path / "coco.json").write_text("[]")
    with pytest.raises(SettingsError, match="1 of "):
        preflight.run_checks(ours, Stop(), {})


# The trial


def test_a_trial_says_how_long_it_takes_and_what_it_costs(few_frames: Path, tmp_path: Path, job: Job) -> None:
    done = job(
        *("check", "--trial", "--price-per-hour", "3600"), **demo_variables(few_frames, tmp_path / "out"),
        TMPDIR=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = re.search(
        r"check trial: ok, ([\d.]+) images/s on 12 images: 12 images would take about (\d+) seconds, cost (\d+\.\d\d) "
        r"and [\d.]+ [kM]B of parts\.",
        done.stderr,
    )
    assert found, done.stderr
    rate, seconds, cost = (float(each) for each in found.groups())
    assert seconds == pytest.approx(12 / rate, abs=0.6) and cost == pytest.approx(12 / rate, rel=0.05)
    assert "check trial: ok, all 12 images are usable." in done.stderr
    assert {each.name for each in tmp_path.iterdir()} == {"in"}


def test_a_trial_takes_twenty_from_all_over_and_counts_the_unusable(pool: Settings) -> None:
    what = with_detector(pool, shard=Shard(0, 1))
    what.shard = Shard(0, 3)
    said, unusable = tried(trial.Trial(7200.0).estimate, what)
    assert re.fullmatch(
        r"[\d.]+ images/s on 20 images: 40 images of shard 0 would take about \d+ seconds, "
        r"cost [\d.]+ \(all 3 shards: [\d.]+\) and [\d.]+ kB of parts",
        str(said),
    )
    assert type(unusable) is Warn
    assert str(unusable).startswith("4 of 20 images are unusable, such as '02.jpg': not an image")
    assert "the run would end with 65, since CORAL_MAX_FAILED=0.05" in str(unusable)
    what.settings = settings(max_failed=0.5)
    assert type(tried(trial.Trial(None).estimate, what)[1]) is str
    what.settings = settings(max_failed=0.5, batch_size=9)
    assert "images/s on 36 images" in str(tried(trial.Trial(None).estimate, what)[0])  # four batches
    assert "No trial is possible" in only(trial.Trial(None).estimate, known(), Warn)


def test_a_trial_can_be_stopped(pool: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    what = with_detector(pool)
    what.stop.requested.set()
    with pytest.raises(Stopped):
        list(trial.Trial(None).estimate(what))
    assert list((tmp_path / "tmp").iterdir()) == []


def test_durations() -> None:
    said = [trial._format_duration(each) for each in (3, 119, 120, 7199, 7200, 172_799, 200_000)]
    assert said == [
        *("3 seconds", "119 seconds", "2.0 minutes", "120.0 minutes", "2.0 hours", "48.0 hours", "2.3 days")
    ]
