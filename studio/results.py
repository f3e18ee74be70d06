"""The results in a run's output folder: images with their scores, picks, embeddings and detections."""

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

# Columns of images.parquet that are not metadata: LightlyStudio has other fields for them.
_OTHER_COLUMNS = {"file_name", "status", "error", "width", "height", "factors", "labelled", "map_x", "map_y"}
_PICK_METADATA = ("value", "reason")


@dataclass(frozen=True)
class Image:
    """One usable image.

    Attributes:
        file_name: Path relative to the run's input, or the line of the list of files.
        width: Width in pixels after the EXIF orientation.
        height: Height in pixels after the EXIF orientation.
        num_boxes: Number of detections.
        metadata: Scores and other values by column of images.parquet or field of selected.jsonl, without null values.
    """

    file_name: str
    width: int
    height: int
    num_boxes: int
    metadata: dict[str, float | int | str]


@dataclass(frozen=True)
class Detections:
    """The detections of one image.

    Attributes:
        file_name: File name of the image.
        boxes: (n, 4) float32; left, top, right, bottom in pixels.
        scores: (n,) float32 detection confidences in [0, 1].
        classes: (n,) int32 class indices.
    """

    file_name: str
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Results:
    """A finished run.

    Attributes:
        uri: URI of the output folder.
        source: CORAL_INPUT of the run.
        class_names: Class names by class index.
        embedding_space: Name of the embedding space.
        images: The usable images, sorted by file name.
        num_failed: Number of images that the job could not use.
        picks: File names of the picks, best first.
        tag: Name of the picks' tag, the same as on Lightly's platform.
        digest: Digest of everything that LightlyStudio shows.
    """

    uri: str
    source: str
    class_names: list[str]
    embedding_space: str
    images: list[Image]
    num_failed: int
    picks: list[str]
    tag: str
    digest: str

    def embeddings(self) -> tuple[list[str], npt.NDArray[np.float32]]:
        """The file names of n images, and (n, d) embeddings in the same order."""
        table = _table(_read(self.uri, "embeddings.parquet"))
        vectors = table["embedding"].combine_chunks()
        return table["file_name"].to_pylist(), vectors.flatten().to_numpy().reshape(len(vectors), -1)

    def detections(self) -> Iterator[Detections]:
        """Yields the detections of each image."""
        wanted = {image.file_name: (image.width, image.height, image.num_boxes) for image in self.images}
        for uri in _parts(self.uri):
            filesystem, path = stores.open_filesystem(uri)
            with stores.translate_errors(uri), filesystem.open(path, "rb") as file:
                table = pq.ParquetFile(file, pre_buffer=True).read(columns=_COLUMNS)
            for batch in table.to_batches(max_chunksize=512):
                yield from _detections(batch, wanted)


_COLUMNS = ["key", "status", "width", "height", "boxes", "scores", "classes"]


def read(output: str) -> Results:
    """Reads the results except embeddings and detections, which are read when they are needed.

    Args:
        output: The output folder, as the user gave it.

    Raises:
        SettingsError: If the folder does not contain a finished run.
        AccessDenied: If the permission to read the folder is missing.
        ServiceUnavailable: If the folder's store cannot be used.
    """
    if not output:
        raise SettingsError("OUTPUT is not set: name the output folder of a run, as in make studio OUTPUT=demo/output.")
    uri = stores.normalize(output)
    names = ("run.json", "images.parquet", "selected.jsonl")
    try:
        content = {name: _read(uri, name) for name in names}
    except FileNotFoundError as error:
        raise SettingsError(
            f"OUTPUT={output!r} does not contain a finished run ({error} is missing): give the CORAL_OUTPUT of one."
        ) from None
    try:
        return _results(uri, content)
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise SettingsError(
            f"The results in OUTPUT={output!r} are damaged or from another version ({error!r}): run the job again."
        ) from error


