"""The platform's own selection, for those who want its answer rather than ours.

Its call is deprecated, so the platform may refuse it. Which of the uploaded scores it uses is named in the request.
"""

import json
import logging
import threading
import time
from typing import Any

from job import ledger
from job.errors import TryAgain
from job.lightly.api import Dataset, Platform, Tag, Task
from job.lightly.transport import Refused
from job.settings import Settings
from job.storage import Storage, read_required

logger = logging.getLogger(__name__)

_PATIENCE = 3600.0  # seconds for the platform to select
_LONGEST_WAIT = 10.0


def select(
    platform: Platform,
    dataset: Dataset,
    output: Storage,
    stop: threading.Event,
    *,
    request: dict[str, Any],
    embedding: str,
) -> str | None:
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
        The id of the tag; None when the platform refuses.

    Raises:
        TryAgain: It takes too long.
    """
    key = f"parts/lightly-selection-{ledger.piece(platform.server, dataset.id, embedding, request)}"
    try:
        if (task := _task(platform, output, key)) is None:
            job = platform.start_selection(dataset, embedding, request)
            output.write(key, json.dumps({"job": job}).encode())
            task = platform.task(job)
    except Refused as error:
        logger.warning("%s The job's own selection is taken.", error)
        return None
    deadline = time.monotonic() + _PATIENCE
    while task.state not in ("FINISHED", "FAILED"):
        if time.monotonic() > deadline:
            raise TryAgain("Lightly is still selecting. Start again to wait for it.")
        stop.wait(min(max(task.wait, 0.1), _LONGEST_WAIT))
        task = platform.task(task.id)
    output.delete(key)
    if task.state == "FAILED" or not task.result:
        logger.warning(
            "Lightly's selection failed: %s. The job's own selection is taken.", task.error or "no reason given"
        )
        return None
    return str(task.result)


def _task(platform: Platform, output: Storage, key: str) -> Task | None:
    """The selection that an earlier start of the job began; None if there is none, or Lightly has forgotten it."""
    if output.stat(key) is None:
        return None
    try:
        return platform.task(json.loads(read_required(output, key))["job"])
    except Refused as error:
        if error.status != 404:
            raise
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
        "method": settings.strategy.upper(),
        "config": {"stoppingCondition": stopping},
        "queryTagId": pool.id,
        "scoreType": settings.score,
        "rowCount": pool.size,
    }
    return content | ({"preselectedTagId": labelled.id} if labelled else {})
