"""The map step: reads, decodes and detects every image once, and writes its row to a part.

If the detections were made elsewhere, it embeds the images instead, and completes their rows.
"""

import itertools
import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from job import limits, parts
from job.budget import Budget
from job.detect.agreement import agree_on_batch_size
from job.detect.batches import Batcher
from job.detect.cpu_turns import Turns
from job.detect.imported import Imported
from job.detect.inference import Inference, measure_batch_size
from job.detect.model import Detector
from job.detect.part_writer import PartWriter
from job.detect.pieces import Piece, Shown, Told, choose_part_size, cut
from job.detect.prepare import Preparation, PreparedImage
from job.prefetch import Workers
from job.progress import Progress
from job.shards import Shard
from job.storage import Entry, Listing, Source, Storage

logger = logging.getLogger(__name__)

# Limits for the images that are read, decoded and resized, and for those that wait for a full batch.
_MAX_PREPARING_BYTES = 2 << 30
_MAX_WAITING_BYTES = 1 << 30


def provenance(detector: Detector, imported: Imported | None = None) -> parts.Provenance:
    """Returns the provenance of parts that are made with a detector, or with imported detections and an embedder."""
    detections = parts.Provenance(
        config_sha256=detector.config_sha256,
        weights_sha256=detector.weights_sha256,
        precision=detector.precision,
        probabilities=detector.probabilities,
        class_names=detector.class_names,
    )
    return replace(
        imported.provenance if imported else detections,
        embedder=detector.embedder,
        embedder_sha256=detector.embedder_sha256,
        projection=detector.projection,
    )


def predict(
    listing: Listing,
    source: Source,
    output: Storage,
    detector: Detector,
    done: set[tuple[str, str]],
    *,
    batch_size: int | None,
    part_size: int | None,
    stop: threading.Event,
    imported: Imported | None = None,
    shard: Shard | None = None,
) -> None:
    """Detects objects in the unfinished images of the listing, and writes the rows to parts.

    Args:
        listing: The images, in the order of processing.
        source: Store that the images are read from.
        output: Store that the parts are written to.
        detector: The detector, or an embedder (`job.detect.embedder`) if detections are imported.
        done: Key and ETag of the finished images.
        batch_size: Images in one forward pass; None for that of the other shards, or else what fits the
            device.
        part_size: Images in one part; None for a number that fits the listing and the batch size.
        stop: When set, no more images are taken. Batches on their way are saved, other images are left for the next
            start.
        imported: Detections that were made elsewhere; the images get their features and thumbnails.
        shard: The shard that the listing is of; None if there is one only.

    Raises:
        ServiceUnavailable: If a store cannot be reached any more, or the GPU fails. Finished images are saved.
    """
    todo = find_unfinished(listing, output, provenance(detector, imported), done, imported, shard)
    if not todo.any():
        return
    if batch_size is None:
        batch_size = agree_on_batch_size(output, detector.device, partial(measure_batch_size, detector))
    inference = Inference(detector, batch_size)
    part_size = choose_part_size(part_size, len(listing), inference.batch_size)
    pieces = cut(listing, todo, part_size)
    with Progress("Embedding" if imported else "Detecting", int(todo.sum()), "image") as progress:
        detect(
            pieces, source, output, detector, inference, stop=stop, told=Shown(progress), imported=imported, shard=shard
        )


def find_unfinished(
    listing: Listing,
    output: Storage,
    made_with: parts.Provenance,
    done: set[tuple[str, str]],
    imported: Imported | None = None,
    shard: Shard | None = None,
) -> npt.NDArray[np.bool_]:
    """Finds the images that must be read. Rows of imported detections whose images are not read are written.

    Args:
        listing: The images.
        output: Store that the parts are written to.
        made_with: What the parts are made with.
        done: Key and ETag of the finished images.
        imported: Detections that were made elsewhere.
        shard: The shard that the listing is of; None if there is one only.

    Returns:
        (n,) whether each image of the listing must be read.
    """
    todo = np.fromiter(((entry.key, entry.etag) not in done for entry in listing), bool, len(listing))
    if not todo.all():
        logger.info("%d of %d images are already finished.", len(todo) - todo.sum(), len(todo))
    if imported:
        unusable = imported.write_unusable(output, made_with, done, shard)
        todo &= np.fromiter(((entry.key, entry.etag) not in unusable for entry in listing), bool, len(listing))
    return todo


