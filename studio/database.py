"""The results of a run as a LightlyStudio dataset, in a separate database for each run.

LightlyStudio's public calls open every image for its size, before the EXIF orientation, and cut boxes to whole pixels.
So rows are written through its resolvers; requirements/studio.txt pins the matching release.
"""

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import lightly_studio as ls
import numpy as np
import numpy.typing as npt
from lightly_studio.database import db_manager
from lightly_studio.embed import embed_samples
from lightly_studio.models.annotation.annotation_base import AnnotationCreate, AnnotationType
from lightly_studio.models.annotation_label import AnnotationLabelCreate
from lightly_studio.models.collection import SampleType
from lightly_studio.models.image import ImageCreate
from lightly_studio.resolvers import (
    annotation_collection_coverage_resolver,
    annotation_label_resolver,
    annotation_resolver,
    collection_resolver,
    image_resolver,
    tag_resolver,
)
from lightly_studio.utils import batching
from lightly_studio_serve.embedder import ImagePathEmbedder
from tqdm import tqdm

from job.errors import SettingsError
from studio.places import Places
from studio.results import Detections, Results

DATASET_NAME = "coralpick"
COLLECTION_NAME = "detections"
# Increase it when this module writes other rows: older databases are then not reused.
_SCHEMA_VERSION = 1
_BATCH_SIZE = 1000


