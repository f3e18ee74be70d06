"""The files that a run leaves in CORAL_OUTPUT: `FILES` has one record for each file or folder.

This module loads no library, so that every room above can use the names. Rooms below define the names of what they
write themselves, and a test compares these names with the ones here.
"""

from dataclasses import dataclass

SELECTED_TXT = "selected.txt"
SELECTED_CSV = "selected.csv"
SELECTED_JSONL = "selected.jsonl"
IMAGES = "images.parquet"
DETECTIONS = "detections.parquet"
EMBEDDINGS = "embeddings.parquet"
FAILURES = "failures.jsonl"
RUN = "run.json"
REPORT = "report.html"
ROUNDS = "rounds/"
EXPORTS = "exports/"
COPIES = "exports/copies.jsonl"
SELECTED = "selected/"
ALL_IMAGES = "predictions/coco.json"
LIGHTLY_PREDICTIONS = ".lightly/predictions/"
LIGHTLY = "lightly.json"
STATUS = "status.json"
STATUS_OF_SHARD = "status-{index}-of-{count}.json"
PARTS = "parts/"
LEDGER = ".coralpick/"
EDITED = "edited/"
SUCCESS = "_SUCCESS"

MAX_EXPORTED_BOXES = 2_000_000  # some 400 MB of JSON
MAX_EXPORTED_PROBABILITIES = 50_000_000  # some 400 MB of JSON


@dataclass(frozen=True, kw_only=True)
class OutputFile:
    """A file or folder that a run leaves in the output.

    Attributes:
        name: Path below the output. A folder ends with ``/``, and braces stand for a number.
        writer: Module that writes the file.
        written: When the file is written, for the manual.
        content: One sentence about the content, for the manual.
    """

    name: str
    writer: str
    written: str
    content: str


