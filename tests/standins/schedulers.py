"""Exit codes of the job and how schedulers must treat them, for the tests of all schedulers; settings to submit."""

import re
import shlex

from job import errors
from job.errors import JobError, Stopped
from tests.conftest import ROOT

CLOUD = ROOT / "cloud"
PAIRS = ("CORAL_INPUT=s3://in-bucket/frames", "CORAL_OUTPUT=s3://out-bucket/picks", "CORAL_N_SAMPLES=5")
ENVIRONMENT = dict(pair.split("=", 1) for pair in PAIRS)

# Errors that a retry can help against, and those that it cannot: every error of the job is one of the two.
AGAIN: set[type[JobError | Stopped]] = {errors.JobError, errors.ServiceUnavailable, errors.TryAgain, Stopped}
NEVER: set[type[JobError | Stopped]] = {
    errors.SettingsError,
    errors.LinkError,
    errors.TooManyFailedImages,
    errors.DamagedFileError,
    errors.AccessDenied,
}
KILLED = 137


def error_classes() -> set[type[JobError | Stopped]]:
    """Returns all errors of the job, and the end after a request to stop."""
    found: set[type[JobError | Stopped]] = {JobError, Stopped}
    while more := {each for cls in found for each in cls.__subclasses__()} - found:
        found |= more
    return {each for each in found if each.__module__ == errors.__name__}


def readme_commands(program: str) -> list[list[str]]:
    """Returns the arguments of each call of a program in cloud/README.md."""
    text = (CLOUD / "README.md").read_text().replace("\\\n", " ")
    return [shlex.split(found) for found in re.findall(rf"^ +\.venv/bin/python -m {program} (.*)$", text, re.MULTILINE)]
