"""Images on the platform: samples, their files and their predictions."""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from job.errors import SettingsError, TooManyFailedImages
from job.exports.lightly import categories, predictions, task_name
from job.inputs.frames import find_frame
from job.lightly.api import Platform
from job.lightly.records import Dataset
from job.lightly.transport import SIMULTANEOUS, Refused
from job.names import is_one_line, quantify, shorten
from job.parts import ledger
from job.parts import pool as pools
from job.parts.boxes import Detections, detections_by_part
from job.parts.ledger import Ledger
from job.parts.pool import Pool
from job.prefetch import prefetch
from job.progress import Progress
from job.storage import Source, Storage
from job.video.names import split_time

logger = logging.getLogger(__name__)

_MAX_NAME_LENGTH = 255  # lightly.api.utils.MAXIMUM_FILENAME_LENGTH
_SAMPLE_ERRORS = frozenset({400, 413, 422})  # statuses that concern one sample, not the whole upload


def find_refused(names: Iterable[str], max_failed: float) -> dict[str, str]:
    """Finds the names that the platform would refuse, or could not list one per line.

    Args:
        names: File names of all images.
        max_failed: Largest share of the names that may be refused, in [0, 1].

    Returns:
        File name to reason.

    Raises:
        TooManyFailedImages: If more than `max_failed` of the names would be refused.
    """
    reasons, total = {}, 0
    for name in names:
        total += 1
        if len(name) > _MAX_NAME_LENGTH:
            reasons[name] = f"its name has {len(name)} characters; Lightly's limit is {_MAX_NAME_LENGTH}"
        elif not is_one_line(name):
            reasons[name] = "its name has a line break or another control character"
    _check_failures(reasons, total, max_failed)
    return reasons


def _check_failures(reasons: dict[str, str], total: int, max_failed: float) -> None:
    if len(reasons) > max_failed * total:
        name, reason = next(iter(reasons.items()))
        raise TooManyFailedImages(
            f"{len(reasons)} of {total} images cannot be uploaded to Lightly, which is more than CORAL_MAX_FAILED="
            f"{max_failed:g} allows. The first is {shorten(name)}: {reason}"
        )


