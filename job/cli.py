"""The commands."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import click
from tabulate import tabulate

import job
from job import logs, shards
from job.errors import JobError, SettingsError
from job.settings import Settings, knobs
from job.settings.resolve import resolve
from job.shards import Shard
from job.stopping import Stop

logger = logging.getLogger(__name__)

_EPILOG = (
    "Each setting is a flag or an environment variable; a flag wins. Exit codes: 64 a setting is wrong, 65 too many "
    "unusable images, 69 a service cannot be reached, 70 a fault of the job, 75 try again, 77 a permission is missing, "
    "143 stopped and saved."
)
_SHOWN_PICKS = 10


def main() -> int:
    """Runs the command line and returns the exit code."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return SettingsError.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except JobError as error:
        for problem in getattr(error, "problems", [str(error)]):
            logger.error(problem)
        return error.exit_code
    except Exception:
        logger.exception("A fault of the job itself")
        return JobError.exit_code
    return 0


class _Command(click.Command):
    """Lists its own options, then the settings by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [each for each in self.params if isinstance(each, click.Option) and each.help]
        if own:
            with formatter.section(f"Of {self.name} alone"):
                formatter.write_dl([record for each in own if (record := each.get_help_record(ctx))], col_max=34)
        write_settings(formatter)


class _Group(click.Group):
    """Takes a command line without a command for `run`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("--help", "--version")):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        write_settings(formatter)


def write_settings(formatter: click.HelpFormatter) -> None:
    """Writes the settings' part of `--help`."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for _, knob in knobs():
        name = f"{knob.option} {knob.metavar}".rstrip() if knob.option else knob.env
        variable = f"  [{knob.env}]" if knob.option else ""
        default = "required" if knob.shown_default == "required" else f"default: {knob.shown_default}"
        groups.setdefault(knob.group, []).append((name, f"{knob.help}  ({default}){variable}"))
    for group, rows in groups.items():
        with formatter.section(group):
            formatter.write_dl(rows, col_max=34)


def with_settings(function: Callable[..., Any]) -> Callable[..., None]:
    """Adds an option for each setting, resolves them, and listens for SIGTERM; other options go to the function."""

    def command(**flags: Any) -> None:
        own = {name: flags.pop(name) for name in flags.keys() - {name for name, _ in knobs()}}
        logs.configure(flags["log_format"] or os.environ.get("CORAL_LOG_FORMAT") or "auto")
        settings = resolve(flags, os.environ)
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


@click.group(cls=_Group, epilog=_EPILOG, context_settings={"max_content_width": 110})
@click.version_option(job.__version__, prog_name="coralpick")
def cli() -> None:
    """Finds the images of an unlabelled pool whose labels will help a detector most.

    Without a command it runs the whole job.
    """


@cli.command(cls=_Command)
@with_settings
def run(settings: Settings, stop: Stop) -> None:
    """Detects, then selects; of several shards, the last one to finish selects."""
    from job import pipeline  # the libraries behind it take seconds to import; --help should not

    if (selected := pipeline.run(settings, stop, shard_of(settings))) is not None:
        report(settings, selected)


@cli.command(cls=_Command)
@with_settings
def predict(settings: Settings, stop: Stop) -> None:
    """Detects what is not detected yet, in one shard of the images."""
    from job import pipeline

    pipeline.predict(settings, stop, shard_of(settings))


@cli.command(cls=_Command)
@with_settings
def select(settings: Settings, stop: Stop) -> None:
    """Selects from what all shards have detected, and writes the results."""
    from job import pipeline

    report(settings, pipeline.select(settings, stop))


@cli.command(cls=_Command)
@click.option("--trial", is_flag=True, help="Detect on 20 images, too, and tell how long all of them take.")
@click.option(
    "--price-per-hour",
    type=click.FloatRange(min=0),
    metavar="X",
    help="What this machine costs an hour: --trial then also tells what the images cost.",
)
@with_settings
def check(settings: Settings, stop: Stop, *, trial: bool, price_per_hour: float | None) -> None:
    """Tries everything that a run needs, one line each, and does no work."""
    from job import preflight

    if price_per_hour is not None and not trial:
        raise click.UsageError("--price-per-hour is for --trial: add that, or leave it out.")
    preflight.run_checks(settings, stop, os.environ, trial=trial, price_per_hour=price_per_hour)


def shard_of(settings: Settings) -> Shard:
    """Which shard this process is."""
    return shards.detect(os.environ, settings.shard_index, settings.shard_count)


def _number(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"


def report(settings: Settings, selected: list[Any]) -> None:
    """Tells the person what came out."""
    if logs.is_json(settings.log_format):
        logger.info("done", extra={"selected": len(selected), "output": settings.output})
        return
    rows = [[each.rank, each.file_name, _number(each.score), each.reason] for each in selected[:_SHOWN_PICKS]]
    headers = ["rank", "file", settings.score, "why"]
    lines = ["", tabulate(rows, headers, maxcolwidths=[None, 40, None, 70], disable_numparse=True)]
    if len(selected) > _SHOWN_PICKS:
        lines.append(f"... and {len(selected) - _SHOWN_PICKS} more.")
    lines += ["", f"The answer:    {settings.output}/selected.txt  (with reasons: selected.csv, selected.jsonl)"]
    lines += [f"To look at:    {settings.output}/report.html"]
    lines += [f"Every image:   {settings.output}/images.parquet, embeddings.parquet, failures.jsonl"]
    lines += [f"How it ran:    {settings.output}/run.json"]
    click.echo("\n".join(lines), file=sys.stdout)
