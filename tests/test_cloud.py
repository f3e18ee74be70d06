"""The files for the clouds' batch services, and the programs that submit jobs to them.

AWS is moto, without containers (tests/image/test_aws_batch.py runs them). Of Google there are the messages of its own
client, and in place of gcloud, which cannot be installed with the tests, a program that takes the same arguments.
"""

import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import boto3
import pytest
from cfnlint.api import lint_file
from cfnlint.decode import decode
from google.cloud import batch_v1
from google.protobuf import json_format

import cloud.aws.submit as aws
import cloud.google.submit as google
from cloud import settings
from job import errors
from job.errors import JobError, ServiceUnavailable, SettingsError
from job.settings import knobs
from job.storage import s3
from tests import servers
from tests.conftest import ROOT

CLOUD = ROOT / "cloud"
TEMPLATE = CLOUD / "aws" / "batch.yaml"
SECRET = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:lightly-AbCdEf"
PARAMETERS: dict[str, Any] = {
    "Image": "registry.example/coralpick@sha256:0",
    "InputBucket": "in-bucket", "InputPrefix": "frames/", "OutputBucket": "out-bucket", "OutputPrefix": "picks/",
    "AWS::Partition": "aws", "AWS::Region": "eu-central-1", "AWS::AccountId": "123456789012",
    "AWS::StackName": "coralpick",
}  # fmt: skip
PAIRS = ("CORAL_INPUT=s3://in-bucket/frames", "CORAL_OUTPUT=s3://out-bucket/picks", "CORAL_N_SAMPLES=5")
ENVIRONMENT = dict(pair.split("=", 1) for pair in PAIRS)

# What trying again can help against, and what not: every error of the job is one of the two.
AGAIN: set[type[JobError]] = {errors.JobError, errors.ServiceUnavailable, errors.TryAgain, errors.Stopped}
NEVER: set[type[JobError]] = {errors.SettingsError, errors.TooManyFailedImages, errors.AccessDenied}
KILLED = 137


