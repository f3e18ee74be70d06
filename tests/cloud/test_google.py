"""Google Cloud Batch: the job as Google's own client reads it, and the program that submits.

In place of gcloud, which cannot be installed with the tests, is a program that takes the same arguments.
"""

import json
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from google.cloud import batch_v1
from google.protobuf import json_format

import cloud.google.submit as google
from cloud import settings
from job.errors import ServiceUnavailable
from tests.standins.aws_template import Template
from tests.standins.schedulers import (
    AGAIN,
    CLOUD,
    ENVIRONMENT,
    KILLED,
    NEVER,
    PAIRS,
    readme_commands,
)

MACHINE_LOST = {50001, 50002, 50003, 50004, 50006}  # preempted, silent, rebooted, unresponsive, made anew
TIMED_OUT = 50005
ACCOUNT = "coralpick@project.iam.gserviceaccount.com"
TOKEN = "projects/project/secrets/lightly/versions/latest"


def message(text: str) -> Any:
    """A job as Google's client understands it; a field that it does not know is an error."""
    return json_format.Parse(text, batch_v1.Job.pb()(), ignore_unknown_fields=False)


def job(command: str, shards: int = 3, secret: str | None = None) -> dict[str, Any]:
    """What is submitted."""
    return google.fill_job(command, "image@sha256:0", "us-central1", ACCOUNT, shards, ENVIRONMENT, secret)


def test_the_file_for_google_is_a_job() -> None:
    parsed = message((CLOUD / "google" / "job.json").read_text())
    (group,) = parsed.task_groups
    (runnable,) = group.task_spec.runnables
    options = shlex.split(runnable.container.options)
    assert {"--read-only", "--cap-drop", "--security-opt", "--tmpfs"} <= set(options)
    assert options[options.index("--tmpfs") + 1].startswith("/tmp:")
    (instance,) = parsed.allocation_policy.instances
    assert instance.install_gpu_drivers
    assert instance.policy.provisioning_model == batch_v1.AllocationPolicy.ProvisioningModel.SPOT
    assert parsed.logs_policy.destination == batch_v1.LogsPolicy.Destination.CLOUD_LOGGING
    assert group.task_count_per_node == 1 and group.task_spec.max_run_duration.seconds


def test_what_google_tries_again() -> None:
    spec = message((CLOUD / "google" / "job.json").read_text()).task_groups[0].task_spec
    (policy,) = spec.lifecycle_policies  # Batch takes one
    assert policy.action == batch_v1.LifecyclePolicy.Action.RETRY_TASK  # other codes than these fail the task
    codes = set(policy.action_condition.exit_codes)
    assert codes == {each.exit_code for each in AGAIN} | MACHINE_LOST
    assert not codes & {TIMED_OUT, KILLED, *(each.exit_code for each in NEVER)}
    # As often as on AWS, where the first attempt counts.
    assert spec.max_retry_count == Template().properties("Definition")["RetryStrategy"]["Attempts"] - 1


def test_google_gets_the_settings() -> None:
    predict, select = (message(json.dumps(job(each, secret=TOKEN))) for each in ("predict", "select"))
    (tasks,), (one,) = predict.task_groups, select.task_groups
    assert (tasks.task_count, one.task_count) == (3, 1)
    assert dict(tasks.task_spec.environment.variables) == ENVIRONMENT | {"CORAL_REQUIRE_GPU": "1"}
    counted = ENVIRONMENT | {"CORAL_REQUIRE_GPU": "1", "CORAL_SHARD_COUNT": "3"}
    assert dict(one.task_spec.environment.variables) == counted
    assert dict(tasks.task_spec.environment.secret_variables) == {}
    assert dict(one.task_spec.environment.secret_variables) == {"LIGHTLY_TOKEN": TOKEN}
    for name, each in (("predict", predict), ("select", select)):
        (runnable,) = each.task_groups[0].task_spec.runnables
        assert (runnable.container.image_uri, list(runnable.container.commands)) == ("image@sha256:0", [name])
        assert list(each.allocation_policy.location.allowed_locations) == ["regions/us-central1"]
        assert each.allocation_policy.service_account.email == ACCOUNT
    run = message(json.dumps(job("run", shards=1, secret=TOKEN))).task_groups[0]
    assert run.task_count == 1 and list(run.task_spec.runnables[0].container.commands) == ["run"]
    assert "CORAL_SHARD_COUNT" not in run.task_spec.environment.variables
    assert dict(run.task_spec.environment.secret_variables) == {"LIGHTLY_TOKEN": TOKEN}


GCLOUD = """
import json, pathlib, sys
folder = pathlib.Path(__file__).parent
with (folder / "calls").open("a") as calls:
    print(json.dumps(sys.argv[1:]), file=calls)
group, jobs, command, name, *flags = sys.argv[1:]
assert (group, jobs, flags[0]) == ("batch", "jobs", "--location=us-central1"), sys.argv
if command == "submit":
    (config,) = [flag.removeprefix("--config=") for flag in flags if flag.startswith("--config=")]
    (folder / f"{name}.json").write_bytes(pathlib.Path(config).read_bytes())
else:
    assert command == "describe" and "--format=json" in flags
    answers = json.loads((folder / "answers").read_text())
    (folder / "answers").write_text(json.dumps(answers[1:]))
    if answers[0] is None:
        sys.exit("no network")
    print(json.dumps({"status": answers[0]}))
"""


