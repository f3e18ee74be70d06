"""What the platform keeps: datasets, tags, embeddings and tasks."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Dataset:
    """A dataset of the platform.

    Attributes:
        id: Id of the dataset.
        name: Name of the dataset.
    """

    id: str
    name: str


@dataclass(frozen=True)
class Tag:
    """A named set of samples.

    Attributes:
        id: Id of the tag.
        name: Name of the tag.
        mask: The samples of the tag, in the encoding of `job.lightly.masks`.
        size: Number of samples in the dataset when the tag was made or last enlarged.
    """

    id: str
    name: str
    mask: str
    size: int


@dataclass(frozen=True)
class WriteUrls:
    """Signed URLs that accept the files of a sample.

    Attributes:
        full: URL for the image.
        thumbnail: URL for the thumbnail.
    """

    full: str
    thumbnail: str


@dataclass(frozen=True)
class Embedding:
    """A named set of embeddings of a dataset.

    Attributes:
        id: Id of the embeddings.
        name: Name of the embeddings.
        is_processed: Whether the platform has read their file.
    """

    id: str
    name: str
    is_processed: bool


@dataclass(frozen=True)
class Task:
    """An asynchronous task of the platform.

    Attributes:
        id: Id of the task.
        state: WAITING, RUNNING, FINISHED, FAILED or UNKNOWN.
        wait: Seconds to wait before the next poll.
        error: Reason for a failure; empty if there is none.
        result: Result of the task; None if there is none.
    """

    id: str
    state: str
    wait: float
    error: str
    result: Any
