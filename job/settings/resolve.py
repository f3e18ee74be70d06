"""From flags and environment variables to settings, checked, with all problems at once; and from settings to text.

A value comes from the command line, else from the environment, else it is the default; an empty value counts as absent.
"""

import difflib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from job import scores
from job.errors import SettingsError
from job.secret import Secret
from job.settings import Settings, knobs
from job.settings.knob import PREFIX
from job.uris import Location, redacted

# Of Lightly's platform.
METHODS = ("CORAL", "CORESET", "ACTIVE_LEARNING", "RANDOM")
# For CORAL_PREDICTIONS.
NONE = "none"


def resolve(flags: Mapping[str, str | None], environment: Mapping[str, str]) -> Settings:
    """Builds the settings from what was given.

    Args:
        flags: Texts given on the command line, by field name; None where nothing was given.
        environment: The environment variables.

    Returns:
        The settings, checked.

    Raises:
        SettingsError: Something is missing, malformed, contradictory or unknown; it holds all problems at once.
    """
    problems = [_unknown(name) for name in sorted(environment) if _is_unknown(name)]
    values: dict[str, Any] = {}
    for name, knob in knobs():
        text, source = flags.get(name), knob.option
        if not text:
            text, source = environment.get(knob.env), knob.env
        if not text:
            if knob.shown_default == "required":
                problems.append(f"{knob.env} is not set: {knob.help}")
            continue
        try:
            values[name] = knob.parse(text)
        except ValueError as error:
            shown = "***" if knob.secret else redacted(text)
            problems.append(f"{source}={shown!r} {error}.")
    if problems:
        raise SettingsError(*problems)
    settings = Settings(**values)
    problems = list(_contradictions(settings))
    if problems:
        raise SettingsError(*problems)
    return settings


def as_json(settings: Settings) -> dict[str, Any]:
    """The settings by variable name, ready for run.json.

    Secrets become ``***``, and URLs lose what may be a password or a signature.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, Secret):
            return str(value)
        return redacted(value) if isinstance(value, str) else value

    return {knob.env: plain(getattr(settings, name)) for name, knob in knobs()}


def markdown_table() -> str:
    """The README's table of settings."""
    lines: list[str] = []
    group = ""
    for _, knob in knobs():
        if knob.group != group:
            group = knob.group
            lines += ["", f"**{group}**", "", "| variable | default | meaning |", "|---|---|---|"]
        lines.append(f"| `{knob.env}` | {knob.shown_default} | {knob.help} |")
    return "\n".join(lines[1:]) + "\n"


def _is_unknown(name: str) -> bool:
    return name.startswith(PREFIX) and name not in {knob.env for _, knob in knobs()}


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, [knob.env for _, knob in knobs()], n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else "`entrypoint.py --help` lists the settings."
    return f"{name} is not a setting: {hint}"


def _contradictions(settings: Settings) -> Iterator[str]:
    if settings.min_size and settings.max_size and settings.min_size > settings.max_size:
        sizes = f"CORAL_MIN_SIZE={settings.min_size} is above CORAL_MAX_SIZE={settings.max_size}"
        yield f"{sizes}: lower the first or raise the second."
    if settings.require_gpu and settings.device == "cpu":
        yield "CORAL_REQUIRE_GPU=1 and CORAL_DEVICE='cpu' contradict each other: leave one out."
    if _same(settings.input, settings.output):
        yield f"CORAL_INPUT and CORAL_OUTPUT are both {settings.input!r}: give the results a folder of their own."
    if settings.previous and _same(settings.previous, settings.output):
        yield f"CORAL_PREVIOUS and CORAL_OUTPUT are both {settings.output!r}: an output is continued without it."
    yield from _selection_contradictions(settings)
    yield from _lightly_contradictions(settings)


