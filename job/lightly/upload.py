"""The upload of a run to the Lightly platform: images, predictions, embeddings, scores, and a tag of the picks.

What is there already is found by its name and left as it is, so the upload may be stopped anywhere and started again,
and may go to a dataset that others use too. The platform keeps samples in an order of its own and scores carry no
names: so all that has an order is sent in the platform's.
"""

import json
import logging
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from job import ledger
from job.errors import SettingsError
from job.lightly import datasource, embeddings, images, masks, selection
from job.lightly.api import Dataset, Platform, Tag
from job.pool import Pool
from job.publish.predictions import task_name
from job.settings import Settings
from job.stopping import Stop
from job.storage import Source, Storage

logger = logging.getLogger(__name__)

_ID = re.compile(r"[0-9a-f]{24}")
_IMAGE_TYPE = {"full": "full", "thumbnails": "thumbnail", "none": "meta"}
_INITIAL = "initial-tag"


@dataclass(frozen=True)
class Outcome:
    """What a run has found out.

    Attributes:
        pool: The images.
        embeddings: (n, d) in the order of the pool.
        space: Digest of what makes embeddings comparable.
        labelled: File names of the images that have labels.
        picks: File names of the job's own selection, best first.
        run_id: The same for the same selection.
    """

    pool: Pool
    embeddings: npt.NDArray[np.float32]
    space: str
    labelled: list[str]
    picks: list[str]
    run_id: str


def find(platform: Platform, settings: Settings) -> Dataset | None:
    """The dataset that the settings name; None if it is to be made.

    Raises:
        SettingsError: It cannot be made, for it is named by an id; or its datasource cannot be.
        AccessDenied: The token is not accepted.
        TryAgain: The platform cannot be reached.
    """
    name = settings.lightly_dataset or ""
    if settings.lightly_datasource:
        datasource.configs(settings)
    found = platform.dataset(name) if _ID.fullmatch(name) else platform.dataset_of_name(name)
    if found is None and _ID.fullmatch(name):
        raise SettingsError(f"CORAL_LIGHTLY_DATASET={name!r}: Lightly has no dataset of this id for this token.")
    return found