def upload(
    platform: Platform,
    dataset: Dataset,
    output: Storage,
    pool: Pool,
    source: Source | None,
    mode: str,
    *,
    max_failed: float,
    simultaneous: int = SIMULTANEOUS,
) -> dict[str, str]:
    """Registers the images that the dataset lacks, and uploads their files and predictions.

    If a sample is older than this output's first upload, somebody else owns its files. Then only the predictions are
    uploaded.

    Args:
        platform: The platform.
        dataset: The dataset on the platform.
        output: Folder of the results.
        pool: The images.
        source: The images' files; needed for ``full``.
        mode: Files to upload: ``thumbnails``, ``full`` (thumbnails and images), or ``none`` (only names).
        max_failed: Largest share of the images that may be refused, in [0, 1].
        simultaneous: Number of images to send at once.

    Returns:
        File name to reason, for each image that could not be uploaded completely.

    Raises:
        SettingsError: If the images exceed the quota of samples in a dataset.
        TooManyFailedImages: If more than `max_failed` of the images were refused.
    """
    problems = find_refused(pool.file_names, max_failed)
    if problems:
        name, reason = next(iter(problems.items()))
        logger.warning(
            "%s cannot be uploaded to Lightly. The first is %s: %s.",
            quantify(len(problems), "image"),
            shorten(name),
            reason,
        )
    samples = platform.samples(dataset)
    row_of = {name: row for row, name in enumerate(pool.file_names) if name not in problems}
    target = platform.server, dataset.id
    task = task_name(pool.provenance)
    pieces = {
        part: ledger.name_piece(*target, mode, task, part, [pool.file_names[row] for row in rows])
        for part, rows in pool.rows_by_part().items()
    }
    done = Ledger(output, "upload", pieces.values())
    retry = {name for piece in pieces.values() for name in done.names(piece)}
    remaining = [
        row
        for name, row in row_of.items()
        if pieces[pool.part_names[pool.part[row]]] not in done or name not in samples or name in retry
    ]
    if not remaining:
        logger.info("All images are already in Lightly's dataset %r.", dataset.name)
        return problems
    new = {pool.file_names[row] for row in remaining} - samples.keys()
    if new and len(samples) + len(new) > (quota := platform.quota()):
        raise SettingsError(
            f"Lightly allows {quota} samples in a dataset; {dataset.name!r} has {len(samples)}, and {len(new)} more "
            "would be added: use a separate dataset or a smaller CORAL_INPUT, or ask Lightly for a larger quota."
        )
    # Recorded before they are created: after a kill, the next start can still distinguish them from samples of others.
    created = Ledger(output, f"created-{ledger.name_piece(*target)}")
    own = created.all_names() | new
    if new:
        created.add(ledger.name_piece(sorted(new)), new)
    platform.register_upload(dataset, total=len(samples) + len(new), processed=len(samples))
    platform.set_prediction_task(dataset, task, categories(pool.provenance))

    thumbnails: dict[int, bytes] = {}

    def send(item: tuple[str, Detections]) -> tuple[str, str | None]:
        name, detections = item
        with_files = mode if name in own else "none"
        try:
            row = row_of[name]
            thumbnail = thumbnails.pop(row, b"")
            _send(platform, dataset, pool, row, samples.get(name), detections, with_files, thumbnail, source)
        except Refused as error:
            if error.status not in _SAMPLE_ERRORS:
                raise
            return name, str(error)
        except OSError as error:
            return name, f"its file cannot be read: {error.strerror}"
        return name, None

    with (
        ThreadPoolExecutor(simultaneous, thread_name_prefix="lightly") as executor,
        Progress("upload to Lightly", len(remaining), "image") as progress,
    ):
        for part, detections_of in detections_by_part(output, pool, remaining):
            failed: dict[str, str] = {}
            thumbnails |= (
                pools.thumbnails(output, pool, [row_of[name] for name in detections_of]) if mode != "none" else {}
            )
            for name, problem in prefetch(executor, send, detections_of.items(), ahead=2 * simultaneous):
                progress.add()
                if problem is not None:
                    failed[name] = problem
            problems |= failed
            done.add(pieces[part], failed)
            _check_failures(problems, len(pool.file_names), max_failed)
    return problems


def _send(
    platform: Platform,
    dataset: Dataset,
    pool: Pool,
    row: int,
    sample: str | None,
    detections: Detections,
    mode: str,
    thumbnail: bytes,
    source: Source | None,
) -> None:
    """Uploads one image completely; each step may be repeated."""
    name, urls = pool.file_names[row], None
    width, height = (int(side) for side in pool.size[row])
    if sample is None:
        # The whole name, since a.jpg and a.png must not share a thumbnail.
        thumbnail_name = None if mode == "none" else f"{name}_thumb.jpg"
        meta_data: dict[str, Any] = {"sizeInBytes": int(pool.byte_size[row]), "shape": [height, width, 3]}
        if not split_time(pool.etag[row])[0]:  # the job has not read the file: its detections were made elsewhere
            meta_data = {"shape": [height, width, 3]} if width else {}
        frame = find_frame(pool, row)
        if frame:
            meta_data.pop("sizeInBytes", None)  # it has no file
        sample, urls = platform.create_sample(dataset, name, thumbnail_name, meta_data, frame)
    if mode != "none":
        urls = urls or platform.write_urls(dataset, sample)
        platform.put(urls.thumbnail, thumbnail)
    if mode == "full" and source and urls:
        platform.put(urls.full, source.read(name, pool.etag[row]))
    task = task_name(pool.provenance)
    platform.set_predictions(dataset, sample, [_singleton(task, prediction) for prediction in predictions(detections)])


def _singleton(task: str, prediction: dict[str, object]) -> dict[str, object]:
    """A prediction with the API's field names."""
    return {
        "type": "OBJECT_DETECTION",
        "taskName": task,
        "categoryId": prediction["category_id"],
        "score": prediction["score"],
        "bbox": prediction["bbox"],
        "probabilities": prediction["probabilities"],
    }
