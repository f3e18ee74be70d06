"""The map step: every image is read, decoded and detected once, and leaves a row in a part."""

import itertools
import logging
import os
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from detectron2.utils.logger import log_first_n

from job import parts
from job.detect.batches import Batcher
from job.detect.budget import Budget
from job.detect.cpu_turns import Turns
from job.detect.inference import Inference
from job.detect.model import Detector
from job.detect.prepare import Preparation, Prepared
from job.progress import Progress, now
from job.storage import Listing, Source, Storage

logger = logging.getLogger(__name__)

# What images may take while they are read, decoded and resized, and while they wait for a full batch.
_PREPARING_BYTES = 2 << 30
_WAITING_BYTES = 1 << 30


def provenance(detector: Detector) -> parts.Provenance:
    """What parts made with a detector depend on."""
    return parts.Provenance(
        config_sha256=detector.config_sha256,
        weights_sha256=detector.weights_sha256,
        precision=detector.precision,
        probabilities=detector.probabilities,
        class_names=detector.class_names,
    )


def predict(
    listing: Listing,
    source: Source,
    output: Storage,
    detector: Detector,
    done: set[tuple[str, str]],
    *,
    batch_size: int | None,
    part_size: int,
    stop: threading.Event,
) -> None:
    """Gives every other image of the listing its row.

    Args:
        listing: The images, in the order in which they are done.
        source: Where they are.
        output: Where the parts go.
        detector: The detector.
        done: Key and ETag of the images that have their rows.
        batch_size: Images in one forward pass; None for what suits the device.
        part_size: Images in one part.
        stop: When set, no new image is taken; what is at hand is finished and saved, and the rest left.

    Raises:
        ServiceUnavailable: A store cannot be reached any more; what was finished is saved.
    """
    made_with = provenance(detector)
    todo = np.fromiter(((each.key, each.etag) not in done for each in listing), bool, len(listing))
    if not todo.all():
        logger.info("%d of %d images are done already.", len(todo) - todo.sum(), len(todo))
    if not todo.any():
        return
    inference = Inference(detector, batch_size)
    on_cpu = detector.device.type == "cpu"
    cores = os.cpu_count() or 1
    # Beside a GPU, threads mostly wait for files; beside a model on the CPU, more of them than cores would only crowd.
    workers = min(16, cores) if on_cpu else min(32, max(8, 2 * cores))
    turns = Turns(on_cpu)
    ahead = max(4 * workers, 2 * inference.batch_size)
    preparation = Preparation(source, detector, Budget(_PREPARING_BYTES), turns)
    writing: deque[Future[str]] = deque()
    with (
        ThreadPoolExecutor(workers, thread_name_prefix="prepare") as pool,
        ThreadPoolExecutor(1, thread_name_prefix="write") as writer,
        Progress("Detecting", int(todo.sum()), "image") as progress,
    ):
        try:
            prepared = preparation.of(itertools.compress(listing, todo), pool, ahead=ahead)
            # Parts are cut from the whole listing, and not from what is left of it: so a run that was interrupted puts
            # the same images into the same batches as one that was not.
            for start in range(0, len(listing), part_size):
                count = int(todo[start : start + part_size].sum())
                rows: list[parts.Row] = []
                try:
                    _detect(itertools.islice(prepared, count), inference, progress, stop, rows)
                finally:  # whatever happened, these are done
                    if rows:
                        writing.append(writer.submit(parts.write, output, rows, made_with))
                    if len(writing) > 1:  # while one part is written the next one is made, but no more than that
                        with turns.model_waits():
                            writing.popleft().result()
                if len(rows) < count:
                    break
        finally:
            preparation.budget.close()
            turns.close()
            pool.shutdown(wait=False, cancel_futures=True)
            inference.close()
            for each in writing:
                each.result()


def _detect(
    prepared: Iterable[Prepared | parts.Row],
    inference: Inference,
    progress: Progress,
    stop: threading.Event,
    rows: list[parts.Row],
) -> None:
    """Detects on the images of one part and adds their rows to a list.

    When asked to stop, the rows are those of the batches that ran. Images still waiting for theirs are left, since the
    next start will find them waiting for the same company.
    """
    # Images of rare shapes wait for company; this bounds how many, and so the memory.
    waiting = 8 * inference.batch_size
    batcher = Batcher[Prepared](inference.batch_size, max_waiting=waiting, max_bytes=_WAITING_BYTES)
    for each in prepared:
        if stop.is_set():
            return
        if isinstance(each, parts.Row):
            log_first_n(logging.WARNING, f"{each.file_name!r} cannot be used: {each.error}", n=10, name=__name__)
            rows.append(each)
            now.failures += 1
            progress.add()
        elif batch := batcher.add(tuple(each.tensor.shape), each, each.tensor.nbytes):
            rows += inference.rows(batch)
            progress.add(len(batch))
            batcher.batch_size = inference.batch_size
    for batch in batcher.flush():
        rows += inference.rows(batch)
        progress.add(len(batch))
