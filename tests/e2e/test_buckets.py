"""The whole job on a real S3 server: the same results as on a disk, in shards, after kills, and twice at once."""

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from demo import fetch
from job import names
from tests.conftest import S3, Job, demo_variables, start_job
from tests.standins.lightly_server import TOKEN, LightlyServer
from tests.standins.servers import (
    ADMIN,
    BUCKET,
    LISTER,
    READER,
    Fault,
    FaultProxy,
    client,
)

FILES = (
    "selected.txt",
    "selected.csv",
    "selected.jsonl",
    "images.parquet",
    "detections.parquet",
    "embeddings.parquet",
    "failures.jsonl",
)
POOL = "pool dir/ü"


class Bucket:
    """What the tests see of the bucket."""

    def __init__(self, s3: S3) -> None:
        self.uri, self._client = s3.uri, client(s3.endpoint)

    def put(self, folder: Path, prefix: str) -> None:
        for path in sorted(folder.rglob("*.jpg")):
            self._client.put_object(
                Bucket=BUCKET, Key=f"{prefix}/{path.relative_to(folder).as_posix()}", Body=path.read_bytes()
            )

    def keys(self, prefix: str) -> list[str]:
        found: list[str] = []
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix + "/"):
            found += [each["Key"].removeprefix(prefix + "/") for each in page.get("Contents", [])]
        return sorted(found)

    def get(self, key: str) -> bytes:
        data: bytes = self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return data

    def results(self, prefix: str) -> dict[str, bytes]:
        return {name: self.get(f"{prefix}/{name}") for name in FILES}

    def copy(self, source: str, target: str) -> None:
        for key in self.keys(source):
            where = {"Bucket": BUCKET, "Key": f"{source}/{key}"}
            self._client.copy_object(Bucket=BUCKET, Key=f"{target}/{key}", CopySource=where)


@pytest.fixture
def bucket(seaweedfs: S3) -> Bucket:
    return Bucket(seaweedfs)


