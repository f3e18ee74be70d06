"""Flags and environment variables → checked settings, with all problems reported at once; and settings → text.

A flag wins over the environment variable, and that over the default. An empty value counts as absent.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from job.errors import SettingsError
from job.secret import Secret
from job.settings.choices import LIGHTLY_SCORES, NONE, TIMM
from job.settings.knob import PREFIX
from job.settings.mix import ScoreMix, parse_score
from job.settings.parse import ReadFile
from job.settings.schema import Settings, knobs
from job.settings.strategy import STRATEGIES, Strategy
from job.uris import Location, normalize, redact, relativize
from job.video import Sampling

# The platform's own selection does not know the default score.
_PLATFORM_SCORE = "uncertainty_entropy"
# Kubernetes sets such variables in every pod for each Service of the namespace, so also for one that is named coral.
_SERVICE_LINK = re.compile(
    r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)=.*"
    r"|\w+_PORT=(tcp|udp|sctp)://.*",
    re.DOTALL,
)
# Where the output has the picks of a run, as `relativize` returns it. `job.publish` is above this room.
_PICKS = ("selected.txt/", "selected.csv/", "selected.jsonl/", "selected/", "exports/")
_QUOTATION_MARKS = ('""', "''", "``", "\u201c\u201d", "\u2018\u2019")
_INVISIBLE = "\ufeff\u200b"  # str.strip leaves them


def _read_local(path: str) -> bytes:
    return Path(path).read_bytes()


def resolve(
    flags: Mapping[str, str | None], environment: Mapping[str, str], read_file: ReadFile = _read_local
) -> Settings:
    """Builds the settings.

    Args:
        flags: Texts from the command line, by field name; None for a flag that was not given.
        environment: The environment variables.
        read_file: Reads a file that a setting names, from a path or a bucket; local files only by default.

    Returns:
        The settings, checked.

    Raises:
        SettingsError: If a setting is missing, malformed, unknown or contradicts another one. It holds all problems.
    """
    problems = [_unknown(name) for name in sorted(environment) if _is_unknown(name, environment[name])]
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
            _refuse_wrapping(text)
            values[name] = knob.parse(text, read_file) if knob.reads_file else knob.parse(text)
        except ValueError as error:
            shown = "***" if knob.secret else redact(text)
            problems.append(f"{source}={shown!r} {error}.")
    if problems:
        raise SettingsError(*problems)
    if values.get("lightly_select") == "platform":
        values.setdefault("score", parse_score(_PLATFORM_SCORE))
    settings = Settings(**values)
    problems = list(_contradictions(settings))
    if problems:
        raise SettingsError(*problems)
    return settings


def as_json(settings: Settings) -> dict[str, Any]:
    """The settings by variable name, for run.json.

    CORAL_INPUT becomes absolute, so that it can be found from any folder. Secrets become ``***``. URLs lose their
    credentials and signatures.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, Secret | Strategy | ScoreMix | Sampling):
            return str(value)
        return redact(value) if isinstance(value, str) else value

    settings = replace(settings, input=normalize(settings.input))
    values = {knob.env: plain(getattr(settings, name)) for name, knob in knobs()}
    return values | {"CORAL_PREVIOUS": ",".join(map(redact, settings.previous)) or None}


def markdown_table() -> str:
    """The table of settings in docs/settings.md."""
    lines: list[str] = []
    group = ""
    for _, knob in knobs():
        if knob.group != group:
            group = knob.group
            lines += ["", f"**{group}**", "", "| variable | default | meaning |", "|---|---|---|"]
        lines.append(f"| `{knob.env}` | {knob.shown_default} | {knob.help} |")
    return "\n".join(lines[1:]) + "\n"


def _is_unknown(name: str, value: str) -> bool:
    is_ours = name.startswith(PREFIX) and not _SERVICE_LINK.fullmatch(f"{name}={value}")
    return is_ours and name not in {knob.env for _, knob in knobs()}


def _refuse_wrapping(text: str) -> None:
    """Refuses what was put around a value by accident: it would become part of a path or a name.

    Raises:
        ValueError: If quotation marks, blanks or line breaks are around the text.
    """
    stripped = text.strip().strip(_INVISIBLE).strip()
    if len(stripped) > 1 and stripped[0] + stripped[-1] in _QUOTATION_MARKS:
        raise ValueError("has quotation marks around it, which `docker run --env-file` keeps: remove them")
    # A JSON list may have them, and a block of YAML ends with a line break.
    if stripped != text and not stripped.startswith("["):
        raise ValueError("has blanks or line breaks around it, as from a file with Windows line ends: remove them")


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, [knob.env for _, knob in knobs()], n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else "`entrypoint.py run --help` lists all settings."
    return f"{name} is not a setting: {hint}"


