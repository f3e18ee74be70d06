"""Every knob of the job: one frozen dataclass from which the options, the checks, `--help` and the README's table come.

A value comes from the command line, else from the environment, else it is the default; an empty value counts as absent.
"""

import difflib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from job.errors import SettingsError
from job.parsers import (
    auto_or,
    boolean,
    dataset,
    device,
    external_id,
    integer,
    names,
    number,
    one_of,
    role_arn,
    secret_file,
    server,
    uri,
    uri_or_url,
)
from job.secret import Secret
from job.storage.uris import Location
from job.urls import redacted

Device = str
Precision = Literal["auto", "fp32", "fp16", "bf16"]
LogFormat = Literal["auto", "text", "json"]
Embedding = Literal["detector", "simclr"]
Strategy = Literal["coral", "coreset", "active_learning", "random"]
Score = Literal[
    "object_frequency",
    "objectness_least_confidence",
    "uncertainty_least_confidence",
    "uncertainty_margin",
    "uncertainty_entropy",
]

LightlyImages = Literal["thumbnails", "full", "none"]
LightlySelect = Literal["local", "platform"]

_PREFIX = "CORAL_"


@dataclass(frozen=True)
class Knob:
    """What is known of one setting besides its type and default.

    Attributes:
        env: Name of the environment variable.
        group: Heading under which `--help` and the README list it.
        help: What it means, in one sentence.
        parse: Turns the given text into the value; raises ValueError that says what is accepted.
        metavar: How its value is written in `--help`.
        shown_default: The default in words.
        secret: Whether what is given must not be seen.
    """

    env: str
    group: str
    help: str
    parse: Callable[[str], Any]
    metavar: str
    shown_default: str
    secret: bool

    @property
    def option(self) -> str | None:
        """The command-line flag; None for a secret, which others could read in the list of processes."""
        if self.secret or not self.env.startswith(_PREFIX):
            return None
        return "--" + self.env.removeprefix(_PREFIX).lower().replace("_", "-")


def _knob(
    env: str,
    default: Any,
    help: str,  # the word of every option parser
    parse: Callable[[str], Any],
    *,
    group: str,
    metavar: str = "TEXT",
    shown_default: str | None = None,
    secret: bool = False,
) -> Any:
    if shown_default is None:
        shown_default = f"{default:g}" if isinstance(default, float) else str(default)
    return field(default=default, metadata={"knob": Knob(env, group, help, parse, metavar, shown_default, secret)})


