"""What the report shows, as plain values; the template and the plots only lay it out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Box:
    """A detected box.

    Attributes:
        name: Class name.
        score: Confidence, 0 to 1.
        sides: Left, top, right and bottom in pixels of the original.
        color: Number of the class's colour in `job.report.colors.PALETTE`.
        is_deciding: Whether the box contributes most to the score that the image was picked by.
    """

    name: str
    score: float
    sides: list[float]
    color: int
    is_deciding: bool = False


@dataclass(frozen=True)
class Picture:
    """An image with its detections.

    Attributes:
        file_name: File name of the image.
        url: Data URL of a JPEG; empty if there is none.
        width: Width of the original in pixels, after its EXIF orientation; 0 if unknown.
        height: Height of the original in pixels, after its EXIF orientation; 0 if unknown.
        boxes: Boxes, best first.
    """

    file_name: str
    url: str
    width: int
    height: int
    boxes: list[Box]


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
        return sorted({box.name for box in self.picture.boxes})


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
        color: Number of the class's colour in `job.report.colors.PALETTE`.
    """

    name: str
    boxes: int
    share_picked: float
    mean_score: float
    mean_entropy: float
    low_confidence: float
    color: int


@dataclass(frozen=True)
class Coloring:
    """Values by which the points of the map are coloured: numbers, or groups.

    Attributes:
        name: What the values are.
        values: (m,) numbers, NaN for an unknown one; or (m,) numbers of groups.
        groups: Names of the groups; empty for numbers.
    """

    name: str
    values: npt.NDArray[np.float64] | npt.NDArray[np.int64]
    groups: list[str]


@dataclass(frozen=True)
class Map:
    """The embeddings in two dimensions, for m images.

    Attributes:
        points: (m, 2) coordinates.
        file_names: (m,) file names.
        ranks: (m,) ranks of the picks, 0 for other images.
        is_labelled: (m,) whether an image is labelled.
        colorings: What the points can be coloured by.
        thumbnails: Data URLs of small thumbnails, by the number of the point; an even sample has one, and every pick.
        explained: Share of the variance that the two dimensions explain.
        total: Number of images in the pool.
    """

    points: npt.NDArray[np.float64]
    file_names: list[str]
    ranks: npt.NDArray[np.int64]
    is_labelled: npt.NDArray[np.bool_]
    colorings: list[Coloring]
    thumbnails: dict[int, str]
    explained: float
    total: int


@dataclass(frozen=True)
class Histogram:
    """Distribution of a value over the pool and over the picks, in b bins.

    Attributes:
        name: Name of the value.
        note: What the value means; empty if the name says it.
        edges: (b + 1,) edges of the bins.
        pool: (b,) shares of the pool.
        picks: (b,) shares of the picks.
    """

    name: str
    note: str
    edges: list[float]
    pool: list[float]
    picks: list[float]


@dataclass(frozen=True)
class Distribution:
    """How the pool and the picks spread over folders, or over the values of a column of CORAL_METADATA.

    Attributes:
        name: Name of the column.
        rows: A value or an interval; the shares of the pool and of the picks, in [0, 1]; and the numbers of images.
    """

    name: str
    rows: list[tuple[str, float, float, int, int]]


@dataclass(frozen=True)
class Curve:
    """Share of the pool's views that images show, by the number of images.

    Attributes:
        numbers: Numbers of images, rising.
        of_picks: Shares that the first picks show; None beyond their number.
        of_random: Shares that as many random images show.
        num_picks: Number of picks of this run.
    """

    numbers: list[int]
    of_picks: list[float | None]
    of_random: list[float]
    num_picks: int


@dataclass(frozen=True)
class Lead:
    """The first screen.

    Attributes:
        heading: What to do.
        about: The model, the pool and the time.
        headline: What the picks bring, in one sentence; empty if it is not known.
        last_step: What the picks show, and what the last of them added; empty if it is not known.
        tiles: Label, value, and a note.
        curve: Coverage by the number of picks; None if it is not known.
    """

    heading: str
    about: list[str]
    headline: str
    last_step: str
    tiles: list[tuple[str, Any, str]]
    curve: Curve | None


@dataclass(frozen=True)
class Timeline:
    """The score along a folder or a clip.

    Attributes:
        name: The folder or the clip.
        num_images: Number of its images.
        places: Positions of some images in the order of the names, rising.
        values: Scores of these images.
        picks: Position, score and rank of each pick.
        cuts: Position of the first frame after each cut of a clip, rising; see `job.report.cuts`.
    """

    name: str
    num_images: int
    places: list[int]
    values: list[float]
    picks: list[tuple[int, float, int]]
    cuts: list[int]


@dataclass(frozen=True)
class Changes:
    """What has changed since the last round.

    Attributes:
        run_id: Name of the last run.
        num_same: Number of picks that the last run picked, too.
        rows: A figure, its value in the last round, and now.
        classes: Classes, and their shares in the boxes on the picks in the last round, and now.
    """

    run_id: str
    num_same: int
    rows: list[tuple[str, Any, Any]]
    classes: list[tuple[str, float, float]]


@dataclass(frozen=True)
class PickLines:
    """A pick, or the header, as the files for programs have it; with line breaks.

    Attributes:
        txt: Line of selected.txt.
        csv: Line of selected.csv.
    """

    txt: str
    csv: str


@dataclass(frozen=True)
class Content:
    """The whole report.

    Attributes:
        title: URI of the results.
        run_id: Name of the selection.
        lines: Header and picks as they are in the lists that the page offers.
        rejected: Lines of the images that were rejected before, with which the page's list of rejected picks begins.
        lead: The first screen.
        cards: Picks, best first.
        strips: Images on which the detector struggles.
        classes: Classes, the most boxes first.
        map: The embeddings; None if there are none.
        timelines: Folders and clips, those with the most picks first.
        timeline_score: Name of the score that these show.
        histograms: Distributions of scores, box sizes and image quality.
        distributions: Folders, and columns of CORAL_METADATA.
        duplicates: A sentence about near-duplicates, and groups of them: a picture, and the number of images.
        changes: What has changed since the last round; None in the first one.
        failures: A reason, the number of images affected, and some of their file names.
        tables: A title, and pairs of name and value.
    """

    title: str
    run_id: str
    lines: list[PickLines]
    rejected: list[str]
    lead: Lead
    cards: list[Card]
    strips: list[Strip]
    classes: list[ClassRow]
    map: Map | None
    timelines: list[Timeline]
    timeline_score: str
    histograms: list[Histogram]
    distributions: list[Distribution]
    duplicates: tuple[str, list[tuple[Picture, int]]]
    changes: Changes | None
    failures: list[tuple[str, int, list[str]]]
    tables: list[tuple[str, list[tuple[str, Any]]]]