def _contradictions(settings: Settings) -> Iterator[str]:
    if settings.min_size and settings.max_size and settings.min_size > settings.max_size:
        sizes = f"CORAL_MIN_SIZE={settings.min_size} is above CORAL_MAX_SIZE={settings.max_size}"
        yield f"{sizes}: lower the first or raise the second."
    if settings.require_gpu and settings.device == "cpu":
        yield "CORAL_REQUIRE_GPU=1 and CORAL_DEVICE='cpu' contradict each other: remove one."
    if settings.engine == "ray" and ":" in settings.device:
        yield f"CORAL_ENGINE='ray' and CORAL_DEVICE={settings.device!r}, one GPU, contradict each other: remove one."
    if (settings.workers or 1) > 1 and (settings.engine == "none" or ":" in settings.device):
        one = "CORAL_ENGINE='none'" if settings.engine == "none" else f"CORAL_DEVICE={settings.device!r}"
        yield f"CORAL_WORKERS={settings.workers} and {one}, one worker, contradict each other: remove one."
    if _same(settings.input, settings.output):
        yield f"CORAL_INPUT and CORAL_OUTPUT are both {settings.input!r}: set CORAL_OUTPUT to another folder."
    if any(_same(uri, settings.output) for uri in settings.previous):
        yield (
            f"CORAL_PREVIOUS and CORAL_OUTPUT are both {settings.output!r}: remove it from CORAL_PREVIOUS, since a "
            "run resumes in its output anyway."
        )
    if settings.labelled and _same(settings.labelled, settings.output):
        yield (
            f"CORAL_LABELLED and CORAL_OUTPUT are both {settings.output!r}, where the picks of this run replace the "
            "labelled ones: set CORAL_OUTPUT to a new folder."
        )
    lists = {"CORAL_LABELLED": settings.labelled, "CORAL_INPUT": settings.input, "CORAL_REJECTED": settings.rejected}
    for name, uri in lists.items():
        if uri and _is_replaced(uri, settings.output):
            yield (
                f"{name}={uri!r} is in CORAL_OUTPUT, where the picks of this run replace it: copy it to another place, "
                "or set CORAL_OUTPUT to a new folder."
            )
    if settings.rejected and _same(settings.rejected, settings.output):
        yield (
            f"CORAL_REJECTED and CORAL_OUTPUT are both {settings.output!r}, so that all picks would be rejected: set "
            "CORAL_REJECTED to a list of the rejected ones."
        )
    if settings.rejected and settings.lightly_select == "platform":
        yield ("CORAL_REJECTED works with the job's own selection only: remove it, or set CORAL_LIGHTLY_SELECT=local.")
    yield from _selection_contradictions(settings)
    yield from _lightly_contradictions(settings)


def _has_strengths(settings: Settings) -> bool:
    defaults = Settings(input="-", output="-")
    strengths = settings.score_strength, settings.diversity_strength
    return strengths != (defaults.score_strength, defaults.diversity_strength)


def _selection_contradictions(settings: Settings) -> Iterator[str]:
    if settings.strategy not in (STRATEGIES["coral"], STRATEGIES["coral_objects"]) and _has_strengths(settings):
        yield (
            "CORAL_SCORE_STRENGTH and CORAL_DIVERSITY_STRENGTH work with CORAL_STRATEGY=coral or coral_objects only: "
            "remove them, or change CORAL_STRATEGY."
        )
    if settings.strategy.uses_objects and settings.predictions:
        yield (
            "CORAL_STRATEGY compares objects, and predictions from CORAL_PREDICTIONS have no features of boxes: remove "
            "CORAL_PREDICTIONS, or set CORAL_STRATEGY=coral."
        )
    if settings.predictions and settings.predictions != NONE and _same(settings.predictions, settings.output):
        yield (
            f"CORAL_PREDICTIONS and CORAL_OUTPUT are both {settings.output!r}: set CORAL_OUTPUT to another folder, or "
            "remove CORAL_PREDICTIONS to select from the output's own detections."
        )
    if settings.embedding_weights and not settings.embedding.startswith(TIMM):
        yield (
            f"CORAL_EMBEDDING_WEIGHTS is set, but CORAL_EMBEDDING={settings.embedding!r} is not a model of timm: set "
            "CORAL_EMBEDDING=timm:<model>, or remove the weights."
        )
    if settings.predictions and settings.previous:
        yield "CORAL_PREVIOUS and CORAL_PREDICTIONS both provide detections: remove one."


