"""What both submit programs share: the settings given to them as NAME=VALUE, and how a program ends."""

import sys
from collections.abc import Sequence

import click

from job.errors import JobError, SettingsError
from job.settings import knobs
from job.uris import redacted

_SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")
_OTHERS = ("AWS_", "GOOGLE_")
_BY_PROGRAM = ("CORAL_SHARD_INDEX", "CORAL_SHARD_COUNT")
# To read its value may be to read a file in the bucket, for which the job has the rights and this machine perhaps not.
_UNREAD = "CORAL_CLASSES"


def parse(pairs: Sequence[str]) -> dict[str, str]:
    """Checks settings before anything is started that costs money.

    Args:
        pairs: The settings, each as NAME=VALUE.

    Returns:
        Name to value.

    Raises:
        SettingsError: Some are missing, malformed, unknown or secret; it holds all problems at once.
    """
    problems = [f"{pair!r} is no setting: write NAME=VALUE." for pair in pairs if "=" not in pair]
    given = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    known = {knob.env: knob for _, knob in knobs()}
    for name, value in given.items():
        if (name in known and known[name].secret) or any(word in name for word in _SECRET_WORDS):
            problems.append(
                f"{name} must not be given here, since whoever may look at a job reads its settings: keep it in the "
                "cloud's store of secrets, or give the job's role the right (cloud/README.md)."
            )
        elif name in _BY_PROGRAM:
            problems.append(f"{name} is set for each machine: say --shards instead.")
        elif name in known and name != _UNREAD:
            try:
                known[name].parse(value)
            except ValueError as error:
                problems.append(f"{name}={redacted(value)!r} {error}.")
        elif name not in known and (not name.startswith(_OTHERS) or name.startswith("AWS_BATCH")):
            problems.append(f"{name} is not a setting: `entrypoint.py --help` lists them.")
    for name in ("CORAL_INPUT", "CORAL_OUTPUT"):
        if not given.get(name):
            problems.append(f"{name} is not given: write {name}=... with the URI of a bucket.")
        elif given[name].startswith("file:") or "://" not in given[name]:
            problems.append(f"{name}={given[name]!r} is on no machine of the cloud: name a bucket.")
    if problems:
        raise SettingsError(*problems)
    return given


def run(command: click.Command, arguments: Sequence[str]) -> int:
    """Runs a program and returns its exit code: its own, or one of the job's."""
    try:
        return int(command.main(list(arguments), standalone_mode=False) or 0)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return SettingsError.exit_code
    except JobError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