def _results(uri: str, content: dict[str, bytes]) -> Results:
    run = json.loads(content["run.json"])
    picks = [json.loads(line) for line in content["selected.jsonl"].decode().split("\n") if line]
    pick_metadata = {pick["file_name"]: {name: pick[name] for name in _PICK_METADATA} for pick in picks}
    rows = _table(content["images.parquet"]).to_pylist()
    without_size = [row["file_name"] for row in rows if row["status"] == "ok" and row["width"] is None]
    if without_size:
        raise SettingsError(
            f"The sizes of {len(without_size)} images are unknown, for example of {without_size[0]!r}: their imported "
            "predictions lack them. Add width and height to CORAL_PREDICTIONS (COCO JSON or .parquet)."
        )
    # Not the whole run.json, which differs between starts of the same run.
    shown = [run["run_id"], run["detector"], run["embedding"]]
    digest = hashlib.sha256(json.dumps(shown, sort_keys=True).encode())
    digest.update(content["images.parquet"] + content["selected.jsonl"])
    return Results(
        uri=uri,
        source=run["settings"]["CORAL_INPUT"],
        class_names=run["detector"]["class_names"],
        embedding_space=f"coralpick/{run['embedding']['method']}@{run['embedding']['space']}",
        images=[_image(row, pick_metadata) for row in rows if row["status"] == "ok"],
        num_failed=sum(row["status"] != "ok" for row in rows),
        picks=[pick["file_name"] for pick in picks],
        tag=f"coral-{len(picks)}-{run['run_id']}",
        digest=digest.hexdigest(),
    )


def _table(content: bytes) -> pa.Table:
    # Without threads: a process that ends while Arrow starts its threads is aborted, and loses its exit code.
    return pq.ParquetFile(io.BytesIO(content), pre_buffer=False).read(use_threads=False)


def _image(row: dict[str, Any], pick_metadata: dict[str, dict[str, Any]]) -> Image:
    values = row | pick_metadata.get(row["file_name"], {})
    metadata = {name: value for name, value in values.items() if name not in _OTHER_COLUMNS and value is not None}
    return Image(row["file_name"], row["width"], row["height"], row["num_boxes"], metadata)


def _read(uri: str, name: str) -> bytes:
    """Reads a file.

    Raises:
        FileNotFoundError: If the file does not exist; the error's text is the name.
    """
    try:
        with stores.translate_errors(f"{uri}/{name}"):
            filesystem, path = stores.open_filesystem(f"{uri}/{name}")
            content: bytes = filesystem.cat_file(path)
    except FileNotFoundError:
        raise FileNotFoundError(name) from None
    return content


def _parts(uri: str) -> list[str]:
    folder = f"{uri}/parts"
    filesystem, path = stores.open_filesystem(folder)
    with stores.translate_errors(folder):
        names = {part.rpartition("/")[2] for part in filesystem.ls(path, detail=False)}
    return [f"{folder}/{name}" for name in sorted(names) if name.startswith("part-") and name.endswith(".parquet")]


def _detections(rows: pa.RecordBatch, wanted: dict[str, tuple[int, int, int]]) -> Iterator[Detections]:
    """Yields the detections of the wanted images, and removes these images from `wanted`.

    If two processes detected on the same image, the first part by name counts, as in the job. Rows of an earlier
    version of an image are skipped; they are recognized by another size or number of boxes.
    """
    columns = [rows.column(name).to_pylist() for name in ("key", "status", "width", "height")]
    for number, (file_name, status, width, height) in enumerate(zip(*columns, strict=True)):
        if status != "ok" or file_name not in wanted:
            continue
        boxes, scores, classes = (rows.column(name)[number].values for name in ("boxes", "scores", "classes"))
        if wanted[file_name] != (width, height, len(scores)):
            continue
        del wanted[file_name]
        yield Detections(file_name, boxes.flatten().to_numpy().reshape(-1, 4), scores.to_numpy(), classes.to_numpy())
