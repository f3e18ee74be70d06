"""The image on AWS Batch, started by `python -m cloud.aws.submit`: moto's Batch runs its jobs as containers."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto.batch.models import Job

import cloud.aws.submit as aws
from tests.image.conftest import Pool
from tests.image.engine import Engine
from tests.standins import servers
from tests.standins.aws_template import Template, described, register

pytestmark = pytest.mark.image


@pytest.fixture
def batch(engine: Engine, image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """moto's Batch with the queue of the template and its job definition for the built image."""
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    monkeypatch.setenv("MOTO_DOCKER_NETWORK_MODE", "host")
    # On Linux moto asks for the address of the engine's bridge, and this engine has none.
    monkeypatch.setattr("moto.batch.models.platform", "other")
    # moto would ask the machine's own engine for the address of moto, which these jobs do not use.
    monkeypatch.setattr("moto.settings.moto_server_host", lambda: "http://127.0.0.1")
    original = Job._get_container_property

    def numbered(self: Job, name: str, default: Any) -> Any:
        """Numbers the jobs of an array, as AWS does and moto does not."""
        value = original(self, name, default)
        if name != "environment" or "index" not in self.array_properties:
            return value
        array = self.all_jobs[self.job_id.rpartition(":")[0]]
        numbers = {"INDEX": self.array_properties["index"], "SIZE": array.array_properties["size"]}
        return value + [{"name": f"AWS_BATCH_JOB_ARRAY_{key}", "value": str(number)} for key, number in numbers.items()]

    monkeypatch.setattr(Job, "_get_container_property", numbered)
    with servers.aws_batch(use_docker=True):
        client = boto3.client("batch")
        register(client, Template(Image=image, InstanceTypes="g4dn.xlarge"))
        yield client


def environment(pool: Pool, output: str, **more: str) -> dict[str, str]:
    """The settings of a run without a GPU."""
    return pool.variables | {"CORAL_OUTPUT": pool.uri(output), "CORAL_REQUIRE_GPU": "0"} | more


def read_logs(client: Any, *ids: str) -> str:
    """The logs of jobs, one line per event."""
    lines = []
    for job in described(client, *ids):
        stream = job["container"]["logStreamName"]
        events = boto3.client("logs").get_log_events(logGroupName="/aws/batch/job", logStreamName=stream)["events"]
        lines += [event["message"] for event in events]
    return "\n".join(lines)


@pytest.mark.parametrize("shards", [1, 2])
def test_it_picks_as_a_plain_run_does(batch: Any, pool: Pool, shards: int) -> None:
    output = f"out/aws-{shards}"
    ids = aws.submit(batch, "coralpick", "coralpick", shards, environment(pool, output))
    assert aws.wait(batch, ids, pause=1) == ""
    children = [f"{ids[0]}:{index}" for index in range(shards)] if shards > 1 else ids
    logs = read_logs(batch, *children)
    assert pool.read(f"{output}/selected.txt") == pool.read("expected/frames/selected.txt"), logs


def test_a_wrong_setting_fails_the_job(batch: Any, pool: Pool) -> None:
    wrong = environment(pool, "out/aws-wrong", CORAL_N_SAMPLES="none")
    (only,) = aws.submit(batch, "coralpick", "coralpick", 1, wrong)
    assert aws.wait(batch, [only], pause=1).startswith(f"coralpick-run ({only}) has failed")
    assert "CORAL_N_SAMPLES='none' must be a whole number" in read_logs(batch, only)
