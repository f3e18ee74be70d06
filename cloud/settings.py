"""Code that both submit programs share: settings given as NAME=VALUE, and exit codes."""

import sys
from collections.abc import Sequence

import click

from job.errors import JobError, SettingsError
from job.settings import knobs
from job.uris import redact

_SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")
_OTHER_PREFIXES = ("AWS_", "GOOGLE_")
_SET_BY_PROGRAM = ("CORAL_SHARD_INDEX", "CORAL_SHARD_COUNT")
# To check its value may mean to read a file in the bucket. The job has the permission, but this machine may lack it.
_UNCHECKED = "CORAL_CLASSES"


def parse(pairs: Sequence[str]) -> dict[str, str]:
    """Parses and checks settings before the program starts anything that costs money.

    Args:
        pairs: The settings, each as NAME=VALUE.

    Returns:
        Name to value.

    Raises:
        SettingsError: If settings are missing, malformed, unknown or secret; the error contains all problems.
    """
    problems = [f"{pair!r} is not a setting: write NAME=VALUE." for pair in pairs if "=" not in pair]
    values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    knob_of = {knob.env: knob for _, knob in knobs()}
    for name, value in values.items():
        if (name in knob_of and knob_of[name].secret) or any(word in name for word in _SECRET_WORDS):
            problems.append(
                f"{name} must not be given here, since everyone who can view a job can read its settings: use the "
                "cloud's secret store, or give the permission to the job's role (cloud/README.md)."
            )
        elif name in _SET_BY_PROGRAM:
            problems.append(f"{name} is set automatically on each machine: use --shards instead.")
        elif name in knob_of and name != _UNCHECKED:
            try:
                knob_of[name].parse(value)
            except ValueError as error:
                problems.append(f"{name}={redact(value)!r} {error}.")
        elif name not in knob_of and (not name.startswith(_OTHER_PREFIXES) or name.startswith("AWS_BATCH")):
            problems.append(f"{name} is not a setting: `entrypoint.py --help` lists all settings.")
    for name in ("CORAL_INPUT", "CORAL_OUTPUT"):
        if not values.get(name):
            problems.append(f"{name} is missing: give {name}=... with the URI of a bucket.")
        elif values[name].startswith("file:") or "://" not in values[name]:
            problems.append(f"{name}={values[name]!r} must be the URI of a bucket.")
    if problems:
        raise SettingsError(*problems)
    return values


def run(command: click.Command, arguments: Sequence[str]) -> int:
    """Runs a submit program; returns the program's exit code, or that of the job's error."""
    try:
        return int(command.main(list(arguments), standalone_mode=False) or 0)
    except click.exceptions.Exit as exit_request:
        return exit_request.exit_code
    except click.ClickException as error:
        error.show()
        return SettingsError.exit_code
    except JobError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