@pytest.fixture(scope="module")
def local(frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run on 15 frames on the disk, with which those in the bucket are compared."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "in" / "sub dir").mkdir(parents=True)
    for number, frame in enumerate(frames[::17]):
        shutil.copyfile(frame, folder / "in" / ("sub dir" if number % 3 == 0 else ".") / frame.name)
    process = start_job(**demo_variables(folder / "in", folder / "out"))
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return {"source": folder / "in", "results": {name: (folder / "out" / name).read_bytes() for name in FILES}}


@pytest.fixture
def pool(bucket: Bucket, local: dict[str, Any]) -> dict[str, Any]:
    """The variables of a run on the same frames in the bucket."""
    if not bucket.keys(POOL):
        bucket.put(local["source"], POOL)
    return demo_variables(bucket.uri(POOL), bucket.uri("out"), CORAL_PART_SIZE=4)


@pytest.fixture
def out(request: pytest.FixtureRequest) -> str:
    """A key prefix for the results of one test."""
    return f"out/{request.node.name}"


def test_in_a_bucket_as_on_a_disk(bucket: Bucket, pool: dict[str, Any], local: dict[str, Any], job: Job) -> None:
    out = f"{POOL}/results"  # it lies under the input, and is not taken for images
    variables = pool | {"CORAL_OUTPUT": bucket.uri(out), "CORAL_LIGHTLY_PREDICTIONS": 1}
    try:
        ran = job(**variables)
        assert ran.returncode == 0, ran.stderr
        assert bucket.results(out) == local["results"]
        keys = bucket.keys(out)
        assert len([key for key in keys if key.startswith("parts/part-")]) == 4
        assert len([key for key in keys if key.startswith(".lightly/predictions/")]) == 15 + 2
        assert len([key for key in keys if key.startswith("rounds/")]) == 1
        by_digest = ("parts/part-", "parts/done-", "parts/detector-", ".lightly/", "exports/", "rounds/")
        assert {key for key in keys if not key.startswith(by_digest)} == {
            *FILES, "run.json", "status.json", "report.html", "_SUCCESS", "parts/listing-0-of-1.parquet",
            "parts/precision.json", "predictions/coco.json", ".coralpick/files.json",
        }  # fmt: skip
        again = job(**variables)
        assert again.returncode == 0 and "15 of 15 images are already finished." in again.stderr
        assert bucket.results(out) == local["results"]
    finally:
        for key in bucket.keys(out):
            bucket._client.delete_object(Bucket=BUCKET, Key=f"{out}/{key}")


def test_shards_on_any_platform_find_the_same(
    bucket: Bucket, pool: dict[str, Any], local: dict[str, Any], job: Job, out: str
) -> None:
    variables = pool | {"CORAL_OUTPUT": bucket.uri(out)}
    shards: list[dict[str, Any]] = [
        {"AWS_BATCH_JOB_ARRAY_INDEX": 1, "AWS_BATCH_JOB_ARRAY_SIZE": 3},
        {"SLURM_ARRAY_TASK_ID": 1, "SLURM_ARRAY_TASK_COUNT": 3, "SLURM_ARRAY_TASK_MIN": 1},
        {"JOB_COMPLETION_INDEX": 2, "CORAL_SHARD_COUNT": 3},
    ]
    first = job(**variables, **shards[0])
    assert first.returncode == 0 and "Shard 1 of 3 finished; 2 shards have not finished yet." in first.stderr, (
        first.stderr
    )
    assert job("predict", **variables, **shards[1]).returncode == 0
    early = job("select", **variables)
    assert early.returncode == 75 and "1 of 3 shards have not finished yet (2)" in early.stderr
    anyway = job("select", "--allow-missing", **variables)
    assert anyway.returncode == 0, anyway.stderr
    assert len(names.parse(bucket.get(f"{out}/selected.txt").decode())) == 5
    last = job(**variables, **shards[2])  # `run`: the last one to finish selects
    assert last.returncode == 0, last.stderr
    assert bucket.results(out) == local["results"]
    assert job("select", **variables).returncode == 0
    assert bucket.results(out) == local["results"]
    wrong = job("predict", **variables, JOB_COMPLETION_INDEX=0)
    assert wrong.returncode == 64 and "set CORAL_SHARD_COUNT" in wrong.stderr


def test_next_week_costs_only_what_is_new(
    bucket: Bucket, pool: dict[str, Any], frames: list[Path], job: Job, out: str
) -> None:
    week, pictures = f"{out}/week", f"{out}/pictures"
    bucket.copy(POOL, pictures)
    variables = pool | {"CORAL_INPUT": bucket.uri(pictures), "CORAL_OUTPUT": bucket.uri(f"{week}1")}
    assert job(**variables).returncode == 0
    changed, gone = bucket.keys(pictures)[3], bucket.keys(pictures)[5]
    put = bucket._client.put_object
    put(Bucket=BUCKET, Key=f"{pictures}/{changed}", Body=frames[200].read_bytes())
    put(Bucket=BUCKET, Key=f"{pictures}/new.jpg", Body=frames[100].read_bytes())
    bucket._client.delete_object(Bucket=BUCKET, Key=f"{pictures}/{gone}")
    second = variables | {"CORAL_OUTPUT": bucket.uri(f"{week}2")}
    ran = job(**second, CORAL_PREVIOUS=bucket.uri(f"{week}1"))
    assert ran.returncode == 0, ran.stderr
    assert "Reused 13 of 15 images" in ran.stderr and "13 of 15 images are already finished." in ran.stderr
    fresh = variables | {"CORAL_OUTPUT": bucket.uri(f"{week}3")}
    assert job(**fresh).returncode == 0
    assert bucket.results(f"{week}2") == bucket.results(f"{week}3")
    other = job(**fresh | {"CORAL_OUTPUT": bucket.uri(f"{week}4")}, CORAL_PREVIOUS=bucket.uri(f"{week}1"),
                CORAL_SCORE_THRESHOLD=0.3)  # fmt: skip
    assert other.returncode == 64 and "was made with other settings (different model configuration" in other.stderr
    none = job(**second, CORAL_PREVIOUS=bucket.uri("nowhere"))
    assert none.returncode == 64 and "has no parts" in none.stderr


def test_a_wrong_setting_undoes_nothing(
    bucket: Bucket, pool: dict[str, Any], local: dict[str, Any], job: Job, out: str
) -> None:
    variables = pool | {"CORAL_OUTPUT": bucket.uri(out)}
    assert job(**variables).returncode == 0
    before = bucket.keys(out)
    for wrong in ({"CORAL_SCORE_THRESHOLD": 0.3}, {"CORAL_PREVIOUS": "/nowhere"}, {"CORAL_LABELLED": "/nowhere"}):
        ran = job(**variables, **wrong)
        assert ran.returncode == 64 and ("/nowhere" not in wrong.values() or next(iter(wrong)) in ran.stderr), (
            ran.stderr
        )
        assert bucket.keys(out) == before
    again = job("select", **variables)
    assert again.returncode == 0 and bucket.results(out) == local["results"]


def test_two_of_the_same_shard_at_once(bucket: Bucket, pool: dict[str, Any], local: dict[str, Any], out: str) -> None:
    variables = pool | {"CORAL_OUTPUT": bucket.uri(out)}
    both = [start_job(**variables), start_job(**variables | {"CORAL_PART_SIZE": 3})]
    for process in both:
        text, _ = process.communicate(timeout=300)
        assert process.returncode == 0, text
    assert bucket.results(out) == local["results"]


def test_a_missing_permission_ends_the_job_before_the_detector_is_loaded(
    bucket: Bucket, pool: dict[str, Any], job: Job, tmp_path: Path
) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (READER, {}, "s3://images/out: the permission s3:PutObject is missing"),
        (
            LISTER,
            {"CORAL_OUTPUT": tmp_path / "out"},
            f"Cannot read the images in {pool['CORAL_INPUT']}: the permission s3:GetObject is missing",
        ),
        (LISTER, {"CORAL_OUTPUT": tmp_path / "out", "CORAL_INPUT": "s3://other/x"}, "s3:ListBucket is missing"),
    ]
    for identity, changed, says in cases:
        ran = job(**pool | identity | changed | {"CORAL_WEIGHTS": ""})
        assert ran.returncode == 77 and says in ran.stderr, ran.stderr
        assert len([line for line in ran.stderr.splitlines() if line.startswith("error:")]) == 1