def upload(
    platform: Platform, settings: Settings, stop: Stop, output: Storage, source: Source | None, outcome: Outcome
) -> list[str] | None:
    """Uploads a run, and writes lightly.json, which says where to.

    Args:
        platform: Where to.
        settings: Of the run.
        stop: Whether the job is asked to stop.
        output: Folder of the results.
        source: The images' files; needed to upload them whole.
        outcome: What the run found out.

    Returns:
        File names that the platform has picked, in no order; None where its selection was not asked for, or is refused.

    Raises:
        JobError: The platform cannot be reached, or refuses something that the rest needs.
    """
    pool = outcome.pool
    dataset = find(platform, settings) or platform.create_dataset(settings.lightly_dataset or "")
    if settings.lightly_datasource:
        datasource.register(platform, dataset, datasource.configs(settings))
    mode = settings.lightly_images or ("none" if settings.lightly_datasource else "thumbnails")
    problems = images.upload(platform, dataset, output, pool, source, mode, max_failed=settings.max_failed)
    order = platform.file_names(dataset)
    vectors = dict(zip(pool.keys, outcome.embeddings, strict=True))
    tags = _Tags(platform, dataset, order, _IMAGE_TYPE[mode])
    embedding = embeddings.upload(platform, dataset, output, order, vectors, outcome.space)
    scored = _upload_scores(tags, pool)

    chosen, tag = None, None
    if settings.lightly_select == "platform":
        if embedding is None:
            logger.warning("Lightly cannot select without embeddings. The job's own selection is taken.")
        else:
            chosen, tag = _select(tags, settings, stop, output, outcome, scored, embedding)
    if tag is None:
        tag = tags.make(f"coral-{len(outcome.picks)}-{outcome.run_id}", outcome.picks, scored)
        if lost := [name for name in outcome.picks if name not in tags.names]:
            logger.warning("%d picks are not in Lightly's tag, since they could not be uploaded: %s", len(lost), lost)
    content = {
        "server": platform.server,
        "dataset": {"id": dataset.id, "name": dataset.name},
        "tag": {"id": tag.id, "name": tag.name},
        "scores_of_tag": {"id": scored.id, "name": scored.name},
        "embedding": embedding,
        "prediction_task": task_name(pool.provenance),
        "selected_by": "local" if chosen is None else "platform",
        "not_uploaded": [{"file_name": name, "reason": reason} for name, reason in sorted(problems.items())],
    }
    output.write("lightly.json", (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    logger.info("Lightly's dataset %r has the images, and the picks as tag %r.", dataset.name, tag.name)
    return chosen


class _Tags:
    """The tags of a dataset, all of the size that it has now."""

    def __init__(self, platform: Platform, dataset: Dataset, order: list[str], image_type: str) -> None:
        self.platform, self.dataset, self.order = platform, dataset, order
        self.names = set(order)
        present = platform.tags(dataset)
        if not present:
            platform.create_initial_tag(dataset, image_type)
        elif any(tag.size < len(order) for tag in present):
            platform.enlarge_tags(dataset, f"coral-added-{len(order)}")
        else:
            self._tags = present
            return
        self._tags = platform.tags(dataset)

    def mask(self, names: set[str]) -> str:
        return masks.encode(np.array([name in names for name in self.order], bool))

    def having(self, mask: str) -> list[Tag]:
        """The tags of exactly these samples, the initial one first."""
        found = [tag for tag in self._tags if int(tag.mask, 16) == int(mask, 16)]
        return sorted(found, key=lambda tag: tag.name != _INITIAL)

    def named(self, name: str) -> Tag | None:
        return next((tag for tag in self._tags if tag.name == name), None)

    def members(self, tag: Tag) -> list[str]:
        inside = masks.decode(tag.mask, len(self.order))
        return [name for name, is_in in zip(self.order, inside, strict=True) if is_in]

    def make(self, name: str, names: list[str], parent: Tag | None = None) -> Tag:
        """A tag of some images; one that is there already is left as it is."""
        mask = self.mask(set(names))
        if (found := self.named(name)) is None:
            parent = parent or self.named(_INITIAL) or self._tags[0]
            found = self.platform.create_tag(self.dataset, name, mask, len(self.order), parent)
            self._tags.append(found)
        elif int(found.mask, 16) != int(mask, 16):
            logger.warning("Lightly's tag %r holds other images than it should, and is left as it is.", name)
        return found


def _upload_scores(tags: _Tags, pool: Pool) -> Tag:
    """Uploads the scores, and returns the tag that they belong to: one of exactly the images of this run.

    That is the initial tag where it fits and has no other scores, and else one of our own.
    """
    row = {name: number for number, name in enumerate(pool.keys)}
    scores = {
        kind: [float(values[row[name]]) for name in tags.order if name in row] for kind, values in pool.scores.items()
    }
    mask = tags.mask(set(row))
    own = f"coral-pool-{ledger.piece(mask, scores)[:8]}"
    for tag in tags.having(mask):
        if tag.name in (_INITIAL, own):
            present = tags.platform.scores(tags.dataset, tag)
            if all(scores.get(kind) == values for kind, values in present.items()):
                break
    else:
        tag, present = tags.make(own, pool.keys), {}
    for kind, values in scores.items():
        if kind not in present:
            tags.platform.set_scores(tags.dataset, tag, kind, values)
    return tag


def _select(
    tags: _Tags,
    settings: Settings,
    stop: Stop,
    output: Storage,
    outcome: Outcome,
    scored: Tag,
    embedding: str,
) -> tuple[list[str], Tag] | tuple[None, None]:
    """Lets the platform select; returns its picks and their tag."""
    name = f"coral-{len(outcome.picks)}-{outcome.run_id}-platform"
    labelled = None
    has_labels = [name for name in outcome.labelled if name in tags.names]
    if has_labels:
        labelled = tags.make(f"coral-labelled-{ledger.piece(sorted(has_labels))[:8]}", has_labels)
    tag = tags.named(name)
    if tag is None:
        request = selection.request(
            *(settings, name, len(outcome.picks)), pool=scored, labelled=labelled, num_labelled=len(has_labels)
        )
        made = selection.select(
            tags.platform, tags.dataset, output, stop.requested, request=request, embedding=embedding
        )
        if made is None:
            return None, None
        tag = next(each for each in tags.platform.tags(tags.dataset) if each.id == made)
    known = set(outcome.pool.keys) - set(outcome.labelled)
    return [each for each in tags.members(tag) if each in known], tag