_DATA, _MODEL, _MAP, _EMBED, _SELECT, _LIGHTLY, _OTHER = (
    "Images in, results out",
    "Detector",
    "Running the detector",
    "Embeddings",
    "Selection",
    "Lightly",
    "Logs",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The resolved settings of one run. Units and ranges are in each knob's help and parser."""

    input: str = _knob(
        "CORAL_INPUT",
        "",
        "Folder of the images, searched recursively: a path, s3://, gs:// or az://; or a .txt or .jsonl list of files.",
        uri,
        group=_DATA,
        metavar="URI",
        shown_default="required",
    )
    output: str = _knob(
        "CORAL_OUTPUT",
        "",
        "Folder that all results go to, likewise; an earlier run of the same settings there is continued.",
        uri,
        group=_DATA,
        metavar="URI",
        shown_default="required",
    )
    previous: str | None = _knob(
        "CORAL_PREVIOUS",
        None,
        "CORAL_OUTPUT of an earlier run: its detections on images that have not changed are taken over.",
        uri,
        group=_DATA,
        metavar="URI",
        shown_default="none",
    )
    max_failed: float = _knob(
        "CORAL_MAX_FAILED",
        0.05,
        "Share of images that may be unusable before the run fails with exit code 65.",
        number(0, 1),
        group=_DATA,
        metavar="SHARE",
    )

    model: str = _knob(
        "CORAL_MODEL",
        "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
        "Name in detectron2's model zoo, or a detectron2 yaml (path, s3://, gs://, az://).",
        uri,
        group=_MODEL,
        metavar="NAME|URI",
    )
    weights: str | None = _knob(
        "CORAL_WEIGHTS",
        None,
        "Checkpoint: a path, s3://, gs://, az:// or an https URL.",
        uri_or_url,
        group=_MODEL,
        metavar="URI",
        shown_default="the zoo's, or the yaml's",
    )
    classes: tuple[str, ...] | None = _knob(
        "CORAL_CLASSES",
        None,
        "Class names in the model's order: a comma list, or a file with one name a line.",
        names,
        group=_MODEL,
        metavar="LIST|URI",
        shown_default="the model's",
    )
    score_threshold: float = _knob(
        "CORAL_SCORE_THRESHOLD",
        0.05,
        "Boxes of a lower score are dropped; a high value hides what the model is unsure of.",
        number(0, 1),
        group=_MODEL,
        metavar="SCORE",
    )
    min_size: int | None = _knob(
        "CORAL_MIN_SIZE",
        None,
        "Short side, in pixels, that images are resized to for the detector.",
        auto_or(integer(1)),
        group=_MODEL,
        metavar="PIXELS",
        shown_default="the model's",
    )
    max_size: int | None = _knob(
        "CORAL_MAX_SIZE",
        None,
        "Limit, in pixels, for the long side after that resize.",
        auto_or(integer(1)),
        group=_MODEL,
        metavar="PIXELS",
        shown_default="the model's",
    )

    device: Device = _knob(
        "CORAL_DEVICE",
        "auto",
        "auto, cpu, cuda or cuda:N; auto takes a GPU where there is one.",
        device,
        group=_MAP,
        metavar="DEVICE",
    )
    batch_size: int | None = _knob(
        "CORAL_BATCH_SIZE",
        None,
        "Images in one forward pass; auto is 16 on a GPU and 1 on a CPU. Halves itself when the GPU is out of memory.",
        auto_or(integer(1)),
        group=_MAP,
        metavar="N",
        shown_default="auto",
    )
    precision: Precision = _knob(
        "CORAL_PRECISION",
        "auto",
        "auto, fp32, fp16 or bf16; auto is bf16 where the GPU has it and fp32 elsewhere.",
        one_of("auto", "fp32", "fp16", "bf16"),
        group=_MAP,
        metavar="NAME",
    )
    part_size: int = _knob(
        "CORAL_PART_SIZE",
        512,
        "Images in one part file: the most work that a crash can lose.",
        integer(1),
        group=_MAP,
        metavar="N",
    )
    shard_index: int | None = _knob(
        "CORAL_SHARD_INDEX",
        None,
        "Which shard of the images this process does, from 0.",
        integer(0),
        group=_MAP,
        metavar="N",
        shown_default="the platform's, or 0",
    )
    shard_count: int | None = _knob(
        "CORAL_SHARD_COUNT",
        None,
        "How many shards there are.",
        integer(1),
        group=_MAP,
        metavar="N",
        shown_default="the platform's, or 1",
    )

    embedding: Embedding = _knob(
        "CORAL_EMBEDDING",
        "detector",
        "detector: the detector's own pooled backbone feature. simclr: a self-supervised model trained on the pool.",
        one_of("detector", "simclr"),
        group=_EMBED,
        metavar="NAME",
    )
    ssl_epochs: int = _knob(
        "CORAL_SSL_EPOCHS",
        20,
        "Epochs of self-supervised training for simclr; 0 skips it.",
        integer(0),
        group=_EMBED,
        metavar="N",
    )
    ssl_batch_size: int = _knob(
        "CORAL_SSL_BATCH_SIZE",
        64,
        "Images in one step of that training.",
        integer(2),
        group=_EMBED,
        metavar="N",
    )

    n_samples: int = _knob(
        "CORAL_N_SAMPLES",
        100,
        "How many new images to pick; images that already have labels do not count.",
        integer(1),
        group=_SELECT,
        metavar="N",
    )
    strategy: Strategy = _knob(
        "CORAL_STRATEGY",
        "coral",
        "coral (diversity times score), coreset (diversity), active_learning (score) or random.",
        one_of(*get_args(Strategy)),
        group=_SELECT,
        metavar="NAME",
    )
    score: Score = _knob(
        "CORAL_SCORE",
        "uncertainty_entropy",
        "Active-learning score that drives the selection: object_frequency, objectness_least_confidence, "
        "uncertainty_least_confidence, uncertainty_margin or uncertainty_entropy.",
        one_of(*get_args(Score)),
        group=_SELECT,
        metavar="NAME",
    )
    score_strength: float = _knob(
        "CORAL_SCORE_STRENGTH",
        1.0,
        "Exponent of the score in coral's product; 0 leaves the score out.",
        number(0),
        group=_SELECT,
        metavar="X",
    )
    diversity_strength: float = _knob(
        "CORAL_DIVERSITY_STRENGTH",
        1.0,
        "Exponent of the distance in coral's product; 0 leaves the distance out.",
        number(0),
        group=_SELECT,
        metavar="X",
    )
    min_distance: float = _knob(
        "CORAL_MIN_DISTANCE",
        0.0,
        "Never pick an image nearer than this to a labelled or picked one (0 to 2: embeddings have unit length).",
        number(0, 2),
        group=_SELECT,
        metavar="X",
    )
    labelled: str | None = _knob(
        "CORAL_LABELLED",
        None,
        "File (path, s3://, gs://, az://) with the names of the images that already have labels, one a line.",
        uri,
        group=_SELECT,
        metavar="URI",
        shown_default="none",
    )
    allow_missing: bool = _knob(
        "CORAL_ALLOW_MISSING",
        False,
        "Select even while shards are missing, from what they have done.",
        boolean,
        group=_SELECT,
        metavar="",
        shown_default="0",
    )
    seed: int = _knob(
        "CORAL_SEED",
        0,
        "Seed of everything random.",
        integer(0, 2**32 - 1),
        group=_SELECT,
        metavar="N",
    )

    lightly_token: Secret | None = _knob(
        "LIGHTLY_TOKEN",
        None,
        "Token of the Lightly platform: turns the upload on. Never printed or stored.",
        Secret,
        group=_LIGHTLY,
        metavar="TOKEN",
        shown_default="none",
        secret=True,
    )
    lightly_token_file: Secret | None = _knob(
        "LIGHTLY_TOKEN_FILE",
        None,
        "File that holds the token, instead.",
        secret_file,
        group=_LIGHTLY,
        metavar="PATH",
        shown_default="none",
    )
    lightly_server: str = _knob(
        "LIGHTLY_SERVER_LOCATION",
        "https://api.lightly.ai",
        "Address of the platform.",
        server,
        group=_LIGHTLY,
        metavar="URL",
    )
    lightly_dataset: str | None = _knob(
        "CORAL_LIGHTLY_DATASET",
        None,
        "Name or id (24 hex digits) of the dataset there; one of this name is made where there is none.",
        dataset,
        group=_LIGHTLY,
        metavar="NAME|ID",
        shown_default="required with a token",
    )
    lightly_images: LightlyImages | None = _knob(
        "CORAL_LIGHTLY_IMAGES",
        None,
        "What of the images is uploaded: thumbnails, full (thumbnails and whole files) or none (names only).",
        one_of(*get_args(LightlyImages)),
        group=_LIGHTLY,
        metavar="NAME",
        shown_default="thumbnails; none with a datasource",
    )
    lightly_select: LightlySelect = _knob(
        "CORAL_LIGHTLY_SELECT",
        "local",
        "local: the job's own selection. platform: the platform's, and ours where it refuses.",
        one_of(*get_args(LightlySelect)),
        group=_LIGHTLY,
        metavar="NAME",
    )
    lightly_datasource: bool = _knob(
        "CORAL_LIGHTLY_DATASOURCE",
        False,
        "Tell the platform to read the images from CORAL_INPUT on S3, and predictions from CORAL_OUTPUT if that is "
        "there, by CORAL_LIGHTLY_ROLE_ARN; without one it is given the AWS keys of this process.",
        boolean,
        group=_LIGHTLY,
        metavar="",
        shown_default="0",
    )
    lightly_role_arn: str | None = _knob(
        "CORAL_LIGHTLY_ROLE_ARN",
        None,
        "Role that the platform assumes to read the bucket.",
        role_arn,
        group=_LIGHTLY,
        metavar="ARN",
        shown_default="none",
    )
    lightly_external_id: Secret | None = _knob(
        "CORAL_LIGHTLY_EXTERNAL_ID",
        None,
        "External id that this role asks for, at least 10 characters.",
        external_id,
        group=_LIGHTLY,
        metavar="ID",
        shown_default="none",
        secret=True,
    )
    lightly_predictions: bool = _knob(
        "CORAL_LIGHTLY_PREDICTIONS",
        True,
        "Write the detections to .lightly/predictions/ in Lightly's format, a file an image.",
        boolean,
        group=_LIGHTLY,
        metavar="0|1",
        shown_default="1",
    )

    log_format: LogFormat = _knob(
        "CORAL_LOG_FORMAT",
        "auto",
        "text, json, or auto: text on a terminal and one JSON object a line elsewhere.",
        one_of("auto", "text", "json"),
        group=_OTHER,
        metavar="NAME",
    )

    @property
    def token(self) -> Secret | None:
        """The token of the Lightly platform, however it was given."""
        return self.lightly_token or self.lightly_token_file


def knobs() -> Iterator[tuple[str, Knob]]:
    """Yields field name and knob of every setting, in the order of their definition."""
    for each in fields(Settings):
        yield each.name, each.metadata["knob"]


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
    return name.startswith(_PREFIX) and name not in {knob.env for _, knob in knobs()}


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, [knob.env for _, knob in knobs()], n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else "`entrypoint.py --help` lists the settings."
    return f"{name} is not a setting: {hint}"


def _contradictions(settings: Settings) -> Iterator[str]:
    if settings.min_size and settings.max_size and settings.min_size > settings.max_size:
        sizes = f"CORAL_MIN_SIZE={settings.min_size} is above CORAL_MAX_SIZE={settings.max_size}"
        yield f"{sizes}: lower the first or raise the second."
    if _same(settings.input, settings.output):
        yield f"CORAL_INPUT and CORAL_OUTPUT are both {settings.input!r}: give the results a folder of their own."
    if settings.previous and _same(settings.previous, settings.output):
        yield f"CORAL_PREVIOUS and CORAL_OUTPUT are both {settings.output!r}: an output is continued without it."
    yield from _lightly_contradictions(settings)


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
