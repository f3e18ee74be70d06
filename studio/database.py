"""The results of a run as a dataset of LightlyStudio, in a database of their own.

Public calls of LightlyStudio would open every image for its size, before its EXIF orientation, and cut boxes to whole
pixels. So rows go in through its resolvers; requirements/studio.txt pins the release that they belong to.
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

NAME = "coralpick"
SOURCE = "detections"
# A database holds what this version of the module puts there.
_VERSION = 1
_BATCH = 1000


@contextlib.contextmanager
def opened(cache: Path, results: Results, places: Places, names: list[str]) -> Iterator[Any]:
    """The dataset of a run, filled unless it is from an earlier start with the same results and images.

    LightlyStudio keeps one database open in a process, so no two datasets can be open at a time.

    Args:
        cache: Where the databases are, each in a folder of its own.
        results: Of the run.
        places: Where its images are.
        names: Of the images that are there.

    Raises:
        SettingsError: Another process has it open.
    """
    release = importlib.metadata.version("lightly-studio")
    content = "\n".join([str(_VERSION), release, results.uri, places.uri, results.digest, *names])
    folder = cache / hashlib.sha256(content.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    complete = folder / "complete"
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SettingsError(
                f"{results.uri} is open in LightlyStudio already: look at that one, or end it first."
            ) from None
        fresh = not complete.exists()
        db_manager.connect(db_file=str(folder / "studio.db"), cleanup_existing=fresh)
        try:
            if fresh:
                dataset = ls.ImageDataset.create(NAME)
                _fill(dataset, results, places, names)
                complete.touch()
            else:
                print("Taken from an earlier start, with the tags and labels that were made there.", flush=True)
                dataset = ls.ImageDataset.load(NAME)
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
    """Adds the images with their metadata; returns their ids by name."""
    there = set(names)
    ids: dict[str, UUID] = {}
    for batch in batching.batched(items=[each for each in results.images if each.name in there], batch_size=_BATCH):
        samples = [
            ImageCreate(file_name=each.name, file_path_abs=places[each.name], width=each.width, height=each.height)
            for each in batch
        ]
        created = image_resolver.create_many(
            session=dataset.session, collection_id=dataset.collection_id, samples=samples
        )
        ids.update(zip((each.name for each in batch), created, strict=True))
        dataset.update_metadata([(ids[each.name], each.metadata) for each in batch])
    return ids


def _add_detections(dataset: Any, results: Results, ids: dict[str, UUID]) -> int:
    """Adds the detections; returns how many they are."""
    source = collection_resolver.get_or_create_child_collection(
        session=dataset.session, collection_id=dataset.collection_id, sample_type=SampleType.ANNOTATION, name=SOURCE
    )
    # An image on which nothing was detected was looked at as well.
    annotation_collection_coverage_resolver.add_many(
        session=dataset.session, annotation_collection_id=source, parent_sample_ids=ids.values()
    )

    @functools.cache
    def label(number: int) -> UUID:
        create = AnnotationLabelCreate(dataset_id=dataset.dataset_id, annotation_label_name=results.class_names[number])
        made: UUID = annotation_label_resolver.create(session=dataset.session, label=create).annotation_label_id
        return made

    count = 0
    found = (each for each in results.detections() if each.name in ids)
    shown = tqdm(found, "Loading detections", len(ids), unit=" images", disable=None)
    for batch in batching.batched(items=shown, batch_size=_BATCH):
        annotations = [each for image in batch for each in _annotations(image, ids[image.name], label)]
        annotation_resolver.create_many(
            session=dataset.session, parent_collection_id=dataset.collection_id,
            annotations=annotations, collection_name=SOURCE,
        )  # fmt: skip
        count += len(annotations)
    return count


def _annotations(found: Detections, image: UUID, label: Callable[[int], UUID]) -> Iterator[AnnotationCreate]:
    """The detections on an image, with their edges rounded to whole pixels, which is all that is kept."""
    edges = found.boxes.round().astype(int)
    rows = zip(edges.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True)
    for (left, top, right, bottom), score, number in rows:
        yield AnnotationCreate(
            annotation_label_id=label(number), annotation_type=AnnotationType.OBJECT_DETECTION,
            parent_sample_id=image, confidence=score,
            x=left, y=top, width=max(1, right - left), height=max(1, bottom - top),
        )  # fmt: skip


class _Embedder(ImagePathEmbedder):  # type: ignore[misc]  # typed, but not where this is checked
    """Hands out the embeddings that the run has made. With one registered, LightlyStudio downloads no model."""

    def __init__(self, space: str, row: dict[str, int], embeddings: npt.NDArray[np.float32]) -> None:
        self._space, self._row, self._embeddings = space, row, embeddings

    def embedding_space_spec(self) -> ls.EmbeddingSpaceSpec:
        """Names the space."""
        return ls.EmbeddingSpaceSpec(space_key=self._space, dimension=self._embeddings.shape[1])

    def embed_images(self, paths: list[str]) -> ls.EmbeddingResult:
        """The embeddings of images by their paths; those without one are left out."""
        kept = [index for index, path in enumerate(paths) if path in self._row]
        rows = [self._row[paths[index]] for index in kept]
        return ls.EmbeddingResult(embeddings=self._embeddings[rows], kept_indices=kept)


def _add_embeddings(dataset: Any, results: Results, places: Places, ids: dict[str, UUID]) -> int:
    """Adds the embeddings; returns how many of the images have one."""
    names, embeddings = results.embeddings()
    row = {places[name]: number for number, name in enumerate(names) if name in ids}
    ls.register_default_embedder(_Embedder(results.embedding_space, row, embeddings))
    embed_samples.embed_image_samples(
        session=dataset.session, collection_id=dataset.collection_id, sample_ids=list(ids.values())
    )
    return len(row)


def _add_tag(dataset: Any, results: Results, ids: dict[str, UUID]) -> int:
    """Tags the picks; returns how many of them are there."""
    picks = [ids[name] for name in results.picks if name in ids]
    tag = tag_resolver.get_or_create_sample_tag_by_name(
        session=dataset.session, collection_id=dataset.collection_id, tag_name=results.tag
    )
    tag_resolver.add_sample_ids_to_tag_id(session=dataset.session, tag_id=tag.tag_id, sample_ids=picks)
    return len(picks)
