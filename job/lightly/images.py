"""Images on the platform: samples, their files, and the predictions on them."""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from job.errors import SettingsError, TooManyFailedImages
from job.exports.lightly import categories, predictions, task_name
from job.lightly.api import Dataset, Platform
from job.lightly.transport import SIMULTANEOUS, Refused
from job.names import is_one_line
from job.parts import ledger
from job.parts import pool as pools
from job.parts.ledger import Ledger
from job.parts.pool import Detections, Pool
from job.prefetch import prefetch
from job.progress import Progress
from job.storage import Source, Storage

logger = logging.getLogger(__name__)

_LONGEST_NAME = 255  # lightly.api.utils.MAXIMUM_FILENAME_LENGTH
_OF_ONE_SAMPLE = frozenset({400, 413, 422})


def refused(names: Iterable[str], max_failed: float) -> dict[str, str]:
    """The names that the platform would refuse, or could not hold apart in its lists of one name a line, and why.

    Args:
        names: File names of all images.
        max_failed: Share of them that may be refused.

    Raises:
        TooManyFailedImages: More are.
    """
    reasons, total = {}, 0
    for name in names:
        total += 1
        if len(name) > _LONGEST_NAME:
            reasons[name] = f"its name has {len(name)} characters, and Lightly takes {_LONGEST_NAME}"
        elif not is_one_line(name):
            reasons[name] = "its name has a line break or another control character"
    _check(reasons, total, max_failed)
    return reasons


def _check(problems: dict[str, str], total: int, max_failed: float) -> None:
    if len(problems) > max_failed * total:
        name, reason = next(iter(problems.items()))
        raise TooManyFailedImages(
            f"{len(problems)} of {total} images cannot be uploaded to Lightly, which is more than CORAL_MAX_FAILED="
            f"{max_failed:g} allows. The first is {name!r}: {reason}"
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
    """Registers the images that are not there, and uploads their files and predictions.

    Of samples that were there before this output's first upload, only the predictions are uploaded: their files are
    those of others.

    Args:
        platform: Where to.
        dataset: Where there.
        output: Folder of the results.
        pool: The images.
        source: Their files; needed for ``full``.
        mode: ``thumbnails``, ``full``, or ``none`` for names only.
        max_failed: Share of the images that may be refused.
        simultaneous: How many images are sent at once.

    Returns:
        File name and reason of each image that could not be uploaded, or not all of it.

    Raises:
        SettingsError: The user's quota does not hold them.
        TooManyFailedImages: More than `max_failed` were refused.
    """
    problems = refused(pool.file_names, max_failed)
    if problems:
        name, reason = next(iter(problems.items()))
        logger.warning("%d images cannot be uploaded to Lightly. The first is %r: %s.", len(problems), name, reason)
    known = platform.samples(dataset)
    row_of = {name: row for row, name in enumerate(pool.file_names) if name not in problems}
    where = platform.server, dataset.id
    task = task_name(pool.provenance)
    pieces = {
        part: ledger.name_piece(*where, mode, task, part, [pool.file_names[row] for row in rows])
        for part, rows in pool.rows_by_part().items()
    }
    done = Ledger(output, "upload", pieces.values())
    again = {name for each in pieces.values() for name in done.names(each)}
    left = [
        row for name, row in row_of.items() if pieces[pool.part[row]] not in done or name not in known or name in again
    ]
    if not left:
        logger.info("All images are in Lightly's dataset %r already.", dataset.name)
        return problems
    new = {pool.file_names[row] for row in left} - known.keys()
    if new and len(known) + len(new) > (quota := platform.quota()):
        raise SettingsError(
            f"Lightly allows {quota} samples in a dataset; {dataset.name!r} has {len(known)}, and {len(new)} more "
            "would be added: use a dataset of its own, a smaller CORAL_INPUT, or ask Lightly for more."
        )
    # Written down before they are made: after a kill they are known from those of others.
    created = Ledger(output, f"created-{ledger.name_piece(*where)}")
    ours = created.all_names() | new
    if new:
        created.add(ledger.name_piece(sorted(new)), new)
    platform.register_upload(dataset, total=len(known) + len(new), processed=len(known))
    platform.set_prediction_task(dataset, task, categories(pool.provenance))

    def send(item: tuple[str, Detections]) -> tuple[str, str | None]:
        name, found = item
        with_files = mode if name in ours else "none"
        try:
            _send(platform, dataset, pool, row_of[name], known.get(name), found, with_files, source)
        except Refused as error:
            if error.status not in _OF_ONE_SAMPLE:
                raise
            return name, str(error)
        except OSError as error:
            return name, f"its file cannot be read: {error.strerror}"
        return name, None

    with (
        ThreadPoolExecutor(simultaneous, thread_name_prefix="lightly") as executor,
        Progress("upload to Lightly", len(left), "image") as progress,
    ):
        for part, found in pools.detections_by_part(output, pool, left):
            failed: dict[str, str] = {}
            for name, why_not in prefetch(executor, send, found.items(), ahead=2 * simultaneous):
                progress.add()
                if why_not is not None:
                    failed[name] = why_not
            problems |= failed
            done.add(pieces[part], failed)
            _check(problems, len(pool.file_names), max_failed)
    return problems


def _send(
    platform: Platform,
    dataset: Dataset,
    pool: Pool,
    row: int,
    sample: str | None,
    found: Detections,
    mode: str,
    source: Source | None,
) -> None:
    """Uploads all of one image; each step may be repeated."""
    name, urls = pool.file_names[row], None
    width, height = (int(each) for each in pool.size[row])
    if sample is None:
        # With its whole name: a.jpg and a.png must not share a thumbnail.
        thumbnail = None if mode == "none" else f"{name}_thumb.jpg"
        meta_data: dict[str, Any] = {"sizeInBytes": int(pool.byte_size[row]), "shape": [height, width, 3]}
        if pool.etag[row] == "":  # only its detections are known, made elsewhere
            meta_data = {"shape": [height, width, 3]} if width else {}
        sample, urls = platform.create_sample(dataset, name, thumbnail, meta_data)
    if mode != "none":
        urls = urls or platform.write_urls(dataset, sample)
        platform.put(urls.thumbnail, pool.thumbnails[row])
    if mode == "full" and source and urls:
        platform.put(urls.full, source.read(name, pool.etag[row]))
    task = task_name(pool.provenance)
    platform.set_predictions(dataset, sample, [_singleton(task, each) for each in predictions(found)])


def _singleton(task: str, prediction: dict[str, object]) -> dict[str, object]:
    """A prediction as the API names its fields."""
    return {
        "type": "OBJECT_DETECTION",
        "taskName": task,
        "categoryId": prediction["category_id"],
        "score": prediction["score"],
        "bbox": prediction["bbox"],
        "probabilities": prediction["probabilities"],
    }
