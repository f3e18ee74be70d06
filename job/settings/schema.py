"""Every setting of the job in one frozen dataclass: options, checks, `--help` and docs/settings.md come from it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Literal, get_args

from job.secret import Secret
from job.settings.choices import EXPORT_FORMATS, NONE, SCORES, TIMM
from job.settings.knob import Knob, knob
from job.settings.mix import Mix, ScoreMix, parse_class_weights, parse_score
from job.settings.parse import (
    auto_or,
    boolean,
    checkpoint,
    class_names,
    class_renames,
    dataset,
    device,
    embedding,
    external_id,
    images_address,
    integer,
    metadata,
    number,
    one_of,
    role_arn,
    secret_file,
    server,
    sha256,
    some_of,
    uri,
    uris,
)
from job.settings.strategy import STRATEGIES, Strategy, parse_strategy
from job.shards import MAX_SHARDS
from job.video import Sampling

Device = str
Precision = Literal["auto", "fp32", "fp16", "bf16"]
Engine = Literal["auto", "none", "ray"]
LogFormat = Literal["auto", "text", "json"]

LightlyImages = Literal["thumbnails", "full", "none"]
LightlySelect = Literal["local", "platform"]


_DATA, _MODEL, _MAP, _EMBED, _SELECT, _LIGHTLY, _OTHER = (
    "Input and output",
    "Detector",
    "Detection",
    "Embeddings",
    "Selection",
    "Lightly",
    "Logs",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one run. Each knob's help and parser give units and ranges."""

    input: str = knob(
        "CORAL_INPUT",
        "",
        "Folder with the images and videos (a path, s3://, gs:// or az://), searched recursively; or a list of files "
        "(.txt, .jsonl).",
        uri,
        group=_DATA,
        metavar="URI",
        shown_default="required",
        common=True,
    )
    frames: Sampling = knob(
        "CORAL_FRAMES",
        Sampling("fps"),
        "Which frames of videos are images: fps:N (N frames per second), every:N (every Nth frame), all, or none.",
        Sampling.parse,
        group=_DATA,
        metavar="RULE",
        shown_default="fps:1",
    )
    output: str = knob(
        "CORAL_OUTPUT",
        "",
        "Folder for all results (a path, s3://, gs:// or az://). A run with the same settings resumes there.",
        uri,
        group=_DATA,
        metavar="URI",
        shown_default="required",
        common=True,
    )
    previous: tuple[str, ...] = knob(
        "CORAL_PREVIOUS",
        (),
        "CORAL_OUTPUT of an earlier run, or several, comma-separated. Their detections are reused for images that "
        "have not changed; the first that has an image wins. `select` takes the embeddings of labelled images that are "
        "not in CORAL_INPUT from there, so that the picks keep a distance to them, too.",
        uris,
        group=_DATA,
        metavar="URI,...",
        shown_default="none",
    )
    predictions: str | None = knob(
        "CORAL_PREDICTIONS",
        None,
        "Detections from another detector: COCO JSON, COCO results (with their data set after a comma), "
        "Ultralytics' predictions.json or YOLO labels, Lightly's format, .parquet, or an earlier CORAL_OUTPUT. none "
        "selects by CORAL_EMBEDDING alone. If CORAL_EMBEDDING is a file, use `select`.",
        uri,
        group=_DATA,
        metavar="URI",
        shown_default="the job's own",
    )
    exports: tuple[str, ...] = knob(
        "CORAL_EXPORTS",
        EXPORT_FORMATS,
        f"Formats to export the picks in, with their detections as pre-labels: {', '.join(EXPORT_FORMATS)}, "
        "all or none.",
        some_of(*EXPORT_FORMATS),
        group=_DATA,
        metavar="LIST",
        shown_default="all",
        step="select",
    )
    export_min_score: float = knob(
        "CORAL_EXPORT_MIN_SCORE",
        0.3,
        "Lowest detection confidence of a pre-label in exports/.",
        number(0, 1),
        group=_DATA,
        metavar="SCORE",
        step="select",
    )
    export_classes: Mapping[str, str] | None = knob(
        "CORAL_EXPORT_CLASSES",
        None,
        "Class names in exports/ that differ from the detector's: class=name,class=name. Classes that get the same "
        "name become one class.",
        class_renames,
        group=_DATA,
        metavar="LIST",
        shown_default="the detector's",
        step="select",
    )
    images_at: str | None = knob(
        "CORAL_IMAGES_AT",
        None,
        "Where others find the images: takes the place of CORAL_INPUT in exports/ and predictions/coco.json. A path, "
        "s3://, gs://, az://, https://, or for Label Studio alone /data/local-files/?d=<path below its document root>.",
        images_address,
        group=_DATA,
        metavar="URI",
        shown_default="CORAL_INPUT",
        step="select",
    )
    copy_selected: bool = knob(
        "CORAL_COPY_SELECTED",
        False,
        "Copy the picked image files to selected/ in the output.",
        boolean,
        group=_DATA,
        metavar="",
        shown_default="0",
        step="select",
    )
    max_failed: float = knob(
        "CORAL_MAX_FAILED",
        0.05,
        "Largest share of unusable images; above it the run ends with exit code 65.",
        number(0, 1),
        group=_DATA,
        metavar="SHARE",
    )

    model: str = knob(
        "CORAL_MODEL",
        "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
        "Model-zoo config of detectron2 (.yaml or .py), or your own detectron2 yaml (a path, s3://, gs:// or az://).",
        uri,
        group=_MODEL,
        metavar="NAME|URI",
        common=True,
    )
    weights: str | None = knob(
        "CORAL_WEIGHTS",
        None,
        "Checkpoint of the model: a path, s3://, gs://, az:// or an https URL.",
        checkpoint,
        group=_MODEL,
        metavar="URI",
        shown_default="the zoo's, or the yaml's",
        common=True,
    )
    weights_sha256: str | None = knob(
        "CORAL_WEIGHTS_SHA256",
        None,
        "SHA-256 that the checkpoint of the model must have, in hexadecimal. Another file is refused.",
        sha256,
        group=_MODEL,
        metavar="HEX",
        shown_default="any",
    )
    trust_pickle: bool = knob(
        "CORAL_TRUST_PICKLE",
        False,
        "Load a checkpoint that can execute code, even if it is not from detectron2's model zoo.",
        boolean,
        group=_MODEL,
        metavar="",
        shown_default="0",
    )
    classes: tuple[str, ...] | None = knob(
        "CORAL_CLASSES",
        None,
        "Class names in the model's order: a comma-separated list, or a file with one name per line.",
        class_names,
        group=_MODEL,
        metavar="LIST|URI",
        shown_default="the model's",
        reads_file=True,
    )
    score_threshold: float = knob(
        "CORAL_SCORE_THRESHOLD",
        0.05,
        "Lowest detection confidence of a box. A high value hides the boxes that the model is uncertain about.",
        number(0, 1),
        group=_MODEL,
        metavar="SCORE",
    )
    min_size: int | None = knob(
        "CORAL_MIN_SIZE",
        None,
        "Length of an image's short side, in pixels, after resizing for the detector.",
        auto_or(integer(1)),
        group=_MODEL,
        metavar="PIXELS",
        shown_default="the model's",
    )
    max_size: int | None = knob(
        "CORAL_MAX_SIZE",
        None,
        "Largest length of an image's long side, in pixels, after resizing for the detector.",
        auto_or(integer(1)),
        group=_MODEL,
        metavar="PIXELS",
        shown_default="the model's",
    )

    device: Device = knob(
        "CORAL_DEVICE",
        "auto",
        "Where the model runs: auto, cpu, cuda or cuda:N. auto uses a GPU if there is one.",
        device,
        group=_MAP,
        metavar="DEVICE",
        common=True,
    )
    require_gpu: bool = knob(
        "CORAL_REQUIRE_GPU",
        False,
        "Exit with code 69 if no GPU is usable, instead of falling back to the CPU.",
        boolean,
        group=_MAP,
        metavar="",
        shown_default="0",
    )
    engine: Engine = knob(
        "CORAL_ENGINE",
        "auto",
        "Who detects: auto, none or ray. none is this process alone, on one GPU. ray starts a worker for each GPU of "
        "the machine, or of the Ray cluster at RAY_ADDRESS, where the machines also select among large pools. auto is "
        "ray if there are several GPUs or RAY_ADDRESS is set.",
        one_of("auto", "none", "ray"),
        group=_MAP,
        metavar="NAME",
        step="predict",
    )
    workers: int | None = knob(
        "CORAL_WORKERS",
        None,
        "Most workers of CORAL_ENGINE. auto is one for each GPU. In a cluster that grows on demand, the number to ask "
        "for.",
        auto_or(integer(1)),
        group=_MAP,
        metavar="N",
        shown_default="auto",
        step="predict",
    )
    batch_size: int | None = knob(
        "CORAL_BATCH_SIZE",
        None,
        "Images per batch. auto fits the memory of the GPU, the first one of a run with several (1 on a CPU); it is "
        "halved when memory runs out.",
        auto_or(integer(1)),
        group=_MAP,
        metavar="N",
        shown_default="auto",
        step="predict",
    )
    precision: Precision = knob(
        "CORAL_PRECISION",
        "auto",
        "Number format of the model: auto, fp32, fp16 or bf16. auto is fp16 on GPUs with tensor cores, else "
        "fp32; all shards of a run compute as the first one does.",
        one_of("auto", "fp32", "fp16", "bf16"),
        group=_MAP,
        metavar="NAME",
    )
    part_size: int | None = knob(
        "CORAL_PART_SIZE",
        None,
        "Images per part file. auto is 512, or more: 64 batches, or in a large listing a power of two (at most 16,384) "
        "that makes 16 to 32 parts. A crash loses the parts in the making: two, or more of few batches.",
        auto_or(integer(1)),
        group=_MAP,
        metavar="N",
        shown_default="auto",
        step="predict",
    )
    shard_index: int | None = knob(
        "CORAL_SHARD_INDEX",
        None,
        "Index of the shard that this process runs, from 0.",
        integer(0),
        group=_MAP,
        metavar="N",
        shown_default="the platform's, or 0",
        step="predict",
    )
    shard_count: int | None = knob(
        "CORAL_SHARD_COUNT",
        None,
        f"Number of shards, at most {MAX_SHARDS:,}.",
        integer(1, MAX_SHARDS),
        group=_MAP,
        metavar="N",
        shown_default="the platform's, or 1",
    )

    embedding: str = knob(
        "CORAL_EMBEDDING",
        "detector",
        "detector: features of the backbone of CORAL_MODEL. simclr: a self-supervised model trained on the pool. "
        "timm:<model>: a model of the package timm, such as timm:resnet50. Or a file of your own embeddings "
        "(file_name, embedding): .parquet, .csv, .npz, or .npy with a .txt of names.",
        embedding,
        group=_EMBED,
        metavar="NAME|URI",
    )
    embedding_weights: str | None = knob(
        "CORAL_EMBEDDING_WEIGHTS",
        None,
        "Checkpoint of the timm model in CORAL_EMBEDDING: a path, s3://, gs://, az:// or an https URL.",
        checkpoint,
        group=_EMBED,
        metavar="URI",
        shown_default="the one that timm names",
    )
    full_features: bool = knob(
        "CORAL_FULL_FEATURES",
        False,
        "Keep all numbers of an image's feature for detector and timm:<model>. Otherwise a feature of more than 256 is "
        "shortened to 256 by a fixed random projection, which keeps distances up to a few per cent.",
        boolean,
        group=_EMBED,
        metavar="",
        shown_default="0",
    )
    ssl_epochs: int = knob(
        "CORAL_SSL_EPOCHS",
        20,
        "Epochs of self-supervised training for simclr; 0 skips the training.",
        integer(0),
        group=_EMBED,
        metavar="N",
        step="select",
    )
    ssl_batch_size: int = knob(
        "CORAL_SSL_BATCH_SIZE",
        64,
        "Images per batch in the self-supervised training.",
        integer(2),
        group=_EMBED,
        metavar="N",
        step="select",
    )
    ssl_max_images: int = knob(
        "CORAL_SSL_MAX_IMAGES",
        100_000,
        "Most images that the self-supervised training uses; of a larger pool it uses so many, chosen at random. All "
        "images are embedded.",
        integer(2),
        group=_EMBED,
        metavar="N",
        step="select",
    )
    ssl_max_steps: int = knob(
        "CORAL_SSL_MAX_STEPS",
        20_000,
        "Most batches of the self-supervised training, which may end it before its last epoch.",
        integer(1),
        group=_EMBED,
        metavar="N",
        step="select",
    )

    n_samples: int = knob(
        "CORAL_N_SAMPLES",
        100,
        "Number of images to pick. Images that already have labels are not counted.",
        integer(1),
        group=_SELECT,
        metavar="N",
        step="select",
        common=True,
    )
    strategy: Strategy = knob(
        "CORAL_STRATEGY",
        STRATEGIES["coral"],
        "coral (diversity x score), coral_objects (diversity x score, where objects that are known already count "
        "less), coreset (diversity), active_learning (score), two_stage (diversity among the 4 n images with the "
        "highest scores), typicality (dense regions first), random, or a JSON list of strategies.",
        parse_strategy,
        group=_SELECT,
        metavar="NAME|JSON",
        step="select",
        common=True,
    )
    score: ScoreMix = knob(
        "CORAL_SCORE",
        parse_score("entropy_sum"),
        f"Active-learning score for the selection: {', '.join(SCORES)}; or a mix, name=0.7,name=0.3.",
        parse_score,
        group=_SELECT,
        metavar="NAME",
        step="select",
    )
    class_weights: Mapping[str, float] | None = knob(
        "CORAL_CLASS_WEIGHTS",
        None,
        "Weight of each class in the score: class=weight,class=weight. Other classes have weight 1, or that of *, as "
        "in *=0,car=1.",
        parse_class_weights,
        group=_SELECT,
        metavar="LIST",
        shown_default="none",
        step="select",
    )
    score_strength: float = knob(
        "CORAL_SCORE_STRENGTH",
        0.5,
        "Exponent of the score in the product of coral, and of the objects in that of coral_objects; 0 ignores them.",
        number(0),
        group=_SELECT,
        metavar="X",
        step="select",
    )
    diversity_strength: float = knob(
        "CORAL_DIVERSITY_STRENGTH",
        1.0,
        "Exponent of the distance in the product of coral and coral_objects; 0 ignores the distance.",
        number(0),
        group=_SELECT,
        metavar="X",
        step="select",
    )
    min_distance: float = knob(
        "CORAL_MIN_DISTANCE",
        0.0,
        "Smallest distance of a pick to every labelled or picked image: 0 to 2, between embeddings of unit length.",
        number(0, 2),
        group=_SELECT,
        metavar="X",
        step="select",
    )
    min_seconds: float = knob(
        "CORAL_MIN_SECONDS",
        0.0,
        "Smallest time between a pick and every labelled or picked frame of the same video, in seconds.",
        number(0),
        group=_SELECT,
        metavar="X",
        step="select",
    )
    labelled: str | None = knob(
        "CORAL_LABELLED",
        None,
        "Images that already have labels: a list of file names (.txt), a .csv or .jsonl with file_name, COCO JSON, or "
        "an earlier CORAL_OUTPUT, whose picks they are (a path, s3://, gs:// or az://).",
        uri,
        group=_SELECT,
        metavar="URI",
        shown_default="none",
        common=True,
    )
    rejected: str | None = knob(
        "CORAL_REJECTED",
        None,
        "Picks of an earlier run that nobody wants labelled, in the forms of CORAL_LABELLED. The next best images "
        "replace them, the other picks stay, and images that look like rejected ones are avoided.",
        uri,
        group=_SELECT,
        metavar="URI",
        shown_default="none",
        step="select",
    )
    metadata: str | None = knob(
        "CORAL_METADATA",
        None,
        "File (.csv, .parquet or .jsonl) with a column file_name and metadata of the images, such as camera or "
        "weather. A JSON list in CORAL_STRATEGY can use its columns as METADATA; images.parquet gets them, too.",
        metadata,
        group=_SELECT,
        metavar="URI",
        shown_default="none",
    )
    cost_per_image: float = knob(
        "CORAL_COST_PER_IMAGE",
        0.0,
        "Cost of labelling one image, without its boxes, for the estimate in run.json.",
        number(0),
        group=_SELECT,
        metavar="X",
        step="select",
    )
    cost_per_box: float = knob(
        "CORAL_COST_PER_BOX",
        0.0,
        "Cost of labelling one box, for the estimate in run.json.",
        number(0),
        group=_SELECT,
        metavar="X",
        step="select",
    )
    allow_missing: bool = knob(
        "CORAL_ALLOW_MISSING",
        False,
        "Select from the finished shards even if other shards have not finished.",
        boolean,
        group=_SELECT,
        metavar="",
        shown_default="0",
        step="select",
    )
    seed: int = knob(
        "CORAL_SEED",
        0,
        "Seed of every random number.",
        integer(0, 2**32 - 1),
        group=_SELECT,
        metavar="N",
        step="select",
    )

    lightly_token: Secret | None = knob(
        "LIGHTLY_TOKEN",
        None,
        "Token of the Lightly platform; turns the upload on. It is never printed or stored.",
        Secret,
        group=_LIGHTLY,
        metavar="TOKEN",
        shown_default="none",
        secret=True,
    )
    lightly_token_file: Secret | None = knob(
        "LIGHTLY_TOKEN_FILE",
        None,
        "File that holds the token of the Lightly platform, instead of LIGHTLY_TOKEN.",
        secret_file,
        group=_LIGHTLY,
        metavar="PATH",
        shown_default="none",
    )
    lightly_server: str = knob(
        "LIGHTLY_SERVER_LOCATION",
        "https://api.lightly.ai",
        "Address of the Lightly platform.",
        server,
        group=_LIGHTLY,
        metavar="URL",
    )
    lightly_dataset: str | None = knob(
        "CORAL_LIGHTLY_DATASET",
        None,
        "Name or id (24 hex digits) of the Lightly dataset. A dataset of this name is created if there is none.",
        dataset,
        group=_LIGHTLY,
        metavar="NAME|ID",
        shown_default="required with a token",
    )
    lightly_images: LightlyImages | None = knob(
        "CORAL_LIGHTLY_IMAGES",
        None,
        "What to upload of each image: thumbnails, full (thumbnails and files) or none (names only).",
        one_of(*get_args(LightlyImages)),
        group=_LIGHTLY,
        metavar="NAME",
        shown_default="thumbnails; none with a datasource",
        step="select",
    )
    lightly_select: LightlySelect = knob(
        "CORAL_LIGHTLY_SELECT",
        "local",
        "Which selection to use. local: the job's own. platform: Lightly's own, by uncertainty_entropy unless "
        "CORAL_SCORE names another of its scores; falls back to local if it is refused.",
        one_of(*get_args(LightlySelect)),
        group=_LIGHTLY,
        metavar="NAME",
        step="select",
    )
    lightly_datasource: bool = knob(
        "CORAL_LIGHTLY_DATASOURCE",
        False,
        "Let the platform read the images from CORAL_INPUT on S3 (and predictions from CORAL_OUTPUT, if on "
        "S3), with CORAL_LIGHTLY_ROLE_ARN. Without a role the platform gets the AWS keys of this process.",
        boolean,
        group=_LIGHTLY,
        metavar="",
        shown_default="0",
        step="select",
    )
    lightly_role_arn: str | None = knob(
        "CORAL_LIGHTLY_ROLE_ARN",
        None,
        "AWS role that the platform assumes to read the bucket.",
        role_arn,
        group=_LIGHTLY,
        metavar="ARN",
        shown_default="none",
        step="select",
    )
    lightly_external_id: Secret | None = knob(
        "CORAL_LIGHTLY_EXTERNAL_ID",
        None,
        "External id that the AWS role requires, at least 10 characters.",
        external_id,
        group=_LIGHTLY,
        metavar="ID",
        shown_default="none",
        secret=True,
        step="select",
    )
    lightly_predictions: bool | None = knob(
        "CORAL_LIGHTLY_PREDICTIONS",
        None,
        "Write the detections to .lightly/predictions/ in Lightly's format, one file per image: 1, 0 or auto. auto "
        "does so if there is a token of the Lightly platform.",
        auto_or(boolean),
        group=_LIGHTLY,
        metavar="auto|0|1",
        shown_default="auto",
        step="select",
    )

    mlflow: bool = knob(
        "CORAL_MLFLOW",
        False,
        "Log the finished run to the MLflow server at MLFLOW_TRACKING_URI: settings, figures and report.html.",
        boolean,
        group=_OTHER,
        metavar="",
        shown_default="0",
        step="select",
    )
    log_format: LogFormat = knob(
        "CORAL_LOG_FORMAT",
        "auto",
        "Format of the log: text, json (one object per line), or auto (text on a terminal, json elsewhere).",
        one_of("auto", "text", "json"),
        group=_OTHER,
        metavar="NAME",
    )

    @property
    def token(self) -> Secret | None:
        """The token of the Lightly platform, from either of its two settings."""
        return self.lightly_token or self.lightly_token_file

    @property
    def writes_lightly_predictions(self) -> bool:
        """Whether the detections are also written in Lightly's format."""
        return self.token is not None if self.lightly_predictions is None else self.lightly_predictions

    @property
    def ranking_scores(self) -> Mix:
        """The scores that the strategy ranks by; those of CORAL_SCORE if it uses none of its own."""
        return self.strategy.scores or self.score.shares

    @property
    def embeds_images(self) -> bool:
        """Whether images are read to embed them, although their detections come from elsewhere."""
        if not self.predictions or self.has_embedding_file:
            return False
        return self.predictions == NONE or self.embedding != "detector" or self.needs_embeddings

    @property
    def uses_features(self) -> bool:
        """Whether the embeddings are the features in the parts."""
        if self.has_embedding_file or self.embedding == "simclr":
            return False
        return not self.predictions or self.embeds_images

    @property
    def has_embedding_file(self) -> bool:
        """Whether the embeddings are in a file, and no model makes them."""
        return self.embedding not in ("detector", "simclr") and not self.embedding.startswith(TIMM)

    @property
    def needs_embeddings(self) -> bool:
        """Whether the selection compares embeddings."""
        return self.min_distance > 0 or self.strategy.uses_distance


def knobs() -> Iterator[tuple[str, Knob]]:
    """Yields the field name and the knob of every setting, in the order of their definition."""
    for field in fields(Settings):
        yield field.name, field.metadata["knob"]
