"""What the report shows, as plain values: the template and the plots only lay it out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Picture:
    """An image with what was detected on it.

    Attributes:
        name: File name.
        url: Data URL of a JPEG; empty where there is none.
        width: Pixels of the original, after its EXIF orientation; 0 where it is not known.
        height: Likewise.
        boxes: Class name, score, and left, top, right, bottom in pixels of the original; best first.
    """

    name: str
    url: str
    width: int
    height: int
    boxes: list[tuple[str, float, list[float]]]


@dataclass(frozen=True)
class Shown:
    """A picked image in the gallery.

    Attributes:
        rank: 1 for the best.
        picture: The image.
        reason: Why it was picked.
        facts: What else is known, by name.
    """

    rank: int
    picture: Picture
    reason: str
    facts: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        """The classes that were detected on it."""
        return sorted({name for name, _, _ in self.picture.boxes})


@dataclass(frozen=True)
class Strip:
    """Some images of one kind.

    Attributes:
        title: Which they are.
        note: How many there are, and which of them are shown.
        pictures: With a caption each.
    """

    title: str
    note: str
    pictures: list[tuple[Picture, str]]


@dataclass(frozen=True)
class ByClass:
    """A line of the table of classes; numbers are of the pool."""

    name: str
    boxes: int
    share_picked: float
    mean_score: float
    mean_entropy: float
    near_threshold: float


@dataclass(frozen=True)
class Map:
    """The embeddings in two dimensions.

    Attributes:
        points: (m, 2).
        kind: (m,) ``pool``, ``labelled`` or ``pick``.
        names: (m,) file names.
        thumbnails: (m,) data URLs, empty for none.
        explained: Share of the variance that is seen.
        of: How many images there are in all.
    """

    points: npt.NDArray[np.float64]
    kind: list[str]
    names: list[str]
    thumbnails: list[str]
    explained: float
    of: int


@dataclass(frozen=True)
class Histogram:
    """How a number is spread over the pool and the picks, as shares of each.

    Attributes:
        name: Of the number.
        edges: (b + 1,).
        pool: (b,) shares.
        picks: (b,) shares.
    """

    name: str
    edges: list[float]
    pool: list[float]
    picks: list[float]


@dataclass(frozen=True)
class Content:
    """All of it.

    Attributes:
        title: Where the results are.
        summary: The numbers at the top: label, value, and a sentence about it.
        picks: Best first.
        strips: Where the detector struggles.
        classes: By how many boxes there are.
        map: The embeddings; None without any.
        histograms: Of the scores.
        duplicates: What is said of near-duplicates, and groups of them: a picture, and how many are like it.
        failures: A reason, how many images it befell, and some of them.
        tables: A title, and pairs of a name and a value.
    """

    title: str
    summary: list[tuple[str, Any, str]]
    picks: list[Shown]
    strips: list[Strip]
    classes: list[ByClass]
    map: Map | None
    histograms: list[Histogram]
    duplicates: tuple[str, list[tuple[Picture, int]]]
    failures: list[tuple[str, int, list[str]]]
    tables: list[tuple[str, list[tuple[str, Any]]]]
