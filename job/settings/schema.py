"""Every knob of the job: one frozen dataclass, from which options, checks, `--help` and the README's table come."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Literal, get_args

from job import scores
from job.exports import FORMATS
from job.secret import Secret
from job.settings import strategy as strategies
from job.settings.knob import Knob, knob
from job.settings.parse import (
    auto_or,
    boolean,
    dataset,
    device,
    embedding,
    external_id,
    integer,
    names,
    number,
    one_of,
    role_arn,
    secret_file,
    server,
    some_of,
    uri,
    uri_or_url,
)

Device = str
Precision = Literal["auto", "fp32", "fp16", "bf16"]
LogFormat = Literal["auto", "text", "json"]

LightlyImages = Literal["thumbnails", "full", "none"]
LightlySelect = Literal["local", "platform"]


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

    input: str = knob(
        "CORAL_INPUT",
        "",
        "Folder of the images, searched recursively: a path, s3://, gs:// or az://; or a .txt or .jsonl list of files.",
        uri,
        group=_DATA,
        metavar="URI",
        shown_default="required",
    )
    output: str = knob(
        "CORAL_OUTPUT",
        "",
        "Folder that all results go to, likewise; an earlier run of the same settings there is continued.",
        uri,
        group=_DATA,
        metavar="URI",
        shown_default="required",
    )
    previous: str | None = knob(
        "CORAL_PREVIOUS",
        None,
        "CORAL_OUTPUT of an earlier run: its detections on images that have not changed are taken over.",
        uri,
        group=_DATA,
        metavar="URI",
        shown_default="none",
    )
    predictions: str | None = knob(
        "CORAL_PREDICTIONS",
        None,
        "For `select`: detections made elsewhere (COCO JSON, a folder in Lightly's format, or .parquet), in place of "
        "the job's own; or none, to select by CORAL_EMBEDDING alone.",
        uri,
        group=_DATA,
        metavar="URI",
        shown_default="the job's own",
    )
    exports: tuple[str, ...] = knob(
        "CORAL_EXPORTS",
        FORMATS,
        f"Formats that the picks are exported in, with their detections as pre-labels: {', '.join(FORMATS)}, or none.",
        some_of(*FORMATS),
        group=_DATA,
        metavar="LIST",
        shown_default="all",
    )
    copy_selected: bool = knob(
        "CORAL_COPY_SELECTED",
        False,
        "Copy the picked files themselves to selected/ in the output.",
        boolean,
        group=_DATA,
        metavar="",
        shown_default="0",
    )
    max_failed: float = knob(
        "CORAL_MAX_FAILED",
        0.05,
        "Share of images that may be unusable before the run fails with exit code 65.",
        number(0, 1),
        group=_DATA,
        metavar="SHARE",
    )

    model: str = knob(
        "CORAL_MODEL",
        "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
        "Name in detectron2's model zoo (.yaml or .py), or a detectron2 yaml (path, s3://, gs://, az://).",
        uri,
        group=_MODEL,
        metavar="NAME|URI",
    )
    weights: str | None = knob(
        "CORAL_WEIGHTS",
        None,
        "Checkpoint: a path, s3://, gs://, az:// or an https URL.",
        uri_or_url,
        group=_MODEL,
        metavar="URI",
        shown_default="the zoo's, or the yaml's",
    )
    trust_pickle: bool = knob(
        "CORAL_TRUST_PICKLE",
        False,
        "Read a checkpoint that can run code when it is read, although it is not from detectron2's model zoo.",
        boolean,
        group=_MODEL,
        metavar="",
        shown_default="0",
    )
    classes: tuple[str, ...] | None = knob(
        "CORAL_CLASSES",
        None,
        "Class names in the model's order: a comma list, or a file with one name a line.",
        names,
        group=_MODEL,
        metavar="LIST|URI",
        shown_default="the model's",
    )
    score_threshold: float = knob(
        "CORAL_SCORE_THRESHOLD",
        0.05,
        "Boxes of a lower score are dropped; a high value hides what the model is unsure of.",
        number(0, 1),
        group=_MODEL,
        metavar="SCORE",
    )
    min_size: int | None = knob(
        "CORAL_MIN_SIZE",
        None,
        "Short side, in pixels, that images are resized to for the detector.",
        auto_or(integer(1)),
        group=_MODEL,
        metavar="PIXELS",
        shown_default="the model's",
    )
    max_size: int | None = knob(
        "CORAL_MAX_SIZE",
        None,
        "Limit, in pixels, for the long side after that resize.",
        auto_or(integer(1)),
        group=_MODEL,
        metavar="PIXELS",
        shown_default="the model's",
    )

    device: Device = knob(
        "CORAL_DEVICE",
        "auto",
        "auto, cpu, cuda or cuda:N; auto takes a GPU where there is one.",
        device,
        group=_MAP,
        metavar="DEVICE",
    )
    require_gpu: bool = knob(
        "CORAL_REQUIRE_GPU",
        False,
        "End with 69 where no GPU can be used, rather than go on on the CPU.",
        boolean,
        group=_MAP,
        metavar="",
        shown_default="0",
    )
    batch_size: int | None = knob(
        "CORAL_BATCH_SIZE",
        None,
        "Images in one forward pass; auto is what the GPU's memory holds, and 1 on a CPU. Halved when it is full.",
        auto_or(integer(1)),
        group=_MAP,
        metavar="N",
        shown_default="auto",
    )
    precision: Precision = knob(
        "CORAL_PRECISION",
        "auto",
        "auto, fp32, fp16 or bf16; auto is bf16 where the GPU has it and fp32 elsewhere.",
        one_of("auto", "fp32", "fp16", "bf16"),
        group=_MAP,
        metavar="NAME",
    )
    part_size: int = knob(
        "CORAL_PART_SIZE",
        512,
        "Images in one part file; a crash can lose those at hand, and the part that is being written.",
        integer(1),
        group=_MAP,
        metavar="N",
    )
    shard_index: int | None = knob(
        "CORAL_SHARD_INDEX",
        None,
        "Which shard of the images this process does, from 0.",
        integer(0),
        group=_MAP,
        metavar="N",
        shown_default="the platform's, or 0",
    )
    shard_count: int | None = knob(
        "CORAL_SHARD_COUNT",
        None,
        "How many shards there are.",
        integer(1),
        group=_MAP,
        metavar="N",
        shown_default="the platform's, or 1",
    )

    embedding: str = knob(
        "CORAL_EMBEDDING",
        "detector",
        "detector: the detector's own pooled backbone feature. simclr: a self-supervised model trained on the pool. "
        "Or a .parquet or .csv (path, s3://, gs://, az://) of your own: file_name and embedding.",
        embedding,
        group=_EMBED,
        metavar="NAME|URI",
    )
    ssl_epochs: int = knob(
        "CORAL_SSL_EPOCHS",
        20,
        "Epochs of self-supervised training for simclr; 0 skips it.",
        integer(0),
        group=_EMBED,
        metavar="N",
    )
    ssl_batch_size: int = knob(
        "CORAL_SSL_BATCH_SIZE",
        64,
        "Images in one step of that training.",
        integer(2),
        group=_EMBED,
        metavar="N",
    )

    n_samples: int = knob(
        "CORAL_N_SAMPLES",
        100,
        "How many new images to pick; images that already have labels do not count.",
        integer(1),
        group=_SELECT,
        metavar="N",
    )
    strategy: str = knob(
        "CORAL_STRATEGY",
        "coral",
        "coral (diversity times score), coreset (diversity), active_learning (score), two_stage (diversity among the "
        "4 n images of the highest scores), typicality (dense places first), random, or a JSON list of strategies.",
        strategies.strategy,
        group=_SELECT,
        metavar="NAME|JSON",
    )
    score: str = knob(
        "CORAL_SCORE",
        "uncertainty_entropy",
        f"Active-learning score that drives the selection: {', '.join(scores.NAMES)}; or several with their shares, "
        "name=0.7,name=0.3.",
        strategies.mix,
        group=_SELECT,
        metavar="NAME",
    )
    class_weights: Mapping[str, float] | None = knob(
        "CORAL_CLASS_WEIGHTS",
        None,
        "What boxes of a class count in that score, class=weight,class=weight; 1 for all others.",
        strategies.weights,
        group=_SELECT,
        metavar="LIST",
        shown_default="none",
    )
    score_strength: float = knob(
        "CORAL_SCORE_STRENGTH",
        1.0,
        "Exponent of the score in coral's product; 0 leaves the score out.",
        number(0),
        group=_SELECT,
        metavar="X",
    )
    diversity_strength: float = knob(
        "CORAL_DIVERSITY_STRENGTH",
        1.0,
        "Exponent of the distance in coral's product; 0 leaves the distance out.",
        number(0),
        group=_SELECT,
        metavar="X",
    )
    min_distance: float = knob(
        "CORAL_MIN_DISTANCE",
        0.0,
        "Never pick an image nearer than this to a labelled or picked one (0 to 2: embeddings have unit length).",
        number(0, 2),
        group=_SELECT,
        metavar="X",
    )
    labelled: str | None = knob(
        "CORAL_LABELLED",
        None,
        "File (path, s3://, gs://, az://) with the names of the images that already have labels, one a line.",
        uri,
        group=_SELECT,
        metavar="URI",
        shown_default="none",
    )
    cost_per_image: float = knob(
        "CORAL_COST_PER_IMAGE",
        0.0,
        "What labelling an image costs besides its boxes, for the estimate in run.json.",
        number(0),
        group=_SELECT,
        metavar="X",
    )
    cost_per_box: float = knob(
        "CORAL_COST_PER_BOX",
        0.0,
        "What labelling a box costs, likewise.",
        number(0),
        group=_SELECT,
        metavar="X",
    )
    allow_missing: bool = knob(
        "CORAL_ALLOW_MISSING",
        False,
        "Select even while shards are missing, from what they have done.",
        boolean,
        group=_SELECT,
        metavar="",
        shown_default="0",
    )
    seed: int = knob(
        "CORAL_SEED",
        0,
        "Seed of everything random.",
        integer(0, 2**32 - 1),
        group=_SELECT,
        metavar="N",
    )

    lightly_token: Secret | None = knob(
        "LIGHTLY_TOKEN",
        None,
        "Token of the Lightly platform: turns the upload on. Never printed or stored.",
        Secret,
        group=_LIGHTLY,
        metavar="TOKEN",
        shown_default="none",
        secret=True,
    )
    lightly_token_file: Secret | None = knob(
        "LIGHTLY_TOKEN_FILE",
        None,
        "File that holds the token, instead.",
        secret_file,
        group=_LIGHTLY,
        metavar="PATH",
        shown_default="none",
    )
    lightly_server: str = knob(
        "LIGHTLY_SERVER_LOCATION",
        "https://api.lightly.ai",
        "Address of the platform.",
        server,
        group=_LIGHTLY,
        metavar="URL",
    )
    lightly_dataset: str | None = knob(
        "CORAL_LIGHTLY_DATASET",
        None,
        "Name or id (24 hex digits) of the dataset there; one of this name is made where there is none.",
        dataset,
        group=_LIGHTLY,
        metavar="NAME|ID",
        shown_default="required with a token",
    )
    lightly_images: LightlyImages | None = knob(
        "CORAL_LIGHTLY_IMAGES",
        None,
        "What of the images is uploaded: thumbnails, full (thumbnails and whole files) or none (names only).",
        one_of(*get_args(LightlyImages)),
        group=_LIGHTLY,
        metavar="NAME",
        shown_default="thumbnails; none with a datasource",
    )
    lightly_select: LightlySelect = knob(
        "CORAL_LIGHTLY_SELECT",
        "local",
        "local: the job's own selection. platform: the platform's, and ours where it refuses.",
        one_of(*get_args(LightlySelect)),
        group=_LIGHTLY,
        metavar="NAME",
    )
    lightly_datasource: bool = knob(
        "CORAL_LIGHTLY_DATASOURCE",
        False,
        "Tell the platform to read the images from CORAL_INPUT on S3, and predictions from CORAL_OUTPUT if that is "
        "there, by CORAL_LIGHTLY_ROLE_ARN; without one it is given the AWS keys of this process.",
        boolean,
        group=_LIGHTLY,
        metavar="",
        shown_default="0",
    )
    lightly_role_arn: str | None = knob(
        "CORAL_LIGHTLY_ROLE_ARN",
        None,
        "Role that the platform assumes to read the bucket.",
        role_arn,
        group=_LIGHTLY,
        metavar="ARN",
        shown_default="none",
    )
    lightly_external_id: Secret | None = knob(
        "CORAL_LIGHTLY_EXTERNAL_ID",
        None,
        "External id that this role asks for, at least 10 characters.",
        external_id,
        group=_LIGHTLY,
        metavar="ID",
        shown_default="none",
        secret=True,
    )
    lightly_predictions: bool = knob(
        "CORAL_LIGHTLY_PREDICTIONS",
        True,
        "Write the detections to .lightly/predictions/ in Lightly's format, a file an image.",
        boolean,
        group=_LIGHTLY,
        metavar="0|1",
        shown_default="1",
    )

    log_format: LogFormat = knob(
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
