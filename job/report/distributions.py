"""How the pool and the picks spread over scores, box sizes, brightness, sharpness, folders and metadata."""

from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from job import scores, video
from job.parts.boxes import Detections
from job.parts.pool import Pool
from job.report import metadata
from job.report.content import Distribution, Histogram
from job.report.sample import BoxSample, measure_sizes, size_edges

_BINS = 24


def make_score_histograms(pool: Pool, picks: Sequence[int]) -> list[Histogram]:
    """Distributions of all scores."""
    made = []
    for name in scores.TABLE:
        if name in pool.scores:
            values = pool.scores[name]
            edges = np.linspace(0, max(1.0, float(values.max(initial=0))), _BINS + 1)
            made.append(_make_histogram(name, "", edges, values, values[list(picks)]))
    return made


def make_size_histogram(
    pool: Pool, sample: BoxSample, detections: Iterable[tuple[int, Detections]]
) -> Histogram | None:
    """Distribution of the sizes of boxes; None if there are none, or the sizes of the images are unknown.

    Args:
        pool: The images.
        sample: Boxes of a sample of the pool.
        detections: Rows of the picks, and their boxes.
    """
    picked = np.zeros_like(sample.sizes)
    for row, found in detections:
        picked += measure_sizes(found.boxes, np.tile(pool.size[row], (len(found.boxes), 1)))
    if not sample.sizes.any():
        return None
    note = (
        "The square root of a box's share of the area of its image: 0.1 is a box of a tenth of the width and height. "
        f"The pool is {len(sample.rows):,} of its images."
    )
    shares = [counts / max(1, counts.sum()) for counts in (sample.sizes, picked)]
    return Histogram("box size", note, size_edges().round(6).tolist(), *(share.round(6).tolist() for share in shares))


def make_quality_histograms(
    thumbnails: Mapping[int, bytes], rows: Sequence[int], picks: Sequence[int]
) -> list[Histogram]:
    """Distributions of brightness and sharpness, measured on thumbnails.

    Args:
        thumbnails: Thumbnails of these and other images, by their rows.
        rows: Rows of a sample of the pool.
        picks: Rows of the picks.
    """
    measured = [
        np.array([measure_quality(thumbnails[row]) for row in group if thumbnails[row]]).reshape(-1, 2)
        for group in (rows, picks)
    ]
    if not len(measured[0]):
        return []
    of = f"Measured on the thumbnails of {len(measured[0]):,} images."
    notes = {
        "brightness": f"Mean grey value, 0 for black and 1 for white. {of}",
        "sharpness": f"Standard deviation of the Laplacian: low for blurred or empty images. {of}",
    }
    return [
        _make_histogram(name, note, _make_edges(measured[0][:, column]), *(values[:, column] for values in measured))
        for column, (name, note) in enumerate(notes.items())
    ]


def measure_quality(thumbnail: bytes) -> tuple[float, float]:
    """Measures brightness and sharpness of a thumbnail.

    Sharpness is the square root of the variance of the Laplacian (Pech-Pacheco et al., Diatom autofocusing in
    brightfield microscopy, ICPR 2000), of grey values from 0 to 1.
    """
    gray = cv2.imdecode(np.frombuffer(thumbnail, np.uint8), cv2.IMREAD_GRAYSCALE)
    if gray is None:
        return 0.0, 0.0
    return float(gray.mean()) / 255, float(cv2.Laplacian(gray, cv2.CV_64F).std()) / 255


def make_folders(names: Sequence[str], picked: Sequence[str]) -> Distribution | None:
    """Distribution over folders; None if all images are in one.

    Args:
        names: File names of the pool, or of a sample of it.
        picked: File names of the picks.
    """
    folders, of_picks = ([get_folder(name) for name in group] for group in (names, picked))
    if len(set(folders)) < 2:
        return None
    return metadata.make_distribution("folder", pa.array(folders, pa.string()), pa.array(of_picks, pa.string()))


def get_folder(file_name: str) -> str:
    """The folder of an image, or the clip of a frame."""
    frame = video.parse_frame(file_name)
    return frame.video if frame else file_name.rpartition("/")[0] or "."


def make_distributions(
    columns: Mapping[str, pa.Array], picks: Sequence[int], folders: Distribution | None
) -> list[Distribution]:
    """Distributions over folders and over the columns of CORAL_METADATA."""
    return ([folders] if folders else []) + metadata.make_distributions(columns, picks)


def _make_edges(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    low, high = float(values.min()), float(values.max())
    return np.linspace(low, high if high > low else low + 1, _BINS + 1)


def _make_histogram(
    name: str,
    note: str,
    edges: npt.NDArray[np.float64],
    pool: npt.NDArray[np.float64],
    picks: npt.NDArray[np.float64],
) -> Histogram:
    shares = []
    for group in (pool, picks):
        counts, _ = np.histogram(np.clip(group, edges[0], edges[-1]), edges)
        shares.append((counts / max(1, len(group))).round(6).tolist())
    return Histogram(name, note, edges.round(6).tolist(), *shares)
