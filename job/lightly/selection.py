"""The platform's own selection, for those who want its answer rather than ours.

Its call is deprecated, so the platform may refuse it. Which of the uploaded scores it uses is named in the request.
"""

import logging
import threading
import time
from typing import Any

from job.errors import AccessDenied, TryAgain
from job.lightly.api import Dataset, Platform, Tag, Task
from job.lightly.transport import Refused
from job.parts import ledger
from job.parts.ledger import Ledger
from job.settings import Settings
from job.storage import Storage

logger = logging.getLogger(__name__)

_PATIENCE = 3600.0  # seconds for the platform to read embeddings, and to select
_LONGEST_WAIT = 10.0


def select(
    platform: Platform,
    dataset: Dataset,
    output: Storage,
    stop: threading.Event,
    *,
    request: dict[str, Any],
    embedding: str,
) -> Tag | None:
    """Lets the platform select, and waits for the tag that it makes.

    A job that was started earlier is waited for, rather than started twice.

    Args:
        platform: Who selects.
        dataset: From what.
        output: Folder of the results, where the job's id is kept.
        stop: When set, the waiting ends.
        request: From `request`.
        embedding: Id of the embeddings.

    Returns:
        The tag; None when the platform refuses, or fails.

    Raises:
        TryAgain: It takes too long.
    """
    piece = ledger.name_piece(platform.server, dataset.id, embedding, request)
    begun = Ledger(output, "selection", [piece])
    task = _begun(platform, begun.names(piece))
    if task is None:
        _wait_until_read(platform, dataset, embedding, stop)
        try:
            job = platform.start_selection(dataset, embedding, request)
        except (Refused, AccessDenied, TryAgain) as error:
            return _tag(platform, dataset, request, str(error))
        begun.add(piece, [job])
        task = platform.task(job)
    deadline = time.monotonic() + _PATIENCE
    while task.state not in ("FINISHED", "FAILED"):
        _pause(stop, task.wait, deadline, "selecting")
        task = platform.task(task.id)
    return _tag(platform, dataset, request, task.error or "The selection made no tag.")


def _begun(platform: Platform, jobs: set[str]) -> Task | None:
    """The selection that an earlier start of the job began; None if there is none, or Lightly has forgotten it."""
    for job in jobs:
        try:
            return platform.task(job)
        except Refused as error:
            if error.status != 404:
                raise
    return None


def _wait_until_read(platform: Platform, dataset: Dataset, embedding: str, stop: threading.Event) -> None:
    deadline, wait = time.monotonic() + _PATIENCE, 0.25
    while not any(each.is_processed for each in platform.embeddings(dataset) if each.id == embedding):
        _pause(stop, wait, deadline, "reading the embeddings")
        wait *= 2


def _pause(stop: threading.Event, seconds: float, deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise TryAgain(f"Lightly is still {what}.")
    stop.wait(min(max(seconds, 0.1), _LONGEST_WAIT))


def _tag(platform: Platform, dataset: Dataset, request: dict[str, Any], problem: str) -> Tag | None:
    """The tag, which may be there even where the answer was lost, or another start of the job has asked for it."""
    for tag in platform.tags(dataset):
        if tag.name == request["newTagName"]:
            return tag
    logger.warning("%s The job's own selection is taken.", problem)
    return None


def request(
    settings: Settings, name: str, count: int, *, pool: Tag, labelled: Tag | None, num_labelled: int
) -> dict[str, Any]:
    """A selection as the API names its fields.

    Args:
        settings: Which method and score.
        name: Of the tag to be made.
        count: How many new images to pick.
        pool: The images to pick from, to which the scores belong.
        labelled: Those that have labels.
        num_labelled: How many these are; the platform counts them, too.
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
