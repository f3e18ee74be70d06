"""What the programs for all clouds share: settings, which are checked before anything costs money."""

import pytest

from cloud import settings
from job.errors import SettingsError
from job.settings import knobs
from tests.cloud.test_google import TOKEN, job
from tests.standins.aws_template import SECRET, Template
from tests.standins.schedulers import AGAIN, ENVIRONMENT, NEVER, PAIRS, error_classes

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
        ("CORAL_N_SAMPLE=5", "CORAL_N_SAMPLE is not a setting: `entrypoint.py --help` lists all settings."),
        ("PATH=/bin", "PATH is not a setting: `entrypoint.py --help` lists all settings."),
        ("AWS_BATCH_JOB_ID=1", "AWS_BATCH_JOB_ID is not a setting: `entrypoint.py --help` lists all settings."),
        ("CORAL_SEED=x", "CORAL_SEED='x' must be 0 to 4294967295."),
        ("CORAL_SHARD_COUNT=2", "CORAL_SHARD_COUNT is set automatically on each machine: use --shards instead."),
        ("CORAL_SHARD_INDEX=0", "CORAL_SHARD_INDEX is set automatically on each machine: use --shards instead."),
        ("nonsense", "'nonsense' is not a setting: write NAME=VALUE."),
        ("CORAL_INPUT=frames", "CORAL_INPUT='frames' must be the URI of a bucket."),
        (
            "CORAL_OUTPUT=file:///x",
            "CORAL_OUTPUT='file:///x' must be the URI of a bucket.",
        ),
        ("CORAL_OUTPUT=", "CORAL_OUTPUT is missing: give CORAL_OUTPUT=... with the URI of a bucket."),
    ],
)
def test_wrong_settings_are_found_before_anything_costs_money(pair: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.parse([*PAIRS, pair])
    assert problem in caught.value.problems


def test_what_is_given_comes_through() -> None:
    more = {"AWS_REGION": "eu-west-1", "CORAL_CLASSES": "s3://in-bucket/names.txt", "CORAL_WEIGHTS": "https://a.b/?c=d"}
    assert settings.parse([*PAIRS, *(f"{name}={value}" for name, value in more.items())]) == ENVIRONMENT | more


def test_every_error_of_the_job_is_either_worth_another_try_or_not() -> None:
    assert error_classes() == AGAIN | NEVER
    assert not AGAIN & NEVER
    assert not {each.exit_code for each in AGAIN} & {each.exit_code for each in NEVER}


def test_every_variable_that_is_set_is_a_setting() -> None:
    container = Template(LightlyTokenSecretArn=SECRET).properties("Definition")["ContainerProperties"]
    names = {each["Name"] for each in (*container["Environment"], *container["Secrets"])}
    for command in ("predict", "select", "run"):
        environment = job(command, secret=TOKEN)["taskGroups"][0]["taskSpec"]["environment"]
        names |= {*environment["variables"], *environment.get("secretVariables", {})}
    known = {knob.env for _, knob in knobs()}
    assert {name for name in names - known if not name.startswith(("AWS_", "LIGHTLY_"))} == set()
    assert {"CORAL_REQUIRE_GPU", "CORAL_SHARD_COUNT", "LIGHTLY_TOKEN"} <= names