def _lightly_contradictions(settings: Settings) -> Iterator[str]:
    yield from _upload_contradictions(settings)
    if settings.lightly_select == "platform":
        yield from _platform_contradictions(settings)
    if settings.lightly_datasource and not settings.token:
        yield "CORAL_LIGHTLY_DATASOURCE=1 needs a token: set LIGHTLY_TOKEN."
    if bool(settings.lightly_role_arn) != bool(settings.lightly_external_id):
        yield "CORAL_LIGHTLY_ROLE_ARN and CORAL_LIGHTLY_EXTERNAL_ID belong together: set both or neither."
    if settings.lightly_role_arn and not settings.lightly_datasource:
        yield "CORAL_LIGHTLY_ROLE_ARN needs CORAL_LIGHTLY_DATASOURCE=1: set that, or remove the role."
    if settings.lightly_datasource:
        if Location.parse(settings.input).scheme != "s3" or settings.input.endswith((".txt", ".jsonl")):
            yield f"CORAL_LIGHTLY_DATASOURCE=1 needs a folder on S3, but CORAL_INPUT is {settings.input!r}."
        if settings.lightly_images == "full":
            yield (
                "CORAL_LIGHTLY_IMAGES='full' uploads the files that CORAL_LIGHTLY_DATASOURCE=1 lets the platform read: "
                "remove one."
            )


def _upload_contradictions(settings: Settings) -> Iterator[str]:
    if settings.lightly_token and settings.lightly_token_file:
        yield "LIGHTLY_TOKEN and LIGHTLY_TOKEN_FILE are both set: remove one."
    if settings.token and not settings.lightly_dataset:
        yield "A Lightly token is set, but CORAL_LIGHTLY_DATASET is not: set it to the dataset to upload to."
    if settings.token and settings.predictions:
        has_embeddings = settings.has_embedding_file or settings.embeds_images
        if settings.predictions == NONE or not has_embeddings:
            yield (
                "An upload to Lightly needs predictions and embeddings: set CORAL_PREDICTIONS to a file, and "
                "CORAL_EMBEDDING to a file or, with a strategy that uses embeddings, to a model."
            )
        if settings.lightly_images != "none" and not settings.embeds_images:
            yield "CORAL_PREDICTIONS provides no images to upload to Lightly: set CORAL_LIGHTLY_IMAGES=none."


def _platform_contradictions(settings: Settings) -> Iterator[str]:
    if not settings.token:
        yield "CORAL_LIGHTLY_SELECT='platform' needs a token: set LIGHTLY_TOKEN."
    if settings.strategy.platform_method is None:
        methods = ", ".join(name for name, strategy in STRATEGIES.items() if strategy.platform_method)
        yield f"CORAL_LIGHTLY_SELECT='platform' supports {methods}: set CORAL_STRATEGY to one of these."
    if settings.score.text not in LIGHTLY_SCORES or settings.class_weights:
        yield (
            f"CORAL_LIGHTLY_SELECT='platform' supports {', '.join(LIGHTLY_SCORES)}, without class weights: set "
            "CORAL_SCORE to one of these."
        )
    if _has_strengths(settings):
        yield (
            "CORAL_LIGHTLY_SELECT='platform' supports no strengths: remove CORAL_SCORE_STRENGTH and "
            "CORAL_DIVERSITY_STRENGTH."
        )
    if settings.min_seconds:
        yield "CORAL_LIGHTLY_SELECT='platform' knows no times of frames: remove CORAL_MIN_SECONDS."


def _is_replaced(uri: str, output: str) -> bool:
    """Whether a file or folder is among those in the output that hold the picks of a run."""
    path = relativize(*(_resolve_links(place) for place in (output, uri)))
    return path is not None and path.startswith(_PICKS)


def _resolve_links(uri: str) -> str:
    place = Location.parse(uri)
    return place.normalized if place.scheme else os.path.realpath(place.path)


def _same(one: str, other: str) -> bool:
    a, b = Location.parse(one), Location.parse(other)
    return a.normalized == b.normalized or (
        not (a.scheme or b.scheme) and os.path.realpath(a.path) == os.path.realpath(b.path)
    )
