"""AWS Batch: its template, and the program that submits. moto runs no containers here; the tests of the image do."""

import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import boto3
import pytest
from cfnlint.api import lint_file
from cfnlint.decode import decode

import cloud.aws.submit as aws
from cloud import settings
from job.errors import ServiceUnavailable, SettingsError
from job.storage import s3_errors
from tests.conftest import ROOT
from tests.standins import servers
from tests.standins.aws_template import (
    SECRET,
    TEMPLATE,
    Template,
    as_request,
    described,
    register,
)
from tests.standins.schedulers import (
    AGAIN,
    CLOUD,
    ENVIRONMENT,
    KILLED,
    NEVER,
    PAIRS,
    readme_commands,
)


def test_cfn_lint_has_nothing_to_say() -> None:
    assert lint_file(TEMPLATE) == []


def decision(rules: list[dict[str, str]], exit_code: int | None, reason: str = "", status_reason: str = "") -> str:
    """What AWS Batch does by `evaluateOnExit`: the first rule of which all conditions hold; without one, RETRY."""
    seen = {
        "onExitCode": "" if exit_code is None else str(exit_code),
        "onReason": reason,
        "onStatusReason": status_reason,
    }
    for rule in rules:
        conditions = {name: pattern for name, pattern in rule.items() if name != "action"}
        if all(fnmatchcase(seen[name], pattern) for name, pattern in conditions.items()):
            return rule["action"]
    return "RETRY"


def test_what_aws_tries_again() -> None:
    strategy = as_request(Template().properties("Definition")["RetryStrategy"])
    rules = strategy["evaluateOnExit"]
    assert 1 < strategy["attempts"] <= 10 and len(rules) <= 5
    allowed = {
        "onExitCode": r"[0-9]*\*?",
        "onReason": r"[0-9A-Za-z.:\s]*\*?",
        "onStatusReason": r"[0-9A-Za-z.:\s]*\*?",
    }
    for rule in rules:
        assert rule["action"] in ("RETRY", "EXIT")
        for name, pattern in rule.items():
            assert name == "action" or re.fullmatch(allowed[name], pattern)

    ended = "Essential container in task exited"
    for error in AGAIN:
        assert decision(rules, error.exit_code, status_reason=ended) == "RETRY", error
    for error in NEVER:
        assert decision(rules, error.exit_code, status_reason=ended) == "EXIT", error
    assert decision(rules, KILLED, status_reason=ended) == "RETRY"
    memory = "OutOfMemoryError: Container killed due to memory usage"
    assert decision(rules, KILLED, memory, ended) == "EXIT"
    taken = "Host EC2 (instance i-0123456789abcdef0) terminated."
    for code in (None, KILLED, *(each.exit_code for each in AGAIN | NEVER)):
        assert decision(rules, code, status_reason=taken) == "RETRY"
    assert decision(rules, None, "CannotPullContainerError: timeout", "Task failed to start") == "RETRY"


