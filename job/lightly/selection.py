"""The platform's own selection, for users who prefer it to the job's.

Its API call is deprecated, so the platform may refuse it. The request names the uploaded score to use.
"""

import logging
import threading
import time
from typing import Any

from job.errors import AccessDenied, TryAgain
from job.lightly.api import Platform
from job.lightly.records import Dataset, Tag, Task
from job.lightly.transport import Refused
from job.parts import ledger
from job.parts.ledger import Ledger
from job.settings import Settings
from job.storage import Storage

logger = logging.getLogger(__name__)

_MAX_WAIT_SECONDS = 3600.0  # for the platform to read embeddings, and to select
_MAX_POLL_SECONDS = 10.0


def select(
    platform: Platform,
    dataset: Dataset,
    output: Storage,
    stop: threading.Event,
    *,
    request: dict[str, Any],
    embedding: str,
) -> Tag | None:
    """Starts a selection on the platform, and waits for the tag that it makes.

    A selection that an earlier start began is resumed, not started again.

    Args:
        platform: The platform.
        dataset: The dataset to select from.
        output: Folder of the results, which keeps the id of the platform's task.
        stop: When set, the waiting ends.
        request: The selection, from `request`.
        embedding: Id of the embeddings.

    Returns:
        The tag of the selection; None if the platform refused it, or if it failed.

    Raises:
        TryAgain: If the platform takes longer than an hour.
    """
    piece = ledger.name_piece(platform.server, dataset.id, embedding, request)
    started = Ledger(output, "selection", [piece])
    task = _find_started(platform, started.names(piece))
    if task is None:
        _wait_until_processed(platform, dataset, embedding, stop)
        try:
            task_id = platform.start_selection(dataset, embedding, request)
        except (Refused, AccessDenied, TryAgain) as error:
            return _find_tag(platform, dataset, request, str(error))
        started.add(piece, [task_id])
        task = platform.task(task_id)
    deadline = time.monotonic() + _MAX_WAIT_SECONDS
    while task.state not in ("FINISHED", "FAILED"):
        _pause(stop, task.wait, deadline, "selecting")
        task = platform.task(task.id)
    return _find_tag(platform, dataset, request, task.error or "Lightly's selection made no tag.")


def _find_started(platform: Platform, task_ids: set[str]) -> Task | None:
    """The selection that an earlier start began; None if there is none, or if the platform no longer has it."""
    for task_id in task_ids:
        try:
            return platform.task(task_id)
        except Refused as error:
            if error.status != 404:
                raise
    return None


def _wait_until_processed(platform: Platform, dataset: Dataset, embedding_id: str, stop: threading.Event) -> None:
    deadline, wait = time.monotonic() + _MAX_WAIT_SECONDS, 0.25
    while not any(embedding.is_processed for embedding in platform.embeddings(dataset) if embedding.id == embedding_id):
        _pause(stop, wait, deadline, "reading the embeddings")
        wait *= 2


def _pause(stop: threading.Event, seconds: float, deadline: float, activity: str) -> None:
    if time.monotonic() > deadline:
        raise TryAgain(f"Lightly is still {activity}. Run the job again later.")
    stop.wait(min(max(seconds, 0.1), _MAX_POLL_SECONDS))


def _find_tag(platform: Platform, dataset: Dataset, request: dict[str, Any], problem: str) -> Tag | None:
    """Finds the tag, which may exist although the answer was lost, or because another start requested it."""
    for tag in platform.tags(dataset):
        if tag.name == request["newTagName"]:
            return tag
    logger.warning("%s Falling back to the job's own selection.", problem)
    return None


def request(
    settings: Settings, name: str, count: int, *, pool: Tag, labelled: Tag | None, num_labelled: int
) -> dict[str, Any]:
    """Describes a selection, with the API's field names.

    Args:
        settings: Settings of the run: the method, the score and the minimum distance.
        name: Name of the tag to make.
        count: Number of new images to pick.
        pool: Tag of the images to pick from; the scores belong to it.
        labelled: Tag of the images that have labels; None if there are none.
        num_labelled: Number of images that have labels; the platform counts them as picks.
    """
    stopping: dict[str, float] = {"nSamples": num_labelled + count}
    if settings.min_distance:
        stopping["minDistance"] = settings.min_distance
    content = {
        "newTagName": name,
        "method": settings.strategy.platform_method,
        "config": {"stoppingCondition": stopping},
        "queryTagId": pool.id,
        "scoreType": settings.score.text,
        "rowCount": pool.size,
    }
    return content | ({"preselectedTagId": labelled.id} if labelled else {})