def _selection_contradictions(settings: Settings) -> Iterator[str]:
    if settings.strategy != "coral" and (settings.score_strength, settings.diversity_strength) != (1, 1):
        yield "CORAL_SCORE_STRENGTH and CORAL_DIVERSITY_STRENGTH are for coral: leave them out, or set CORAL_STRATEGY."
    if settings.predictions and settings.previous:
        yield "CORAL_PREVIOUS and CORAL_PREDICTIONS both bring detections: leave one out."
    if settings.predictions and settings.embedding == "simclr":
        yield "CORAL_PREDICTIONS brings no images, and CORAL_EMBEDDING='simclr' trains on them: give embeddings, too."
    if settings.predictions == NONE and settings.embedding == "detector":
        yield "CORAL_PREDICTIONS='none' leaves nothing to select by: set CORAL_EMBEDDING to a file of embeddings."


def _lightly_contradictions(settings: Settings) -> Iterator[str]:
    if settings.lightly_token and settings.lightly_token_file:
        yield "LIGHTLY_TOKEN and LIGHTLY_TOKEN_FILE are both set: leave one out."
    if settings.token and not settings.lightly_dataset:
        yield "A Lightly token is given, but CORAL_LIGHTLY_DATASET is not: say which dataset to upload to."
    if not settings.token:
        if settings.lightly_select == "platform":
            yield "CORAL_LIGHTLY_SELECT='platform' needs a token: set LIGHTLY_TOKEN."
        if settings.lightly_datasource:
            yield "CORAL_LIGHTLY_DATASOURCE=1 needs a token: set LIGHTLY_TOKEN."
    if settings.lightly_select == "platform" and settings.strategy.upper() not in METHODS:
        yield f"CORAL_LIGHTLY_SELECT='platform' knows {', '.join(METHODS).lower()}: set CORAL_STRATEGY to one of these."
    if settings.lightly_select == "platform" and (settings.score not in scores.LIGHTLYS or settings.class_weights):
        yield f"CORAL_LIGHTLY_SELECT='platform' knows {', '.join(scores.LIGHTLYS)}, unweighted: set CORAL_SCORE to one."
    if settings.token and settings.predictions and (settings.predictions == NONE or settings.embedding == "detector"):
        yield "An upload to Lightly needs predictions and embeddings: set CORAL_PREDICTIONS, CORAL_EMBEDDING to files."
    if settings.token and settings.predictions and settings.lightly_images != "none":
        yield "CORAL_PREDICTIONS brings no images to upload to Lightly: set CORAL_LIGHTLY_IMAGES=none."
    if settings.lightly_select == "platform" and (settings.score_strength, settings.diversity_strength) != (1, 1):
        yield "CORAL_LIGHTLY_SELECT='platform' knows no strengths: leave CORAL_SCORE_STRENGTH and the like out."
    if bool(settings.lightly_role_arn) != bool(settings.lightly_external_id):
        yield "CORAL_LIGHTLY_ROLE_ARN and CORAL_LIGHTLY_EXTERNAL_ID go together: set both or none."
    if settings.lightly_role_arn and not settings.lightly_datasource:
        yield "CORAL_LIGHTLY_ROLE_ARN is for CORAL_LIGHTLY_DATASOURCE=1: set that, or leave the role out."
    if settings.lightly_datasource:
        if Location.of(settings.input).scheme != "s3" or settings.input.endswith((".txt", ".jsonl")):
            yield f"CORAL_LIGHTLY_DATASOURCE=1 needs a folder on S3, and CORAL_INPUT is {settings.input!r}."
        if settings.lightly_images == "full":
            yield "CORAL_LIGHTLY_IMAGES='full' uploads what CORAL_LIGHTLY_DATASOURCE=1 reads in place: leave one out."


def _same(one: str, other: str) -> bool:
    a, b = Location.of(one), Location.of(other)
    return a.normal == b.normal or (not (a.scheme or b.scheme) and os.path.realpath(a.path) == os.path.realpath(b.path))
