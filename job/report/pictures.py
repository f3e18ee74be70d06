"""Pictures for the report, as data URLs: of picks from the images themselves, else from the thumbnails of the parts."""

import base64
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from job import images
from job.errors import JobError, Stopped
from job.images import BGR
from job.parts.pool import Detections, Pool
from job.prefetch import prefetch
from job.report.content import Picture
from job.storage import Source

logger = logging.getLogger(__name__)

_SIMULTANEOUS = 8
# So that a hundred picks take some 4 MB, and three hundred not three times as much.
_LARGEST, _SMALLEST, _PIXELS_IN_ALL = 512, 192, 100 * 512 * 384
_QUALITY = 72
_HOVER_SIDE, _HOVER_QUALITY = 72, 60
_ENOUGH_FAILURES = 3


def previews(pool: Pool, rows: Sequence[int], source: Source | None) -> dict[int, bytes]:
    """JPEG files of some images, smaller the more there are; of those that cannot be read the thumbnails.

    Args:
        pool: The pool.
        rows: Which images.
        source: Where they are; None where they are not to be had.
    """
    found = {row: pool.thumbnails[row] for row in rows}
    side = int(np.clip((_PIXELS_IN_ALL / max(1, len(rows)) * 4 / 3) ** 0.5, _SMALLEST, _LARGEST))
    failures: list[str] = []

    def read(row: int) -> tuple[int, bytes | None]:
        if source is None or len(failures) >= _ENOUGH_FAILURES:
            return row, None
        try:
            return row, jpeg(images.decode(source.read(pool.file_names[row], pool.etag[row])), side, _QUALITY)
        except Stopped:
            raise
        except (JobError, OSError, images.ImageError, ValueError, MemoryError) as error:
            failures.append(f"{pool.file_names[row]!r}: {error}")
            return row, None

    with ThreadPoolExecutor(_SIMULTANEOUS, thread_name_prefix="report") as executor:
        for row, data in prefetch(executor, read, rows, ahead=_SIMULTANEOUS):
            found[row] = data or found[row]
    if failures:
        logger.warning("The report shows thumbnails of some picks, which cannot be read any more: %s", failures[0])
    return found


def jpeg(image: BGR, side: int, quality: int) -> bytes:
    """A JPEG file of an image, no larger than `side`."""
    scale = side / max(image.shape[:2])
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()


def hover(thumbnail: bytes) -> str:
    """Data URL of a small version of a thumbnail."""
    if not thumbnail:
        return ""
    image = np.ascontiguousarray(np.asarray(images.read_thumbnail(thumbnail))[..., ::-1])
    return url(jpeg(image, _HOVER_SIDE, _HOVER_QUALITY))


def url(data: bytes) -> str:
    """Data URL of a JPEG file; empty for none."""
    return "data:image/jpeg;base64," + base64.b64encode(data).decode() if data else ""


def picture(pool: Pool, row: int, data: bytes, found: Detections | None) -> Picture:
    """An image with its detections."""
    names = pool.provenance.class_names
    boxes = []
    if found is not None:
        columns = zip(found.classes.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
        boxes = [(names[each], score, box) for each, score, box in columns]
    width, height = (int(each) for each in pool.size[row])
    return Picture(pool.file_names[row], url(data), width, height, boxes)
