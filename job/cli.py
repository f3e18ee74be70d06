"""The commands: run, predict, select and check."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import click

import job
from job import limits, logs, packages, shards
from job.errors import JobError, SettingsError, Stopped
from job.secret import hide_environment
from job.settings import Settings, knobs
from job.settings.knob import Knob
from job.settings.resolve import resolve
from job.shards import Shard
from job.stopping import Stop
from job.usage import usage

logger = logging.getLogger(__name__)

_EPILOG = (
    "A flag wins over its environment variable. Exit codes: 64 a setting is wrong; 65 too many unusable images; 69 a "
    "service is unavailable; 70 internal error; 75 retry later; 77 permission denied; 143 stopped, finished work is "
    "saved."
)
_COMMON = "Common settings"


def main() -> int:
    """Runs the command line and returns the exit code."""
    usage.restart()
    limits.limit_threads(os.environ)
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as exit_request:
        return exit_request.exit_code
    except click.ClickException as error:
        error.show()
        return SettingsError.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except (JobError, Stopped) as error:
        for problem in getattr(error, "problems", [str(error)]):
            logger.error(problem)
        return error.exit_code
    except Exception as error:
        if explained := limits.explain_memory_error(error) or packages.explain_missing_package(error):
            logger.error(str(explained))
            return explained.exit_code
        logger.exception("Internal error (please report it)")
        return JobError.exit_code
    return 0


class _Command(click.Command):
    """Lists its own options, then the settings that it reads: the common ones first, then the others by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [option for option in self.params if isinstance(option, click.Option) and option.help]
        if options:
            with formatter.section("Options"):
                records = [record for option in options if (record := option.get_help_record(ctx))]
                formatter.write_dl(records, col_max=34)
        write_settings(formatter, [knob for _, knob in knobs() if reads(self.name, knob)])


class _Group(click.Group):
    """Takes a command line without a command for `run`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("--help", "--version")):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        write_settings(formatter, [knob for _, knob in knobs() if knob.common])
        formatter.write_paragraph()
        formatter.write_text("All settings of a command: COMMAND --help.")


def reads(command: str | None, knob: Knob) -> bool:
    """Whether a command reads a setting; `run` and `check` read all of them."""
    return command not in ("predict", "select") or knob.step in ("both", command)


def write_settings(formatter: click.HelpFormatter, shown: list[Knob]) -> None:
    """Writes settings for `--help`: the common ones first, then the others by group."""
    groups: dict[str, list[tuple[str, str]]] = {_COMMON: []}
    for knob in shown:
        name = f"{knob.option} {knob.metavar}".rstrip() if knob.option else knob.env
        variable = f"  [{knob.env}]" if knob.option else ""
        default = "required" if knob.shown_default == "required" else f"default: {knob.shown_default}"
        group = _COMMON if knob.common else knob.group
        groups.setdefault(group, []).append((name, f"{knob.help}  ({default}){variable}"))
    for group, rows in groups.items():
        with formatter.section(group):
            formatter.write_dl(rows, col_max=34)


def with_settings(function: Callable[..., Any]) -> Callable[..., None]:
    """Adds an option per setting, resolves the settings and listens for SIGTERM; other options go to the function."""

    def command(**flags: Any) -> None:
        own = {name: flags.pop(name) for name in flags.keys() - {name for name, _ in knobs()}}
        logs.configure(flags["log_format"] or os.environ.get("CORAL_LOG_FORMAT") or "auto")
        hide_environment(os.environ)
        settings = resolve(flags, os.environ, _read_file)
        stop = Stop()
        stop.listen()
        function(settings, stop, **own)

    decorated: Callable[..., None] = command
    for name, knob in reversed(list(knobs())):
        if knob.option:
            flag: dict[str, Any] = {"is_flag": True, "flag_value": "1", "default": None} if not knob.metavar else {}
            decorated = click.option(knob.option, name, metavar=knob.metavar or None, **flag)(decorated)
    decorated.__doc__ = function.__doc__
    decorated.__name__ = function.__name__
    return decorated


def _read_file(uri: str) -> bytes:
    from job.storage import read_file  # pyarrow takes half a second to import; --help should not wait for it

    return read_file(uri)


@click.group(cls=_Group, epilog=_EPILOG, context_settings={"max_content_width": 110})
@click.version_option(job.__version__, prog_name="coralpick")
def cli() -> None:
    """Finds the images of an unlabelled pool whose labels will improve a detector most.

    Without a command it runs the whole job. Every setting is a flag or an environment variable.
    """


@cli.command(cls=_Command, short_help="Run predict, then select.", epilog=_EPILOG)
@with_settings
def run(settings: Settings, stop: Stop) -> None:
    """Runs the detector, then picks images. With several shards, the last shard to finish picks."""
    from job import pipeline  # its libraries take seconds to import; --help should not wait for them

    if (selected := pipeline.run(settings, stop, detect_shard(settings))) is not None:
        report(settings, selected)


@cli.command(cls=_Command, short_help="Run the detector (one shard).", epilog=_EPILOG)
@with_settings
def predict(settings: Settings, stop: Stop) -> None:
    """Runs the detector on the images of one shard. Finished images are skipped."""
    from job import pipeline

    pipeline.predict(settings, stop, detect_shard(settings))


@cli.command(cls=_Command, short_help="Pick images from finished detections.", epilog=_EPILOG)
@with_settings
def select(settings: Settings, stop: Stop) -> None:
    """Picks images from the finished detections of all shards, and writes the results."""
    from job import pipeline

    report(settings, pipeline.select(settings, stop))


@cli.command(cls=_Command, short_help="Verify the setup.", epilog=_EPILOG)
@click.option("--trial", is_flag=True, help="Also run the detector on some images, and estimate the time for all.")
@click.option(
    "--price-per-hour",
    type=click.FloatRange(min=0),
    metavar="X",
    help="Price of this machine per hour: --trial then also estimates the cost of all images.",
)
@with_settings
def check(settings: Settings, stop: Stop, *, trial: bool, price_per_hour: float | None) -> None:
    """Verifies everything that a run needs, and prints one line per check. It does no work and writes no results."""
    from job import preflight

    if price_per_hour is not None and not trial:
        raise click.UsageError("--price-per-hour needs --trial: add --trial, or remove --price-per-hour.")
    preflight.run_checks(settings, stop, os.environ, trial=trial, price_per_hour=price_per_hour)


def detect_shard(settings: Settings) -> Shard:
    """The shard that this process runs, from the settings or the scheduler's variables."""
    return shards.detect(os.environ, settings.shard_index, settings.shard_count)


def report(settings: Settings, selected: list[Any]) -> None:
    """Prints the first picks and where the results are, or logs them in one line of JSON."""
    from job.publish import closing

    if logs.is_json(settings.log_format):
        logger.info("done", extra=closing.describe(settings, selected))
    else:
        click.echo(closing.render(settings, selected), file=sys.stdout)
