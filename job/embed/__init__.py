"""Embeddings: one vector per image; similar images have vectors at a small distance."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

import job
from job.embed import from_file, table, thumbnails
from job.errors import SettingsError
from job.inputs.match import Match
from job.names import quantify
from job.parts import Provenance
from job.parts.pool import Pool
from job.select.points import ArrayPoints, Points
from job.settings import Settings
from job.spool import SpooledRows
from job.storage import Storage

if TYPE_CHECKING:
    from job.detect.model import Detector

logger = logging.getLogger(__name__)

_VIEWS = "by image"  # changes with the views, since embeddings of other views are made again


def embed(
    pool: Pool,
    settings: Settings,
    output: Storage,
    need_detector: Callable[[], "Detector"],
    accept: Callable[[str, Match], object],
) -> tuple[Points, dict[str, Any]]:
    """Embeds the pool and writes embeddings.parquet, unless the file is there from the same inputs.

    Args:
        pool: The images.
        settings: The settings.
        output: Folder of the results.
        need_detector: Returns the detector, whose backbone simclr starts from.
        accept: Takes note of how the names in a file of embeddings meet the images.

    Returns:
        (n, d) embeddings in the order of the pool, and how they were made. Embeddings of the same ``space`` can be
        compared. With the method ``none`` they are zeros: there are no images, and the strategy uses no distances.

    Raises:
        SettingsError: If there is nothing to embed with, the file of embeddings is wrong, or a training diverged.
    """
    if settings.embedding == "simclr":
        trained, description = _simclr(pool, settings, output, need_detector)
        return trained, description | {"dimension": trained.shape[1]}
    if settings.has_embedding_file:
        unusable = [name for name, _ in pool.failures]
        vectors, digest, match = from_file.read_for_pool(settings.embedding, pool.file_names, unusable, settings.input)
        accept("embeddings", match)
        description = {"method": "own", "space": digest}
        embeddings: Points = ArrayPoints(vectors)
    elif not settings.uses_features:
        output.delete(table.NAME)  # it may be there from an earlier run
        zeros = np.zeros((len(pool.file_names), 1), np.float32)
        return ArrayPoints(zeros), {"method": "none", "space": "", "dimension": 0}
    else:
        embeddings = _read_features(pool)
        method, _, model = settings.embedding.partition(":")
        description = {"method": method, "space": _name_space(pool.provenance)}
        if model:
            description["model"] = model
    table.write(output, pool.file_names, embeddings, digest="")
    return embeddings, description | {"dimension": embeddings.shape[1]}


def _name_space(provenance: Provenance) -> str:
    """A digest of what made the features; the detections do not count if another model made them."""
    if not provenance.embedder:
        return provenance.digest
    made_with = f"{provenance.embedder} {provenance.embedder_sha256} {provenance.projection}"
    return hashlib.sha256(made_with.encode()).hexdigest()


def _read_features(pool: Pool) -> Points:
    if pool.features is None:
        raise SettingsError(
            "CORAL_EMBEDDING='detector' needs features, and this model has no backbone: set CORAL_EMBEDDING=simclr."
        )
    return pool.features


def _simclr(
    pool: Pool, settings: Settings, output: Storage, need_detector: Callable[[], "Detector"]
) -> tuple[SpooledRows, dict[str, Any]]:
    from job.embed import simclr  # its libraries take seconds to import, and the other method needs none of them
    from job.embed.checkpoint import Checkpoint

    description: dict[str, Any] = {
        "method": "simclr",
        "epochs": settings.ssl_epochs,
        "batch_size": settings.ssl_batch_size,
        "max_images": settings.ssl_max_images,
        "max_steps": settings.ssl_max_steps,
        "seed": settings.seed,
        **vars(simclr.DEFAULT_RECIPE),
    }
    files = thumbnails.read_files(output, pool)
    digest = _digest(pool, files, description)
    if (cached := table.read(output, digest)) is not None:
        logger.info("Reusing the embeddings in %s.", table.NAME)
        return cached, description | {"space": digest}
    detector, checkpoint = need_detector(), Checkpoint(output, digest)
    encoder = simclr.build_encoder(detector)
    images = thumbnails.Thumbnails(files)
    losses = simclr.train(
        encoder,
        images,
        epochs=settings.ssl_epochs,
        batch_size=settings.ssl_batch_size,
        seed=settings.seed,
        max_images=settings.ssl_max_images,
        max_steps=settings.ssl_max_steps,
        dtype=detector.dtype,
        checkpoint=checkpoint,
    )
    embeddings = simclr.embed(encoder, images, batch_size=settings.ssl_batch_size)
    if not all(np.isfinite(block).all() for _, block in embeddings.blocks()):
        checkpoint.delete()
        raise SettingsError(
            "The training of CORAL_EMBEDDING='simclr' diverged, so its embeddings are not finite: set "
            "CORAL_PRECISION=fp32, or another CORAL_SEED."
        )
    if losses:
        epochs = quantify(len(losses), "epoch")
        logger.info("Trained for %s: the loss fell from %.3f to %.3f.", epochs, losses[0], losses[-1])
    table.write(output, pool.file_names, embeddings, digest)
    checkpoint.delete()
    return embeddings, description | {"space": digest}


def _digest(pool: Pool, files: Iterable[bytes], description: dict[str, Any]) -> str:
    """SHA-256 of everything that the embeddings depend on."""
    digest = hashlib.sha256(json.dumps([description, pool.provenance.digest, job.__version__, _VIEWS]).encode())
    for name, thumbnail in zip(pool.file_names, files, strict=True):
        digest.update(name.encode() + b"\0" + thumbnail)
    return digest.hexdigest()