def detect(
    pieces: Iterable[Piece],
    source: Source,
    output: Storage,
    detector: Detector,
    inference: Inference,
    *,
    stop: threading.Event,
    told: Told,
    imported: Imported | None = None,
    shard: Shard | None = None,
) -> None:
    """Detects objects in the images of pieces, in one stream, and writes each piece to a part.

    Images of the next piece are read while those of the one before are detected, so pieces cost no time.

    Args:
        pieces: The pieces. The iterator is asked for the next one some images before the last one is detected.
        source: Store that the images are read from.
        output: Store that the parts are written to.
        detector: The detector, or an embedder.
        inference: The detector with its batch size; closed at the end.
        stop: When set, no more images are taken. Batches on their way are saved.
        told: Who is told what becomes of the pieces.
        imported: Detections that were made elsewhere, of the images of all pieces.
        shard: The shard that the pieces are of; None if there is one only.

    Raises:
        ServiceUnavailable: If a store cannot be reached any more, or the GPU fails. Finished images are saved.
    """
    on_cpu = detector.device.type == "cpu"
    cores = limits.count_cores()
    # With a GPU, threads mostly wait for files. With the model on the CPU, more threads than cores would only contend.
    workers = min(16, cores) if on_cpu else min(32, max(8, 2 * cores))
    turns = Turns(on_cpu)
    ahead = max(4 * workers, 2 * inference.batch_size)
    preparation = Preparation(source, detector, Budget(_MAX_PREPARING_BYTES), turns, stop=stop)
    # Not a context, which would wait for a thread that does not come back.
    executor = Workers(workers, thread_name_prefix="prepare")
    begun: deque[Piece] = deque()

    def entries() -> Iterator[Entry]:
        for piece in pieces:
            begun.append(piece)
            yield from piece.images

    with PartWriter(output, provenance(detector, imported), turns, imported, shard) as writer:
        try:
            prepared = preparation.prepare(entries(), executor, ahead=ahead)
            for first in prepared:
                piece = begun.popleft()
                count = len(piece.images)
                some = itertools.chain([first], itertools.islice(prepared, count - 1))
                _detect(some, inference, told, stop, writer.begin(count, partial(told.written, piece)), writer)
                if stop.is_set():
                    break
                writer.write_finished()
            preparation.ranges.warn()
        finally:
            preparation.budget.close()
            turns.close()
            executor.shutdown(wait=False, cancel_futures=True)
            try:  # after an error, too: the rows of these images are nearly finished
                told.detected(inference.finish())
            finally:
                inference.close()


def _detect(
    prepared: Iterable[PreparedImage | parts.Row],
    inference: Inference,
    told: Told,
    stop: threading.Event,
    rows: list[parts.Row],
    writer: PartWriter,
) -> None:
    """Detects objects in the images of one part. Their rows are added to a list, the last ones in later calls.

    On a stop, images that still wait for a full batch are left, since the next start puts them into the same batch.
    """

    def count_full(shape: tuple[int, ...]) -> int:
        return inference.limit.of(*shape[1:])

    def submit(batch: list[PreparedImage]) -> None:
        told.detected(inference.submit(batch, rows))
        writer.write_finished()  # perhaps the part before this one, whose last batch is only now complete

    # Limits how many images of rare shapes wait for a full batch, and so the memory.
    waiting = 8 * inference.batch_size
    batcher = Batcher[tuple[int, ...], PreparedImage](count_full, max_waiting=waiting, max_bytes=_MAX_WAITING_BYTES)
    for image in prepared:
        if stop.is_set():
            return
        if isinstance(image, parts.Row):
            rows.append(image)
            told.failed(image)
            told.detected(1)
        elif batch := batcher.add(tuple(image.tensor.shape), image, image.tensor.nbytes):
            submit(batch)
    if stop.is_set():  # while it waited for an image
        return
    for batch in batcher.flush():
        submit(batch)