class Template:
    """The CloudFormation template, as it is with some parameters."""

    def __init__(self, **parameters: Any) -> None:
        self._raw, problems = decode(str(TEMPLATE))
        assert not problems and self._raw
        defaults = {name: each["Default"] for name, each in self._raw["Parameters"].items() if "Default" in each}
        self._values = defaults | PARAMETERS | parameters

    def properties(self, resource: str) -> Any:
        """The properties of a resource, with all functions evaluated."""
        return self._resolved(self._raw["Resources"][resource]["Properties"])

    def output(self, name: str) -> Any:
        """An output, with all functions evaluated."""
        return self._resolved(self._raw["Outputs"][name]["Value"])

    def _resolved(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self._resolved(each) for each in node]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (name, value), *_ = node.items()
            if name in (functions := self._functions()):
                return functions[name](value)
        resolved = {key: self._resolved(each) for key, each in node.items()}
        return {key: each for key, each in resolved.items() if each is not None}

    def _functions(self) -> dict[str, Callable[[Any], Any]]:
        def substituted(text: str) -> str:
            return re.sub(r"\$\{([\w:]+)\}", lambda found: str(self._reference(found[1])), text)

        def chosen(value: list[Any]) -> Any:
            return self._resolved(value[1] if self._resolved(self._raw["Conditions"][value[0]]) else value[2])

        def split(value: list[Any]) -> list[str]:
            separator, text = self._resolved(value)
            return str(text).split(separator)

        def select(value: list[Any]) -> Any:
            return self._resolved(value[1])[int(value[0])]

        return {
            "Ref": self._reference,
            "Fn::GetAtt": lambda value: f"{value[0]}.{value[1]}" if isinstance(value, list) else value,
            "Fn::Sub": substituted,
            "Fn::If": chosen,
            "Fn::Equals": lambda value: self._resolved(value[0]) == self._resolved(value[1]),
            "Fn::Not": lambda value: not self._resolved(value[0]),
            "Fn::Split": split,
            "Fn::Select": select,
        }

    def _reference(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return None
        if name in self._values:
            kind = self._raw["Parameters"].get(name, {}).get("Type", "String")
            value = self._values[name]
            return value.split(",") if kind == "CommaDelimitedList" else int(value) if kind == "Number" else value
        arn = "arn:aws:batch:eu-central-1:123456789012"
        return {"Queue": f"{arn}:job-queue/coralpick", "Definition": f"{arn}:job-definition/coralpick:7"}.get(
            name, name
        )


def as_request(node: Any) -> Any:
    """CloudFormation's names as the API has them."""
    if isinstance(node, list):
        return [as_request(each) for each in node]
    if isinstance(node, dict):
        return {key[0].lower() + key[1:]: as_request(each) for key, each in node.items()}
    return node


def error_classes() -> set[type[JobError]]:
    """All errors of the job."""
    found = {JobError}
    while more := {each for cls in found for each in cls.__subclasses__()} - found:
        found |= more
    return {each for each in found if each.__module__ == errors.__name__}


def test_every_error_of_the_job_is_either_worth_another_try_or_not() -> None:
    assert error_classes() == AGAIN | NEVER
    assert not AGAIN & NEVER
    assert not {each.exit_code for each in AGAIN} & {each.exit_code for each in NEVER}


# AWS: the template


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
        *s3._RIGHTS.values(),
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


# AWS: submitting


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


def register(client: Any, template: Template) -> None:
    """Makes what the template describes."""
    role = boto3.client("iam").create_role(RoleName="role", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    ec2 = boto3.client("ec2")
    machines = as_request(template.properties("Machines"))
    del machines["replaceComputeEnvironment"]  # CloudFormation's own
    machines["computeResources"] |= {
        "instanceRole": role.replace("role/", "instance-profile/"),
        "subnets": [ec2.describe_subnets()["Subnets"][0]["SubnetId"]],
        "securityGroupIds": [ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]],
    }
    boto3.client("iam").create_instance_profile(InstanceProfileName="role")
    made = client.create_compute_environment(computeEnvironmentName="machines", serviceRole=role, **machines)
    queue = as_request(template.properties("Queue"))
    queue["computeEnvironmentOrder"][0]["computeEnvironment"] = made["computeEnvironmentArn"]
    client.create_job_queue(state="ENABLED", **queue)  # AWS takes that for granted
    client.register_job_definition(**as_request(template.properties("Definition")))


def described(client: Any, *ids: str) -> list[dict[str, Any]]:
    jobs = client.describe_jobs(jobs=list(ids))["jobs"]
    return sorted(jobs, key=lambda each: ids.index(each["jobId"]))


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


# What both programs refuse

SECRETS = ("LIGHTLY_TOKEN", "LIGHTLY_TOKEN_FILE", "CORAL_LIGHTLY_EXTERNAL_ID", "AWS_SECRET_ACCESS_KEY",
           "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS")  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_refused_and_not_shown(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.parse([*PAIRS, f"{name}=hunter2"])
    (problem,) = caught.value.problems
    assert problem.startswith(f"{name} must not be given here") and "hunter2" not in problem


def test_every_secret_setting_is_refused() -> None:
    assert {knob.env for _, knob in knobs() if knob.secret} <= set(SECRETS)


@pytest.mark.parametrize(
    ("pair", "problem"),
    [
        ("CORAL_N_SAMPLE=5", "CORAL_N_SAMPLE is not a setting: `entrypoint.py --help` lists them."),
        ("PATH=/bin", "PATH is not a setting: `entrypoint.py --help` lists them."),
        ("AWS_BATCH_JOB_ID=1", "AWS_BATCH_JOB_ID is not a setting: `entrypoint.py --help` lists them."),
        ("CORAL_SEED=x", "CORAL_SEED='x' must be 0 to 4294967295."),
        ("CORAL_SHARD_COUNT=2", "CORAL_SHARD_COUNT is set for each machine: say --shards instead."),
        ("CORAL_SHARD_INDEX=0", "CORAL_SHARD_INDEX is set for each machine: say --shards instead."),
        ("nonsense", "'nonsense' is no setting: write NAME=VALUE."),
        ("CORAL_INPUT=frames", "CORAL_INPUT='frames' is on no machine of the cloud: name a bucket."),
        ("CORAL_OUTPUT=file:///x", "CORAL_OUTPUT='file:///x' is on no machine of the cloud: name a bucket."),
        ("CORAL_OUTPUT=", "CORAL_OUTPUT is not given: write CORAL_OUTPUT=... with the URI of a bucket."),
    ],
)
def test_wrong_settings_are_found_before_anything_costs_money(pair: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.parse([*PAIRS, pair])
    assert problem in caught.value.problems


def test_what_is_given_comes_through() -> None:
    more = {"AWS_REGION": "eu-west-1", "CORAL_CLASSES": "s3://in-bucket/names.txt", "CORAL_WEIGHTS": "https://a.b/?c=d"}
    assert settings.parse([*PAIRS, *(f"{name}={value}" for name, value in more.items())]) == ENVIRONMENT | more


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


# Google

MACHINE_LOST = {50001, 50002, 50003, 50004, 50006}  # preempted, silent, rebooted, unresponsive, made anew
TIMED_OUT = 50005
ACCOUNT = "coralpick@project.iam.gserviceaccount.com"
TOKEN = "projects/project/secrets/lightly/versions/latest"


def message(text: str) -> Any:
    """A job as Google's client understands it; a field that it does not know is an error."""
    return json_format.Parse(text, batch_v1.Job.pb()(), ignore_unknown_fields=False)


def job(command: str, shards: int = 3, secret: str | None = None) -> dict[str, Any]:
    """What is submitted."""
    return google.filled(command, "image@sha256:0", "us-central1", ACCOUNT, shards, ENVIRONMENT, secret)


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
    program = tmp_path / "gcloud"
    program.write_text(f"#!{sys.executable}\n{GCLOUD}")
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


def test_google_says_why_a_job_failed(gcloud: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = [{"description": "Job state is set from RUNNING to FAILED."}, {}]
    (gcloud / "answers").write_text(json.dumps([RUNNING, {"state": "FAILED", "statusEvents": events}]))
    assert settings.run(google.command, [*GOOGLE_OPTIONS, "--shards", "2", *PAIRS]) == 1
    assert "ended as FAILED: Job state is set from RUNNING to FAILED." in capsys.readouterr().err
    assert not list(gcloud.glob("coralpick-select-*.json"))


def test_google_cannot_be_asked_any_more(gcloud: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (gcloud / "answers").write_text(json.dumps([None] * 30))
    assert settings.run(google.command, [*GOOGLE_OPTIONS, *PAIRS]) == ServiceUnavailable.exit_code
    assert "goes on: no network" in capsys.readouterr().err


def test_without_gcloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert settings.run(google.command, [*GOOGLE_OPTIONS, *PAIRS]) == ServiceUnavailable.exit_code
    assert "There is no gcloud" in capsys.readouterr().err


# All of it


def test_every_variable_that_is_set_is_a_setting() -> None:
    container = Template(LightlyTokenSecretArn=SECRET).properties("Definition")["ContainerProperties"]
    names = {each["Name"] for each in (*container["Environment"], *container["Secrets"])}
    for command in ("predict", "select", "run"):
        environment = job(command, secret=TOKEN)["taskGroups"][0]["taskSpec"]["environment"]
        names |= {*environment["variables"], *environment.get("secretVariables", {})}
    known = {knob.env for _, knob in knobs()}
    assert {name for name in names - known if not name.startswith(("AWS_", "LIGHTLY_"))} == set()
    assert {"CORAL_REQUIRE_GPU", "CORAL_SHARD_COUNT", "LIGHTLY_TOKEN"} <= names


def readme_commands(program: str) -> list[list[str]]:
    """The arguments of a program where the page shows how to call it."""
    text = (CLOUD / "README.md").read_text().replace("\\\n", " ")
    return [shlex.split(found) for found in re.findall(rf"^ +\.venv/bin/python -m {program} (.*)$", text, re.MULTILINE)]


def test_the_commands_of_the_page_for_aws(batch: Any) -> None:
    commands = readme_commands("cloud.aws.submit")
    assert commands
    for each in commands:
        assert settings.run(aws.command, each) == 0


def test_the_commands_of_the_page_for_google(gcloud: Path) -> None:
    commands = readme_commands("cloud.google.submit")
    assert commands
    for each in commands:
        (gcloud / "answers").write_text(json.dumps([SUCCEEDED] * 2))
        assert settings.run(google.command, each) == 0


def test_the_page_names_the_parameters_of_the_template() -> None:
    text = (CLOUD / "README.md").read_text()
    (deploy,) = re.findall(r"--parameter-overrides((?:.|\n)*?)\n\n", text)
    given = set(re.findall(r"(\w+)=", deploy))
    parameters = decode(str(TEMPLATE))[0]["Parameters"]
    required = {name for name, each in parameters.items() if "Default" not in each}
    assert required <= given <= set(parameters)