FILES = (
    OutputFile(
        name=SELECTED_TXT,
        writer="job.publish.tables",
        written="always",
        content="File names of the picks, best first, one per line. A name with a line break or a leading quotation "
        "mark is written as a JSON string.",
    ),
    OutputFile(
        name=SELECTED_CSV,
        writer="job.publish.tables",
        written="always",
        content="One row per pick: rank, file name, score, value, distance to the nearest labelled or earlier picked "
        "image and its name, reason in words, factors of the value, boxes that made the score, and the file name "
        "as a spreadsheet may open it.",
    ),
    OutputFile(
        name=SELECTED_JSONL,
        writer="job.publish.tables",
        written="always",
        content=f"The rows of `{SELECTED_CSV}` without the last column, one JSON object per line.",
    ),
    OutputFile(
        name=IMAGES,
        writer="job.publish.tables",
        written="always",
        content="One row per image: status, error, folder, size, number of boxes and of expected boxes, all scores, "
        "distance to the nearest labelled or picked image and its name; for a pick also rank, value, reason, factors; "
        "whether it is labelled, and its coordinates on the report's map.",
    ),
    OutputFile(
        name=DETECTIONS,
        writer="job.publish.boxes",
        written="with detections",
        content="One row per box of each usable image: file name, class and its index, score, left, top, right and "
        "bottom in pixels, entropy of the class probabilities (0 to 1).",
    ),
    OutputFile(
        name=EMBEDDINGS,
        writer="job.embed.table",
        written="unless there are only predictions and the strategy needs no embeddings",
        content="File name and embedding of each usable image.",
    ),
    OutputFile(
        name=FAILURES,
        writer="job.publish.tables",
        written="always",
        content="Every image that could not be used, with the reason.",
    ),
    OutputFile(
        name=RUN,
        writer="job.publish.manifest",
        written="always",
        content="Settings (no secrets), versions, digests of model and weights, counts, statistics of the picks, "
        "seconds, memory and bytes written per stage. Written last.",
    ),
    OutputFile(
        name=REPORT,
        writer="job.publish.results",
        written="always",
        content="One page for people: what the picks bring and cost, the picks with their boxes and reasons, a map of "
        "the pool, where the detector struggles, how pool and picks spread, near-duplicates, failures.",
    ),
    OutputFile(
        name=ROUNDS,
        writer="job.publish.rounds",
        written="always",
        content="One `<run_id>.json` per selection in this output: number of the round, picks, figures, classes. Those "
        "of earlier runs stay, and the report compares the last two.",
    ),
    OutputFile(
        name=EXPORTS,
        writer="job.exports.writing",
        written="with detections, in the formats of `CORAL_EXPORTS`",
        content="The picks with their detections as pre-labels, for labelling tools.",
    ),
    OutputFile(
        name=SELECTED,
        writer="job.exports.copies",
        written="with `CORAL_COPY_SELECTED=1`",
        content="Copies of the picked files.",
    ),
    OutputFile(
        name=COPIES,
        writer="job.exports.copies",
        written="with `CORAL_COPY_SELECTED=1`",
        content=f"File name and copy of each pick in `{SELECTED}`, one JSON object per line.",
    ),
    OutputFile(
        name=ALL_IMAGES,
        writer="job.exports.writing",
        written=f"with `coco` in `CORAL_EXPORTS`, up to {MAX_EXPORTED_BOXES:,} boxes",
        content="The detections on all usable images in COCO's format, with their class probabilities (up to "
        f"{MAX_EXPORTED_PROBABILITIES:,} of them).",
    ),
    OutputFile(
        name=LIGHTLY_PREDICTIONS,
        writer="job.exports.lightly_files",
        written="with detections, if there is a token or with `CORAL_LIGHTLY_PREDICTIONS=1`",
        content="The detections in [Lightly's prediction format](https://docs.lightly.ai/docs/prediction-format), one "
        "file per image, for LightlyOne, LightlyStudio and labelformat.",
    ),
    OutputFile(
        name=LIGHTLY,
        writer="job.lightly.upload",
        written="by an upload to Lightly",
        content="Dataset, tag, embedding and prediction task on the platform, and the images that could not be "
        "uploaded.",
    ),
    OutputFile(
        name=STATUS,
        writer="job.publish.status",
        written="from start to end of a run with one shard, and of `select`",
        content="How far the run is and how it ended.",
    ),
    OutputFile(
        name=STATUS_OF_SHARD,
        writer="job.publish.status",
        written="by each of several shards, instead",
        content=f"The same as `{STATUS}`, for one shard.",
    ),
    OutputFile(
        name=PARTS,
        writer="job.parts",
        written="always",
        content="The detections (boxes, scores, classes, class probabilities, thumbnail, feature), the scores of each "
        "image, the listing of each shard, and which pieces of work have finished; while SimCLR is trained, its state.",
    ),
    OutputFile(
        name=LEDGER,
        writer="job.parts.owned",
        written="always",
        content="Digests of the result files, by which the job knows its own. It stays if you delete `parts/` to start "
        "again.",
    ),
    OutputFile(
        name=EDITED,
        writer="job.parts.owned",
        written="if a file that the job did not write had the name of a result",
        content="A file that the job did not write, but that had the name of a result; moved to "
        "`edited/<digest>/<name>`. Files below `exports/` and `selected/` that someone else changed stay "
        "where they are instead.",
    ),
    OutputFile(
        name=SUCCESS,
        writer="job.pipeline",
        written="when all other files are final; only an upload may follow",
        content="The name of the run, `run_id` in `run.json`.",
    ),
)


def markdown_table() -> str:
    """The manual's table of output files."""
    lines = ["| file in `CORAL_OUTPUT` | content | written |", "|---|---|---|"]
    for file in FILES:
        name = file.name.replace("{", "<").replace("}", ">")
        lines.append(f"| `{name}` | {file.content} | {file.written} |")
    return "\n".join(lines) + "\n"
