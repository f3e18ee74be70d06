"""Predictions of other detectors, as rows of parts, so that `select` works on them as on the job's own.

The content at the URI decides the format:

- a file that begins with ``PAR1``: Parquet, see `job.external.parquet`;
- a JSON file with images, categories and annotations: COCO, see `job.external.coco`;
- a JSON list of objects with image_id: COCO results or Ultralytics' predictions.json, see `job.external.results`;
- a folder with schema.json, or with a tasks.json of one task: Lightly's, see `job.external.lightly`;
- a folder with parts: an earlier CORAL_OUTPUT, see `job.external.earlier`;
- another folder with .txt files: YOLO labels, see `job.external.yolo_labels`.

Two URIs with a comma between them are a list of results and the COCO file of its data set.

Boxes are in pixels of the image after its EXIF orientation, as everywhere in the job. Nothing here needs torch.
"""

import hashlib
import threading
from dataclasses import dataclass

from job import scores
from job.errors import SettingsError, Stopped
from job.external import earlier, formats
from job.external.batch import MIXED_PROBABILITIES, Batch, make_rows
from job.external.input_images import InputImages
from job.external.layouts import Layout
from job.external.problems import Problems
from job.parts import Row
from job.parts.pool import describe_new_names
from job.stopping import MESSAGE

__all__ = ["InputImages", "Predictions", "read"]


@dataclass(frozen=True)
class Predictions:
    """Predictions of another detector.

    Attributes:
        rows: One row per image, sorted by the bytes of the file name. Boxes are sorted by score, highest first. Rows
            have an empty etag, byte_size 0, no feature, and None for an unknown size. Those of an earlier output have
            thumbnails, and may be of unusable images, as may those of YOLO labels.
        class_names: Class names, by class index.
        sha256: SHA-256 of the file, or of the names and digests of the files in a folder.
        probabilities: ``external`` if class probabilities were given, else ``synthetic`` (see
            `job.external.distributions`); for an earlier output, what its parts say.
        warnings: What the user should know, as whole sentences.
        layout: How the format writes a box; None for an earlier output, whose boxes the job itself has written.
    """

    rows: list[Row]
    class_names: tuple[str, ...]
    sha256: str
    probabilities: str
    warnings: tuple[str, ...]
    layout: Layout | None


def read(
    uri: str,
    classes: tuple[str, ...] | None,
    *,
    stop: threading.Event,
    min_score: float = 0.0,
    images: InputImages | None = None,
) -> Predictions:
    """Reads predictions in any supported format.

    Args:
        uri: Path or bucket URI of the file or folder.
        classes: CORAL_CLASSES, by class index. Required if the predictions do not name their classes; if they do, it
            must be the same names.
        stop: Ends the reading when it is set.
        min_score: Boxes of a lower score are dropped.
        images: The images in CORAL_INPUT, for formats that do not name images in full or in which boxes are relative.

    Raises:
        SettingsError: If the format is not supported, or the content is invalid.
        AccessDenied: If the permission to read a file is missing.
        ServiceUnavailable: If a file cannot be read.
        Stopped: If `stop` is set.
    """
    digest = hashlib.sha256()
    context = formats.Context(classes, images, stop, digest.update)
    opened = formats.open_predictions(uri, context)
    if isinstance(opened, earlier.Output):
        rows, provenance = opened.read(classes, min_score, digest.update)
        _require_rows(rows, uri)
        class_names = classes or provenance.class_names
        warnings = _warn_if_missing(len(class_names), missing=provenance.probabilities == "synthetic")
        if class_names != provenance.class_names:
            warnings += (describe_new_names(provenance.class_names, class_names),)
        return Predictions(rows, class_names, digest.hexdigest(), provenance.probabilities, warnings, None)
    rows = []
    uri_of: dict[str, str] = {}
    with_probabilities: set[bool] = set()
    for batch in opened.batches:
        if stop.is_set():
            raise Stopped(MESSAGE)
        _check_repetitions(batch, uri_of)
        if len(batch.scores):
            with_probabilities.add(batch.probabilities is not None)
        if len(with_probabilities) > 1:
            raise SettingsError(f"CORAL_PREDICTIONS={uri!r}: {MIXED_PROBABILITIES}")
        rows += make_rows(batch, len(opened.class_names), min_score)
    rows += opened.failures
    _require_rows(rows, uri)
    rows.sort(key=lambda row: row.file_name.encode())
    probabilities = "external" if True in with_probabilities else "synthetic"
    warnings = (*opened.warnings, *_warn_if_missing(len(opened.class_names), missing=False in with_probabilities))
    return Predictions(rows, opened.class_names, digest.hexdigest(), probabilities, warnings, opened.layout)


def _require_rows(rows: list[Row], uri: str) -> None:
    if not rows:
        raise SettingsError(f"CORAL_PREDICTIONS={uri!r} contains no images. Add an entry for each image of the pool.")


def _warn_if_missing(num_classes: int, *, missing: bool) -> tuple[str, ...]:
    """A warning if class probabilities are missing. With one class none are: what the score leaves is background."""
    if not missing or num_classes == 1:
        return ()
    others = [name for name in scores.TABLE if name not in scores.OF_PROBABILITIES]
    return (
        f"The predictions have no class probabilities, so {', '.join(scores.OF_PROBABILITIES)} use only the detection "
        f"confidence. Add probabilities, or set CORAL_SCORE to one of {', '.join(others)}.",
    )


def _check_repetitions(batch: Batch, uri_of: dict[str, str]) -> None:
    """Refuses repeated images.

    Args:
        batch: The next batch.
        uri_of: The file of each image so far, by file name. The images of the batch are added.

    Raises:
        SettingsError: If an image of the batch is repeated.
    """
    problems = Problems()
    for image in batch.images:
        if (first := uri_of.get(image.file_name)) is not None:
            repetition = "appears twice" if first == image.uri else f"is also in {first}"
            problems.add(image.uri, f"{image} {repetition}. Give each image once.")
        uri_of[image.file_name] = image.uri
    problems.raise_if_any()
