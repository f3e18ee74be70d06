"""An upload in this process, and the content of the server after it."""

import json
import threading
from typing import Any

import numpy as np

from job.lightly.api import Platform
from job.lightly.transport import Transport
from job.lightly.upload import Outcome, upload
from job.parts.pool import Pool
from job.retry import Patience
from job.secret import Secret
from job.select.points import ArrayPoints
from job.settings import Settings
from job.settings.mix import parse_score
from job.stopping import Stop
from job.storage import Storage
from tests.standins.lightly_platform import Dataset
from tests.standins.lightly_server import TOKEN, LightlyServer

NAMES = ["a.jpg", "a.png", "b c,d.jpg", "sub/ä.jpg", "sub/e.jpg", "t.jpg", "u.jpg", "v.jpg"]

PICKS = ["sub/ä.jpg", "a.png", "u.jpg"]

IMPATIENT = Patience(attempt=5.0, total=2.0, first_wait=0.01, longest_wait=0.05, longest_asked=0.05)


def connect(server: LightlyServer, token: str = TOKEN) -> Platform:
    return Platform(Transport(Secret(token), server.url, threading.Event(), IMPATIENT))


def embeddings(pool: Pool) -> np.ndarray[Any, np.dtype[np.floating]]:
    assert pool.features is not None
    return pool.features.read(0, len(pool.file_names))


def send(
    server: LightlyServer, folder: Storage, pool: Pool, picks: list[str] = PICKS, run_id: str = "0123abcd", **more: Any
) -> list[str] | None:
    labelled = more.pop("labelled", [])
    space = more.pop("space", "s" * 64)
    source = more.pop("source", None)
    values: dict[str, Any] = {
        "input": "in",
        "output": "out",
        "lightly_token": Secret(TOKEN),
        "lightly_dataset": "the set",
        "score": parse_score("uncertainty_entropy"),  # as `resolve` sets it for the platform's own selection
    }
    settings = Settings(**values | more)
    outcome = Outcome(pool, ArrayPoints(embeddings(pool)), space, labelled, picks, run_id)
    return upload(connect(server), settings, Stop(), folder, source, outcome)


def state(dataset: Dataset) -> dict[str, Any]:
    """The whole content of a dataset by name, without its ids and its order."""
    names = {tag["id"]: tag["name"] for tag in dataset.tags}
    return {
        "samples": sorted(
            (each.body["fileName"], json.dumps(each.body, sort_keys=True), each.files, each.predictions)
            for each in dataset.samples
        ),
        "tags": {tag["name"]: (sorted(dataset.in_tag(tag)), tag["totSize"]) for tag in dataset.tags},
        "embeddings": {
            tuple(sorted(set(each.maps))): {name: vector.tolist() for name, vector in dataset.vectors(each).items()}
            for each in dataset.embeddings
        },
        "scores": {
            (names[tag], kind): dict(zip(dataset.in_tag(dataset.tag(tag)), values, strict=True))
            for tag, kinds in dataset.scores.items()
            for kind, values in kinds.items()
        },
        "tasks": dataset.tasks,
    }