@pytest.fixture
def gcloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for gcloud, which cannot be had here; the folder of what it was called with."""
    script = tmp_path / "gcloud.py"
    script.write_text(GCLOUD)
    program = tmp_path / "gcloud"
    # A shebang cannot name a path with a space in it.
    command = shlex.join([sys.executable, str(script)])
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("cloud.google.submit.time.sleep", lambda seconds: None)
    return tmp_path


GOOGLE_OPTIONS = ("--image", "image", "--region", "us-central1", "--service-account", ACCOUNT)
RUNNING, SUCCEEDED = {"state": "RUNNING"}, {"state": "SUCCEEDED"}


def test_google_runs_one_job_after_the_other(gcloud: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (gcloud / "answers").write_text(json.dumps([RUNNING, None, RUNNING, SUCCEEDED, {"state": "QUEUED"}, SUCCEEDED]))
    arguments = [*GOOGLE_OPTIONS, "--shards", "3", "--token-secret", TOKEN, *PAIRS]
    assert settings.run(google.command, arguments) == 0
    calls = [json.loads(line) for line in (gcloud / "calls").read_text().splitlines()]
    assert [call[2] for call in calls] == ["submit", *["describe"] * 4, "submit", *["describe"] * 2]
    names = [call[3] for call in calls]
    predict, select = names[0], names[-1]
    assert names == [predict] * 5 + [select] * 3
    for name, command in ((predict, "predict"), (select, "select")):
        assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name)  # what Batch takes for a job's id
        submitted = message((gcloud / f"{name}.json").read_text())
        assert list(submitted.task_groups[0].task_spec.runnables[0].container.commands) == [command]
    out = capsys.readouterr().out
    assert f"gcloud batch tasks list --location=us-central1 --job={predict}" in out


def test_google_runs_a_single_shard(gcloud: Path) -> None:
    (gcloud / "answers").write_text(json.dumps([SUCCEEDED]))
    assert settings.run(google.command, [*GOOGLE_OPTIONS, *PAIRS]) == 0
    assert [name.name.split("-")[1] for name in gcloud.glob("coralpick-*.json")] == ["run"]


@pytest.mark.parametrize(("gpus", "machine", "cores"), [(2, "g2-standard-24", 24), (8, "g2-standard-96", 96)])
def test_several_gpus_are_one_option(gcloud: Path, gpus: int, machine: str, cores: int) -> None:
    (gcloud / "answers").write_text(json.dumps([SUCCEEDED, SUCCEEDED]))
    assert settings.run(google.command, [*GOOGLE_OPTIONS, "--shards", "2", "--gpus", str(gpus), *PAIRS]) == 0
    (predict,), (select,) = (list(gcloud.glob(f"coralpick-{step}-*.json")) for step in ("predict", "select"))
    parsed = message(predict.read_text())
    assert parsed.allocation_policy.instances[0].policy.machine_type == machine
    needed = parsed.task_groups[0].task_spec.compute_resource
    assert needed.cpu_milli == 1000 * cores and needed.memory_mib <= 4 * 1024 * cores
    assert message(select.read_text()).allocation_policy.instances[0].policy.machine_type == "g2-standard-8"


def test_google_says_why_a_job_failed(gcloud: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = [{"description": "Job state is set from RUNNING to FAILED."}, {}]
    (gcloud / "answers").write_text(json.dumps([RUNNING, {"state": "FAILED", "statusEvents": events}]))
    assert settings.run(google.command, [*GOOGLE_OPTIONS, "--shards", "2", *PAIRS]) == 1
    assert "ended as FAILED: Job state is set from RUNNING to FAILED." in capsys.readouterr().err
    assert not list(gcloud.glob("coralpick-select-*.json"))


def test_google_cannot_be_asked_any_more(gcloud: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (gcloud / "answers").write_text(json.dumps([None] * 30))
    assert settings.run(google.command, [*GOOGLE_OPTIONS, *PAIRS]) == ServiceUnavailable.exit_code
    assert "keeps running: no network" in capsys.readouterr().err


def test_without_gcloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert settings.run(google.command, [*GOOGLE_OPTIONS, *PAIRS]) == ServiceUnavailable.exit_code
    assert "gcloud is not on the PATH" in capsys.readouterr().err


def test_the_commands_of_the_page_for_google(gcloud: Path) -> None:
    commands = readme_commands("cloud.google.submit")
    assert commands
    for each in commands:
        (gcloud / "answers").write_text(json.dumps([SUCCEEDED] * 2))
        assert settings.run(google.command, each) == 0
