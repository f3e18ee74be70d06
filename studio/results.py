"""What a run has left in its output folder: images with their scores, picks, embeddings and detections."""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from job.errors import SettingsError
from studio import stores

# Of images.parquet, what LightlyStudio keeps in places of its own.
_NO_METADATA = {"file_name", "status", "error", "width", "height", "factors"}
_PICK_METADATA = ("value", "reason")


@dataclass(frozen=True)
class Image:
    """One usable image.

    Attributes:
        name: Relative to the run's input; in a list of files, as it stands there.
        width: Pixels, after the EXIF orientation.
        height: Pixels, likewise.
        num_boxes: How many detections it has.
        metadata: Scores and the like, by the names of images.parquet and selected.jsonl; what is null is left out.
    """

    name: str
    width: int
    height: int
    num_boxes: int
    metadata: dict[str, float | int | str]


@dataclass(frozen=True)
class Detections:
    """What was detected on one image.

    Attributes:
        name: Of the image.
        boxes: (n, 4) float32; left, top, right, bottom in pixels.
        scores: (n,) float32.
        classes: (n,) int32.
    """

    name: str
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Results:
    """A finished run.

    Attributes:
        uri: Of its output folder.
        source: Its CORAL_INPUT.
        class_names: By class index.
        embedding_space: Names the space that the embeddings lie in.
        images: Usable ones, sorted by name.
        failed: How many images could not be used.
        picks: Names, best first.
        tag: Name of the picks, the same as on Lightly's platform.
        digest: Of all that is shown.
    """

    uri: str
    source: str
    class_names: list[str]
    embedding_space: str
    images: list[Image]
    failed: int
    picks: list[str]
    tag: str
    digest: str

    def embeddings(self) -> tuple[list[str], npt.NDArray[np.float32]]:
        """Names of images, and in the same order (n, d) embeddings."""
        table = _table(_read(self.uri, "embeddings.parquet"))
        vectors = table["embedding"].combine_chunks()
        return table["file_name"].to_pylist(), vectors.flatten().to_numpy().reshape(len(vectors), -1)

    def detections(self) -> Iterator[Detections]:
        """Yields the detections on each image."""
        wanted = {each.name: (each.width, each.height, each.num_boxes) for each in self.images}
        for uri in _parts(self.uri):
            filesystem, path = stores.opened(uri)
            with stores.explained(uri), filesystem.open(path, "rb") as file:
                table = pq.ParquetFile(file, pre_buffer=True).read(columns=_COLUMNS)
            for batch in table.to_batches(max_chunksize=512):
                yield from _detections(batch, wanted)


_COLUMNS = ["key", "status", "width", "height", "boxes", "scores", "classes"]


def read(output: str) -> Results:
    """Reads all but embeddings and detections.

    Args:
        output: A folder, as the user gave it.

    Raises:
        SettingsError: There is no finished run.
        AccessDenied: It may not be read.
        ServiceUnavailable: Its store cannot be used.
    """
    if not output:
        raise SettingsError("OUTPUT is not set: name the output folder of a run, as in make studio OUTPUT=demo/output.")
    uri = stores.normal(output)
    names = ("run.json", "images.parquet", "selected.jsonl")
    try:
        content = {name: _read(uri, name) for name in names}
    except FileNotFoundError as error:
        raise SettingsError(
            f"OUTPUT={output!r} holds no finished run (there is no {error}): give the CORAL_OUTPUT of one."
        ) from None
    try:
        return _results(uri, content)
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise SettingsError(
            f"OUTPUT={output!r} holds results of another version, or damaged ones ({error!r}): run the job again."
        ) from error


def _results(uri: str, content: dict[str, bytes]) -> Results:
    run = json.loads(content["run.json"])
    picked = [json.loads(line) for line in content["selected.jsonl"].decode().split("\n") if line]
    reasons = {each["file_name"]: {name: each[name] for name in _PICK_METADATA} for each in picked}
    rows = _table(content["images.parquet"]).to_pylist()
    unknown = [row["file_name"] for row in rows if row["status"] == "ok" and row["width"] is None]
    if unknown:
        raise SettingsError(
            f"The sizes of {len(unknown)} images are not known, {unknown[0]!r} among them, since their detections came "
            "from elsewhere without them: give width and height in CORAL_PREDICTIONS (COCO JSON or .parquet)."
        )
    # Not of run.json as a whole, which differs from start to start of the same run.
    shown = [run["run_id"], run["detector"], run["embedding"]]
    digest = hashlib.sha256(json.dumps(shown, sort_keys=True).encode())
    digest.update(content["images.parquet"] + content["selected.jsonl"])
    return Results(
        uri=uri,
        source=run["settings"]["CORAL_INPUT"],
        class_names=run["detector"]["class_names"],
        embedding_space=f"coralpick/{run['embedding']['method']}@{run['embedding']['space']}",
        images=[_image(row, reasons) for row in rows if row["status"] == "ok"],
        failed=sum(row["status"] != "ok" for row in rows),
        picks=[each["file_name"] for each in picked],
        tag=f"coral-{len(picked)}-{run['run_id']}",
        digest=digest.hexdigest(),
    )


def _table(content: bytes) -> pa.Table:
    # Without threads, since a process that ends while Arrow's are starting is aborted, whatever its exit code was.
    return pq.ParquetFile(io.BytesIO(content), pre_buffer=False).read(use_threads=False)


def _image(row: dict[str, Any], reasons: dict[str, dict[str, Any]]) -> Image:
    known = row | reasons.get(row["file_name"], {})
    metadata = {name: value for name, value in known.items() if name not in _NO_METADATA and value is not None}
    return Image(row["file_name"], row["width"], row["height"], row["num_boxes"], metadata)


def _read(uri: str, name: str) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: There is none; its text is the name.
    """
    try:
        with stores.explained(f"{uri}/{name}"):
            filesystem, path = stores.opened(f"{uri}/{name}")
            content: bytes = filesystem.cat_file(path)
    except FileNotFoundError:
        raise FileNotFoundError(name) from None
    return content


def _parts(uri: str) -> list[str]:
    folder = f"{uri}/parts"
    filesystem, path = stores.opened(folder)
    with stores.explained(folder):
        names = {each.rpartition("/")[2] for each in filesystem.ls(path, detail=False)}
    return [f"{folder}/{name}" for name in sorted(names) if name.startswith("part-") and name.endswith(".parquet")]


def _detections(rows: pa.RecordBatch, wanted: dict[str, tuple[int, int, int]]) -> Iterator[Detections]:
    """Yields the rows that belong to wanted images, which are taken off `wanted`.

    Two processes may have done the same image, and the part that is first by name counts, as in the job. There are
    also rows of an image whose file has changed since; they tell themselves by its size and number of boxes.
    """
    columns = [rows.column(name).to_pylist() for name in ("key", "status", "width", "height")]
    for number, (name, status, width, height) in enumerate(zip(*columns, strict=True)):
        if status != "ok" or name not in wanted:
            continue
        boxes, scores, classes = (rows.column(each)[number].values for each in ("boxes", "scores", "classes"))
        if wanted[name] != (width, height, len(scores)):
            continue
        del wanted[name]
        yield Detections(name, boxes.flatten().to_numpy().reshape(-1, 4), scores.to_numpy(), classes.to_numpy())