def test_the_job_may_do_on_s3_what_it_does_and_no_more() -> None:
    (policy,) = Template().properties("JobRole")["Policies"]
    rights = {}
    for each in policy["PolicyDocument"]["Statement"]:
        actions = each["Action"] if isinstance(each["Action"], list) else [each["Action"]]
        rights[each["Resource"]] = (each["Effect"], set(actions), each.get("Condition"))
    assert rights == {
        "arn:aws:s3:::in-bucket": ("Allow", {"s3:ListBucket"}, {"StringLike": {"s3:prefix": "frames/*"}}),
        "arn:aws:s3:::in-bucket/frames/*": ("Allow", {"s3:GetObject"}, None),
        "arn:aws:s3:::out-bucket": ("Allow", {"s3:ListBucket"}, {"StringLike": {"s3:prefix": "picks/*"}}),
        "arn:aws:s3:::out-bucket/picks/*": (
            "Allow",
            {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"},
            None,
        ),
    }
    # What the job itself says that it needs, and the right to tidy up after an upload in parts.
    assert set().union(*(actions for _, actions, _ in rights.values())) == {
        *s3_errors.RIGHTS.values(),
        "s3:AbortMultipartUpload",
    }


@pytest.mark.parametrize("name", ["InputPrefix", "OutputPrefix"])
def test_a_prefix_ends_where_a_folder_does(name: str) -> None:
    """`frames` would open `frames-of-others/` as well."""
    pattern = decode(str(TEMPLATE))[0]["Parameters"][name]["AllowedPattern"]
    allowed = {
        text: bool(re.fullmatch(pattern, text)) for text in ("", "a/", "frames/", "a/b/", "/a/", "a", "a//", "/")
    }
    assert {text for text, fits in allowed.items() if fits} == {"", "a/", "frames/", "a/b/"}


def test_only_the_agent_may_read_the_token() -> None:
    template = Template(LightlyTokenSecretArn=SECRET)
    (policy,) = template.properties("ExecutionRole")["Policies"]
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert statement == {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": SECRET}
    container = template.properties("Definition")["ContainerProperties"]
    assert container["Secrets"] == [{"Name": "LIGHTLY_TOKEN", "ValueFrom": SECRET}]
    assert container["ExecutionRoleArn"] == "ExecutionRole.Arn"
    assert container["JobRoleArn"] == "JobRole.Arn"
    without = Template().properties("Definition")["ContainerProperties"]
    assert "Secrets" not in without and "ExecutionRoleArn" not in without


def test_the_container_is_locked_down() -> None:
    definition = Template().properties("Definition")
    container = definition["ContainerProperties"]
    assert container["User"] == "10001:0"
    assert not container["Privileged"] and container["ReadonlyRootFilesystem"]
    (tmp,) = container["LinuxParameters"]["Tmpfs"]
    assert tmp["ContainerPath"] == "/tmp"
    assert {"Type": "GPU", "Value": "1"} in container["ResourceRequirements"]
    metadata = Template().properties("Machine")["LaunchTemplateData"]["MetadataOptions"]
    assert metadata == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}


@pytest.mark.parametrize(
    ("spot", "kind", "strategy"),
    [("true", "SPOT", "SPOT_PRICE_CAPACITY_OPTIMIZED"), ("false", "EC2", "BEST_FIT_PROGRESSIVE")],
)
def test_spot_or_not(spot: str, kind: str, strategy: str) -> None:
    resources = Template(Spot=spot).properties("Machines")["ComputeResources"]
    assert (resources["Type"], resources["AllocationStrategy"]) == (kind, strategy)
    assert resources["Ec2Configuration"] == [{"ImageType": "ECS_AL2023_NVIDIA"}]


def test_the_outputs_are_what_submit_wants() -> None:
    template = Template()
    assert template.output("Queue") == template.properties("Queue")["JobQueueName"]
    assert template.output("Definition") == template.properties("Definition")["JobDefinitionName"]


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """moto's Batch with the template's queue and job definition, which pass boto3's check of requests on their way."""
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with servers.aws_batch(use_docker=False):
        client = boto3.client("batch")
        template = Template(LightlyTokenSecretArn=SECRET, InstanceTypes="g4dn.xlarge")
        register(client, template)
        yield client


def variables(job: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in job["container"]["environment"]}


OPTIONS = ("--queue", "coralpick", "--definition", "coralpick")


def test_one_shard_is_one_job(batch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert settings.run(aws.command, [*OPTIONS, *PAIRS, "--wait"]) == 0
    found = re.search(r"^run: (\S+)$", out := capsys.readouterr().out, re.MULTILINE)
    assert found
    (job,) = described(batch, found[1])
    assert job["container"]["command"] == ["run"]
    assert ENVIRONMENT.items() <= variables(job).items()
    assert "CORAL_SHARD_COUNT" not in variables(job)
    assert "aws batch describe-jobs --query 'jobs[]" in out and out.rstrip().endswith(f"--jobs {found[1]}")


def test_more_shards_are_an_array_and_a_job_that_waits_for_it(batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []
    original = batch.submit_job

    def submit_job(**request: Any) -> Any:
        sent.append(request)
        return original(**request)

    monkeypatch.setattr(batch, "submit_job", submit_job)
    array, last = aws.submit(batch, "coralpick", "coralpick", 3, ENVIRONMENT)
    assert sent[0]["arrayProperties"] == {"size": 3} and "dependsOn" not in sent[0]
    assert sent[1]["dependsOn"] == [{"jobId": array}] and "arrayProperties" not in sent[1]
    predict, select = described(batch, array, last)
    assert predict["arrayProperties"]["size"] == 3
    assert predict["container"]["command"] == ["predict"] and select["container"]["command"] == ["select"]
    assert "CORAL_SHARD_COUNT" not in variables(predict)  # AWS says it
    assert variables(select)["CORAL_SHARD_COUNT"] == "3"
    assert aws.wait(batch, [array, last]) == ""


def test_several_gpus_are_one_option(batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []

    def submit_job(**request: Any) -> dict[str, str]:
        sent.append(request)
        return {"jobId": str(len(sent))}

    monkeypatch.setattr(boto3, "client", lambda name: batch)
    monkeypatch.setattr(batch, "submit_job", submit_job)
    assert settings.run(aws.command, [*OPTIONS, "--shards", "2", "--gpus", "4", *PAIRS]) == 0
    predict, select = (request["containerOverrides"] for request in sent)
    definition = Template().properties("Definition")["ContainerProperties"]["ResourceRequirements"]
    one = {each["Type"]: int(each["Value"]) for each in definition}
    assert {each["type"]: int(each["value"]) for each in predict["resourceRequirements"]} == {
        kind: 4 * value for kind, value in one.items()
    }
    assert "resourceRequirements" not in select  # it has the one of the definition


def test_waiting_tells_which_job_has_failed_and_why(
    batch: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOTO_SIMPLE_BATCH_FAIL_AFTER", "0")
    assert settings.run(aws.command, [*OPTIONS, *PAIRS, "--wait", "--shards", "2"]) == 1
    told = capsys.readouterr()
    array = re.search(r"^predict: (\S+)$", told.out, re.MULTILINE)
    assert array
    assert told.err.startswith(f"coralpick-predict ({array[1]}) has failed: ")
    assert f"aws batch list-jobs --array-job-id {array[1]} --job-status FAILED" in told.err


class Answers:
    """A client that gives answers of AWS one after the other."""

    def __init__(self, *answers: list[dict[str, Any]]) -> None:
        self._answers = list(answers)

    def describe_jobs(self, jobs: list[str]) -> dict[str, Any]:
        return {"jobs": self._answers.pop(0)}


def test_waiting_goes_on_until_the_end() -> None:
    one: dict[str, Any]
    other: dict[str, Any]
    one, other = {"jobId": "1", "jobName": "one"}, {"jobId": "2", "jobName": "other"}
    running = [one | {"status": "RUNNING"}, other | {"status": "PENDING"}]
    assert aws.wait(Answers(running, [each | {"status": "SUCCEEDED"} for each in running]), ["1", "2"], pause=0) == ""
    container = {"exitCode": 65, "reason": "something"}
    failed = [
        other | {"status": "FAILED", "statusReason": "Dependent Job failed"},
        one | {"status": "FAILED", "statusReason": "Essential container in task exited", "container": container},
    ]
    assert aws.wait(Answers(running, failed), ["1", "2"], pause=0) == (
        "one (1) has failed: Essential container in task exited; something; exit code 65"
    )


def test_a_queue_that_is_not_there(batch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--queue", "nowhere", "--definition", "coralpick", *PAIRS]
    assert settings.run(aws.command, arguments) == ServiceUnavailable.exit_code
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [*PAIRS],
        ["--queue", "q", *PAIRS],
        [*OPTIONS],
        [*OPTIONS, "--shards", "0", *PAIRS],
        [*OPTIONS, "--shards", "10001", *PAIRS],
        [*OPTIONS, *PAIRS, "LIGHTLY_TOKEN=hunter2"],
    ],
)
def test_wrong_arguments_of_the_program(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cloud.aws.submit", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == SettingsError.exit_code
    assert done.stderr and "Traceback" not in done.stderr and "hunter2" not in done.stderr


def test_the_commands_of_the_page_for_aws(batch: Any) -> None:
    commands = readme_commands("cloud.aws.submit")
    assert commands
    for each in commands:
        assert settings.run(aws.command, each) == 0


def test_the_page_names_the_parameters_of_the_template() -> None:
    text = (CLOUD / "README.md").read_text()
    (deploy,) = re.findall(r"--parameter-overrides((?:.|\n)*?)\n\n", text)
    given = set(re.findall(r"(\w+)=", deploy))
    parameters = decode(str(TEMPLATE))[0]["Parameters"]
    required = {name for name, each in parameters.items() if "Default" not in each}
    assert required <= given <= set(parameters)
