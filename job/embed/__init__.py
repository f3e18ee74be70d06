"""Embeddings: one vector an image, near for images that look alike."""

import hashlib
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import job
from job.choose import uses_distance
from job.embed import from_file
from job.errors import SettingsError
from job.images import read_thumbnail
from job.parts.pool import Pool
from job.publish import tables
from job.settings import Settings
from job.storage import Storage

if TYPE_CHECKING:
    from job.detect.model import Detector

logger = logging.getLogger(__name__)

METHODS = ("detector", "simclr")  # everything else is a file of embeddings


def embed(
    pool: Pool, settings: Settings, output: Storage, need_detector: Callable[[], "Detector"]
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """Embeds the pool as the settings say and writes embeddings.parquet, unless it is there from the same inputs.

    Args:
        pool: The pool.
        settings: The settings.
        output: Where embeddings.parquet goes.
        need_detector: Gives the detector, whose backbone simclr starts from.

    Returns:
        (n, d) in the order of the pool, and how they were made; vectors of the same ``space`` may be compared. By the
        method ``none`` they are zeros, where detections came without images and the strategy needs no distances.

    Raises:
        SettingsError: There is nothing to embed with, or the file of embeddings is wrong.
    """
    if settings.embedding == "simclr":
        embeddings, how = _simclr(pool, settings, output, need_detector)
        return embeddings, how | {"dimension": embeddings.shape[1]}
    if settings.embedding != "detector":
        embeddings, digest = from_file.of_pool(settings.embedding, pool.file_names)
        how = {"method": "own", "space": digest}
    elif settings.predictions and not uses_distance(settings):
        output.delete(tables.EMBEDDINGS)  # of an earlier run
        return np.zeros((len(pool.file_names), 1), np.float32), {"method": "none", "space": "", "dimension": 0}
    else:
        embeddings = _features(pool, settings)
        how = {"method": "detector", "space": pool.provenance.digest}
    tables.write_embeddings(output, pool.file_names, embeddings, digest="")
    return embeddings, how | {"dimension": embeddings.shape[1]}


def _features(pool: Pool, settings: Settings) -> npt.NDArray[np.float32]:
    if pool.features is None and settings.predictions:
        raise SettingsError(
            "CORAL_PREDICTIONS brings no embeddings, and the strategy needs some: set CORAL_EMBEDDING to a file of "
            "them, or CORAL_STRATEGY to active_learning or random."
        )
    if pool.features is None:
        raise SettingsError("CORAL_EMBEDDING='detector': this model has no backbone to take features from. Use simclr.")
    return pool.features


def _simclr(
    pool: Pool, settings: Settings, output: Storage, need_detector: Callable[[], "Detector"]
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    from job.embed import simclr  # its libraries take seconds to import, and the other method needs none of them

    how: dict[str, Any] = {"method": "simclr", "epochs": settings.ssl_epochs, "batch_size": settings.ssl_batch_size}
    how |= {"seed": settings.seed, **vars(simclr.DEFAULT)}
    digest = hashlib.sha256(json.dumps([how, pool.provenance.digest, job.__version__]).encode())
    for key, thumbnail in zip(pool.file_names, pool.thumbnails, strict=True):
        digest.update(key.encode() + b"\0" + thumbnail)
    if (found := tables.read_embeddings(output, digest.hexdigest())) is not None:
        logger.info("The embeddings are done already.")
        return found, how | {"space": digest.hexdigest()}
    detector = need_detector()
    encoder = simclr.encoder_of(detector)
    images = [read_thumbnail(each) for each in pool.thumbnails]
    losses = simclr.train(
        *(encoder, images),
        epochs=settings.ssl_epochs,
        batch_size=settings.ssl_batch_size,
        seed=settings.seed,
        dtype=detector.dtype,
    )
    if losses:
        logger.info("Trained for %d epochs: the loss went from %.3f to %.3f.", len(losses), losses[0], losses[-1])
    embeddings = simclr.embed(encoder, images, batch_size=settings.ssl_batch_size)
    tables.write_embeddings(output, pool.file_names, embeddings, digest.hexdigest())
    return embeddings, how | {"space": digest.hexdigest()}
