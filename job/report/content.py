"""What the report shows, as plain values; the template and the plots only lay it out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Picture:
    """An image with its detections.

    Attributes:
        file_name: File name of the image.
        url: Data URL of a JPEG; empty if there is none.
        width: Width of the original in pixels, after its EXIF orientation; 0 if unknown.
        height: Height of the original in pixels, after its EXIF orientation; 0 if unknown.
        boxes: Class name, confidence, and left, top, right, bottom in pixels of the original; best first.
    """

    file_name: str
    url: str
    width: int
    height: int
    boxes: list[tuple[str, float, list[float]]]


@dataclass(frozen=True)
class Card:
    """A picked image in the gallery.

    Attributes:
        rank: Rank of the pick, 1 for the best.
        picture: The image.
        reason: Why it was picked.
        facts: Further values by name.
    """

    rank: int
    picture: Picture
    reason: str
    facts: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        """Names of the classes that were detected on the image."""
        return sorted({name for name, _, _ in self.picture.boxes})


@dataclass(frozen=True)
class Strip:
    """A row of images of one kind.

    Attributes:
        title: Name of the kind.
        note: A sentence about the kind and the choice of images.
        pictures: Images, each with its caption.
    """

    title: str
    note: str
    pictures: list[tuple[Picture, str]]


@dataclass(frozen=True)
class ClassRow:
    """A row of the table of classes.

    Attributes:
        name: Class name.
        boxes: Number of boxes of the class in the pool.
        share_picked: Share of the class in the boxes on the picks.
        mean_score: Mean confidence of the boxes in the pool.
        mean_entropy: Mean entropy of the boxes in the pool, in [0, 1].
        low_confidence: Share of low-confidence boxes among those in the pool.
    """

    name: str
    boxes: int
    share_picked: float
    mean_score: float
    mean_entropy: float
    low_confidence: float


@dataclass(frozen=True)
class Map:
    """The embeddings in two dimensions, for m images.

    Attributes:
        points: (m, 2) coordinates.
        kinds: (m,) ``pool``, ``labelled`` or ``pick``.
        file_names: (m,) file names.
        thumbnails: (m,) data URLs; empty for no thumbnail.
        explained: Share of the variance that the two dimensions explain.
        total: Number of images in the pool.
    """

    points: npt.NDArray[np.float64]
    kinds: list[str]
    file_names: list[str]
    thumbnails: list[str]
    explained: float
    total: int


@dataclass(frozen=True)
class Histogram:
    """Distribution of a score over the pool and over the picks, in b bins.

    Attributes:
        name: Name of the score.
        edges: (b + 1,) edges of the bins.
        pool: (b,) shares of the pool.
        picks: (b,) shares of the picks.
    """

    name: str
    edges: list[float]
    pool: list[float]
    picks: list[float]


@dataclass(frozen=True)
class Distribution:
    """How the pool and the picks spread over the values of a column of CORAL_METADATA.

    Attributes:
        name: Name of the column.
        rows: A value or an interval; the shares of the pool and of the picks, in [0, 1]; and the numbers of images.
    """

    name: str
    rows: list[tuple[str, float, float, int, int]]


@dataclass(frozen=True)
class Content:
    """The whole report.

    Attributes:
        title: URI of the results.
        summary: Tiles at the top: label, value, and a note.
        cards: Picks, best first.
        strips: Images on which the detector struggles.
        classes: Classes, the most boxes first.
        map: The embeddings; None if there are none.
        histograms: Distributions of the scores.
        distributions: Columns of CORAL_METADATA.
        duplicates: A sentence about near-duplicates, and groups of them: a picture, and the number of images.
        failures: A reason, the number of images affected, and some of their file names.
        tables: A title, and pairs of name and value.
    """

    title: str
    summary: list[tuple[str, Any, str]]
    cards: list[Card]
    strips: list[Strip]
    classes: list[ClassRow]
    map: Map | None
    histograms: list[Histogram]
    distributions: list[Distribution]
    duplicates: tuple[str, list[tuple[Picture, int]]]
    failures: list[tuple[str, int, list[str]]]
    tables: list[tuple[str, list[tuple[str, Any]]]]