@contextlib.contextmanager
def open_dataset(cache: Path, results: Results, places: Places, names: list[str]) -> Iterator[Any]:
    """Opens the dataset of a run, and fills it unless an earlier start did, with the same results and images.

    LightlyStudio keeps one database open per process, so only one dataset can be open at a time.

    Args:
        cache: Folder of the databases; each has its own subfolder.
        results: Results of the run.
        places: Locations of the run's images.
        names: File names of the images that exist.

    Raises:
        SettingsError: If another process has the dataset open.
    """
    release = importlib.metadata.version("lightly-studio")
    content = "\n".join([str(_SCHEMA_VERSION), release, results.uri, places.uri, results.digest, *names])
    folder = cache / hashlib.sha256(content.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    complete = folder / "complete"
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SettingsError(
                f"Another process shows {results.uri} in LightlyStudio already: use it, or stop it first."
            ) from None
        is_new = not complete.exists()
        db_manager.connect(db_file=str(folder / "studio.db"), cleanup_existing=is_new)
        try:
            if is_new:
                dataset = ls.ImageDataset.create(DATASET_NAME)
                _fill(dataset, results, places, names)
                complete.touch()
            else:
                print("Reusing the dataset of an earlier start, with the tags and labels made in it.", flush=True)
                dataset = ls.ImageDataset.load(DATASET_NAME)
            yield dataset
        finally:
            db_manager.close()


def _fill(dataset: Any, results: Results, places: Places, names: list[str]) -> None:
    ids = _add_images(dataset, results, places, names)
    print(f"  {len(ids)} images", flush=True)
    print(f"  {_add_detections(dataset, results, ids)} detections", flush=True)
    print(f"  {_add_embeddings(dataset, results, places, ids)} embeddings", flush=True)
    print(f"  {_add_tag(dataset, results, ids)} picks", flush=True)


def _add_images(dataset: Any, results: Results, places: Places, names: list[str]) -> dict[str, UUID]:
    """Adds the images with their metadata; returns their ids by file name."""
    existing = set(names)
    images = [image for image in results.images if image.file_name in existing]
    ids: dict[str, UUID] = {}
    for batch in batching.batched(items=images, batch_size=_BATCH_SIZE):
        samples = [
            ImageCreate(
                file_name=image.file_name,
                file_path_abs=places[image.file_name],
                width=image.width,
                height=image.height,
            )
            for image in batch
        ]
        created = image_resolver.create_many(
            session=dataset.session, collection_id=dataset.collection_id, samples=samples
        )
        ids.update(zip((image.file_name for image in batch), created, strict=True))
        dataset.update_metadata([(ids[image.file_name], image.metadata) for image in batch])
    return ids


def _add_detections(dataset: Any, results: Results, ids: dict[str, UUID]) -> int:
    """Adds the detections; returns their number."""
    collection = collection_resolver.get_or_create_child_collection(
        session=dataset.session,
        collection_id=dataset.collection_id,
        sample_type=SampleType.ANNOTATION,
        name=COLLECTION_NAME,
    )
    # Images without detections were processed, too.
    annotation_collection_coverage_resolver.add_many(
        session=dataset.session, annotation_collection_id=collection, parent_sample_ids=ids.values()
    )

    @functools.cache
    def create_label(number: int) -> UUID:
        create = AnnotationLabelCreate(dataset_id=dataset.dataset_id, annotation_label_name=results.class_names[number])
        label_id: UUID = annotation_label_resolver.create(session=dataset.session, label=create).annotation_label_id
        return label_id

    count = 0
    detected = (detections for detections in results.detections() if detections.file_name in ids)
    progress = tqdm(detected, "Loading detections", len(ids), unit=" images", disable=None)
    for batch in batching.batched(items=progress, batch_size=_BATCH_SIZE):
        annotations = [
            annotation
            for detections in batch
            for annotation in _annotations(detections, ids[detections.file_name], create_label)
        ]
        annotation_resolver.create_many(
            session=dataset.session, parent_collection_id=dataset.collection_id,
            annotations=annotations, collection_name=COLLECTION_NAME,
        )  # fmt: skip
        count += len(annotations)
    return count


def _annotations(
    detections: Detections, image: UUID, create_label: Callable[[int], UUID]
) -> Iterator[AnnotationCreate]:
    """The detections of an image, with edges rounded to whole pixels, since LightlyStudio stores only these."""
    edges = detections.boxes.round().astype(int)
    rows = zip(edges.tolist(), detections.scores.tolist(), detections.classes.tolist(), strict=True)
    for (left, top, right, bottom), score, number in rows:
        yield AnnotationCreate(
            annotation_label_id=create_label(number), annotation_type=AnnotationType.OBJECT_DETECTION,
            parent_sample_id=image, confidence=score,
            x=left, y=top, width=max(1, right - left), height=max(1, bottom - top),
        )  # fmt: skip


class _Embedder(ImagePathEmbedder):  # type: ignore[misc]  # typed, but not in the environment of mypy
    """Returns the embeddings of the run. With an embedder registered, LightlyStudio does not download a model."""

    def __init__(self, space: str, row: dict[str, int], embeddings: npt.NDArray[np.float32]) -> None:
        self._space, self._row, self._embeddings = space, row, embeddings

    def embedding_space_spec(self) -> ls.EmbeddingSpaceSpec:
        """The name and the dimension of the embedding space."""
        return ls.EmbeddingSpaceSpec(space_key=self._space, dimension=self._embeddings.shape[1])

    def embed_images(self, paths: list[str]) -> ls.EmbeddingResult:
        """The embeddings of images, given by their paths; images without an embedding are skipped."""
        kept = [index for index, path in enumerate(paths) if path in self._row]
        rows = [self._row[paths[index]] for index in kept]
        return ls.EmbeddingResult(embeddings=self._embeddings[rows], kept_indices=kept)


def _add_embeddings(dataset: Any, results: Results, places: Places, ids: dict[str, UUID]) -> int:
    """Adds the embeddings; returns the number of images that have one."""
    names, embeddings = results.embeddings()
    row = {places[name]: number for number, name in enumerate(names) if name in ids}
    ls.register_default_embedder(_Embedder(results.embedding_space, row, embeddings))
    embed_samples.embed_image_samples(
        session=dataset.session, collection_id=dataset.collection_id, sample_ids=list(ids.values())
    )
    return len(row)


def _add_tag(dataset: Any, results: Results, ids: dict[str, UUID]) -> int:
    """Tags the picks; returns the number of picks that exist."""
    picks = [ids[name] for name in results.picks if name in ids]
    tag = tag_resolver.get_or_create_sample_tag_by_name(
        session=dataset.session, collection_id=dataset.collection_id, tag_name=results.tag
    )
    tag_resolver.add_sample_ids_to_tag_id(session=dataset.session, tag_id=tag.tag_id, sample_ids=picks)
    return len(picks)
