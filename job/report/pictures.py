"""Pictures for the report, as data URLs: picks are read again, all others are the thumbnails in the parts."""

import base64
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from job import images, limits
from job.budget import Hold, prefetch_within
from job.images import BGR
from job.names import shorten
from job.parts.boxes import Detections
from job.parts.pool import Pool
from job.report.content import Box, Picture
from job.storage import Source

logger = logging.getLogger(__name__)

_READERS = 8
_MAX_BYTES = 1 << 29  # of images that are read and decoded at once; a larger one is alone
# With these, a hundred picks take some 4 MB, and three hundred picks not three times as much.
_MAX_SIDE, _MIN_SIDE, _TOTAL_PIXELS = 800, 192, 100 * 512 * 384
_QUALITY = 72
_HOVER_SIDE, _HOVER_QUALITY = 72, 60
_MAX_FAILURES = 3


def read_previews(
    pool: Pool, rows: Sequence[int], source: Source | None, thumbnails: Mapping[int, bytes]
) -> dict[int, bytes]:
    """Reads images as JPEG files, smaller if there are many; uses the thumbnails of those that cannot be read.

    Args:
        pool: The pool.
        rows: Rows of the images.
        source: Where the images are; None if they cannot be read.
        thumbnails: Thumbnails of these and other images, by their rows.
    """
    previews = {row: thumbnails[row] for row in rows}
    side = int(np.clip((_TOTAL_PIXELS / max(1, len(rows)) * 4 / 3) ** 0.5, _MIN_SIDE, _MAX_SIDE))
    failures: list[str] = []

    def read(row: int, hold: Hold) -> tuple[int, bytes | None]:
        if source is None or len(failures) >= _MAX_FAILURES:
            return row, None
        try:
            hold(pool.count_file_bytes(row))
            data = source.read(pool.file_names[row], pool.etag[row])
            hold(num_bytes := images.count_decoding_bytes(data))
            preview = encode_jpeg(images.decode(data), side, _QUALITY)
            if num_bytes > _MAX_BYTES // _READERS:  # otherwise each thread keeps the memory of its largest image
                limits.return_memory()
            return row, preview
        except Exception as error:  # no content of a file may end the job
            failures.append(f"{shorten(pool.file_names[row])}: {error}")
            return row, None

    with ThreadPoolExecutor(_READERS, thread_name_prefix="report") as executor:
        for row, data in prefetch_within(_MAX_BYTES, executor, read, rows, ahead=_READERS):
            previews[row] = data or previews[row]
    if failures:
        logger.warning("Some picks can no longer be read; the report shows their thumbnails: %s", failures[0])
    return previews


def encode_jpeg(image: BGR, side: int, quality: int) -> bytes:
    """Encodes an image as a JPEG file with sides of at most `side` pixels."""
    scale = side / max(image.shape[:2])
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()


def make_hover(thumbnail: bytes) -> str:
    """Converts a thumbnail to the data URL of a smaller one; empty for no thumbnail."""
    if not thumbnail:
        return ""
    image = np.ascontiguousarray(np.asarray(images.read_thumbnail(thumbnail))[..., ::-1])
    return to_data_url(encode_jpeg(image, _HOVER_SIDE, _HOVER_QUALITY))


def to_data_url(data: bytes) -> str:
    """Converts a JPEG file to a data URL; empty for an empty file."""
    return "data:image/jpeg;base64," + base64.b64encode(data).decode() if data else ""


@dataclass(frozen=True)
class Painter:
    """Makes pictures of images of the pool.

    Attributes:
        pool: The images.
        colors: Number of each class's colour, by its name.
    """

    pool: Pool
    colors: Mapping[str, int]

    def make_picture(
        self, row: int, data: bytes, detections: Detections | None, deciding: Mapping[str, Any] | None = None
    ) -> Picture:
        """Makes a picture from a JPEG file and the detections on the image.

        Args:
            row: Row of the image.
            data: JPEG file; empty for no picture.
            detections: The boxes; None if they are not shown.
            deciding: Class and box that contribute most to the image's score; None if none does.
        """
        names, boxes = self.pool.provenance.class_names, []
        if detections is not None:
            columns = (detections.classes.tolist(), detections.scores.tolist(), detections.boxes.tolist())
            for index, score, sides in zip(*columns, strict=True):
                is_deciding = deciding is not None and (names[index], sides) == (deciding["class"], deciding["box"])
                boxes.append(Box(names[index], score, sides, self.colors[names[index]], is_deciding))
        width, height = (int(side) for side in self.pool.size[row])
        return Picture(self.pool.file_names[row], to_data_url(data), width, height, boxes)