def test_images_that_cannot_be_had_are_rows_and_a_list_names_the_images(
    bucket: Bucket, pool: dict[str, Any], job: Job, out: str, tmp_path: Path
) -> None:
    keys = bucket.keys(POOL)[:6]
    uris = [bucket.uri(f"{POOL}/{key}") for key in keys] + [bucket.uri(f"{POOL}/not there.jpg")]
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps({"uri": uri}) for uri in uris))
    ran = job(**pool | {"CORAL_INPUT": tmp_path / "list.jsonl", "CORAL_OUTPUT": bucket.uri(out)}, CORAL_MAX_FAILED=0.2)
    assert ran.returncode == 0, ran.stderr
    (failure,) = [json.loads(line) for line in bucket.get(f"{out}/failures.jsonl").splitlines()]
    assert failure["file_name"] == uris[-1] and "deleted after the listing" in failure["reason"]
    assert set(names.parse(bucket.get(f"{out}/selected.txt").decode())) <= set(uris[:-1])


@pytest.fixture
def proxied(seaweedfs: S3, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A proxy before the S3 server."""
    proxy = FaultProxy(seaweedfs.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    yield proxy
    proxy.close()


def test_faults_on_the_way_change_nothing(
    bucket: Bucket, pool: dict[str, Any], local: dict[str, Any], job: Job, out: str, proxied: FaultProxy
) -> None:
    kinds = {"0": "503", "7": "reset", "4": "truncate", "6": "corrupt", "1": "500"}  # by a digit of the frame's name
    proxied.faults = [Fault(kind, rf"GET [^?]*frame-..{digit}", times=2) for digit, kind in kinds.items()]
    proxied.faults += [Fault("503", "PUT .*part-", times=2), Fault("truncate", r"GET /\w+\?", times=1)]
    ran = job(**pool | {"CORAL_OUTPUT": bucket.uri(out)})
    assert ran.returncode == 0, ran.stderr
    assert {kind for kind, _ in proxied.hits} == set(kinds.values())
    assert "Request failed, retrying" in ran.stderr
    assert bucket.results(out) == local["results"]


def test_asked_to_stop_while_the_store_stalls(
    bucket: Bucket, pool: dict[str, Any], local: dict[str, Any], job: Job, out: str, proxied: FaultProxy
) -> None:
    variables = pool | {"CORAL_OUTPUT": bucket.uri(out)}
    proxied.faults = [Fault("stall", rf"GET [^?]*{local_name}") for local_name in sorted(
        path.name for path in local["source"].rglob("*.jpg"))[9:]]  # fmt: skip
    process = start_job(**variables)
    for _ in range(600):
        if any(key.startswith("parts/part-") for key in bucket.keys(out)) and proxied.hits:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=20)
    assert process.returncode == 143 and "Stopped on request" in text, text
    proxied.faults = []
    again = job(**variables)
    assert again.returncode == 0 and "images are already finished." in again.stderr
    assert bucket.results(out) == local["results"]


def test_credentials_that_expire_half_way(
    bucket: Bucket, pool: dict[str, Any], local: dict[str, Any], job: Job, out: str, proxied: FaultProxy
) -> None:
    """No image becomes a failed row, and with new credentials the job goes on."""
    variables = pool | {"CORAL_OUTPUT": bucket.uri(out)}
    later = sorted(path.name for path in local["source"].rglob("*.jpg"))[9:]
    proxied.faults = [Fault("503", f"GET [^?]*{name}") for name in later]
    process = start_job(**variables)
    for _ in range(1200):
        if any(key.startswith("parts/part-") for key in bucket.keys(out)) and proxied.hits:
            break
        time.sleep(0.1)
    proxied.faults = [Fault("expired", "")]
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 77 and "(ExpiredToken): renew or correct them" in text, text
    assert not any("listing-" in key for key in bucket.keys(out))
    proxied.faults = []
    again = job(**variables)
    assert again.returncode == 0 and "images are already finished." in again.stderr, again.stderr
    assert bucket.results(out) == local["results"]


SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIDDONTSHOWTHIS",
    "AWS_SECRET_ACCESS_KEY": "dont/show+this/secret",
    "AWS_SESSION_TOKEN": "dont-show-this-session",
    "LIGHTLY_TOKEN": TOKEN,
}


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_secret_is_in_any_log_or_file(
    moto: S3, pool: dict[str, Any], local: dict[str, Any], job: Job, tmp_path: Path, log_format: str
) -> None:
    s3 = client(moto.endpoint, ADMIN)
    for path in local["source"].rglob("*.jpg"):
        s3.put_object(Bucket=BUCKET, Key=f"secrets/{path.name}", Body=path.read_bytes())
    s3.put_object(Bucket=BUCKET, Key="secrets/empty.jpg", Body=b"")
    s3.put_object(Bucket=BUCKET, Key="yolo.weights", Body=fetch.WEIGHTS.read_bytes())
    signed = s3.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": "yolo.weights"})
    signature = signed.partition("?")[2]
    proxy = FaultProxy(moto.endpoint)
    proxy.faults = [Fault("503", r"GET [^?]*frame", times=3), Fault("403", r"GET [^?]*frame", times=1)]
    variables = pool | SECRETS | {
        "AWS_ENDPOINT_URL": proxy.endpoint, "CORAL_INPUT": moto.uri("secrets"), "CORAL_OUTPUT": tmp_path / "out",
        "CORAL_WEIGHTS": signed, "CORAL_LOG_FORMAT": log_format, "CORAL_MAX_FAILED": 0.5,
        "TORCH_HOME": tmp_path / "hub",
    }  # fmt: skip
    with LightlyServer().running() as lightly:
        variables |= {
            "LIGHTLY_SERVER_LOCATION": lightly.url,
            "CORAL_LIGHTLY_DATASET": "secrets",
            "NO_PROXY": "127.0.0.1",
        }
        ran = job(**variables)
        assert ran.returncode == 0, ran.stderr
        refused = job(
            **variables | {"CORAL_WEIGHTS": signed.replace("yolo", "none"), "CORAL_OUTPUT": tmp_path / "other"}
        )
        assert refused.returncode == 69, refused.stderr
        proxy.faults = [Fault("503", "")]
        away = job(**variables | {"CORAL_OUTPUT": moto.uri("out")})
        assert away.returncode == 69, away.stderr
        assert len(lightly.dataset("secrets").samples) == 14, "all but the one that may not be read"
    proxy.close()
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    for text in [each.encode() for run in (ran, refused, away) for each in (run.stdout, run.stderr)] + written:
        for secret in [*SECRETS.values(), signature, *signature.split("&")]:
            if "=" not in secret or "Signature" in secret or "AccessKeyId" in secret:
                assert secret.encode() not in text
