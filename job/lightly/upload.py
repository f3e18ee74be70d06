"""The upload of a run to the Lightly platform: images, predictions, embeddings, scores, and a tag of the picks.

Everything that the platform already has is found by its name and left unchanged. So the upload can be interrupted at
any point and started again, and several users can share a dataset. The platform keeps samples in its own order, and
scores carry no names: therefore everything that has an order is sent in the platform's order.
"""

import json
import logging
import re
from dataclasses import dataclass

import numpy as np

from job.errors import SettingsError, TooManyFailedImages
from job.exports.lightly import task_name
from job.lightly import datasource, embeddings, images, selection
from job.lightly.api import Platform
from job.lightly.records import Dataset, Tag
from job.lightly.tags import INITIAL, Tags
from job.names import list_first, quantify
from job.parts import ledger
from job.parts.pool import Pool
from job.select.points import Points
from job.settings import Settings
from job.settings.choices import LIGHTLY_SCORES
from job.stopping import Stop
from job.storage import Source, Storage

logger = logging.getLogger(__name__)

_ID = re.compile(r"[0-9a-f]{24}")
_IMAGE_TYPE = {"full": "full", "thumbnails": "thumbnail", "none": "meta"}
REPORT = "lightly.json"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        pool: The images.
        embeddings: (n, d) embeddings in the order of the pool.
        space: Digest of everything that makes embeddings comparable.
        labelled: File names of the images that have labels.
        picks: File names of the job's own picks, best first.
        run_id: Id of the selection; equal selections have equal ids.
    """

    pool: Pool
    embeddings: Points
    space: str
    labelled: list[str]
    picks: list[str]
    run_id: str


def find_dataset(platform: Platform, settings: Settings) -> Dataset | None:
    """Finds the dataset that the settings name; None if it does not exist yet.

    Raises:
        SettingsError: If the settings name the id of a dataset that does not exist, or an unusable datasource.
        AccessDenied: If the platform does not accept the token.
        TryAgain: If the platform cannot be reached.
    """
    name = settings.lightly_dataset or ""
    if settings.lightly_datasource:
        datasource.configs(settings)
    is_id = bool(_ID.fullmatch(name))
    dataset = platform.find_dataset_by_id(name) if is_id else platform.find_dataset_by_name(name)
    if dataset is None and is_id:
        raise SettingsError(
            f"CORAL_LIGHTLY_DATASET={name!r}: this token has no access to a dataset with this id. Check the id, or "
            "give a name to make a new dataset."
        )
    return dataset


def upload(
    platform: Platform, settings: Settings, stop: Stop, output: Storage, source: Source | None, outcome: Outcome
) -> list[str] | None:
    """Uploads a run, and writes a report of the upload to lightly.json.

    Args:
        platform: The platform.
        settings: Settings of the run.
        stop: The request to stop the job.
        output: Folder of the results.
        source: The images' files; needed to upload whole images.
        outcome: The outcome of the run.

    Returns:
        File names of the platform's own picks, in no order; None if its selection was not requested, or was refused.

    Raises:
        JobError: If the platform cannot be reached, or refuses a request that the upload depends on.
    """
    pool = outcome.pool
    output.delete(REPORT)
    dataset = find_dataset(platform, settings) or platform.create_dataset(settings.lightly_dataset or "")
    mode = _prepare_files(platform, dataset, settings)
    problems = images.upload(platform, dataset, output, pool, source, mode, max_failed=settings.max_failed)
    order = platform.file_names(dataset)
    if num_duplicates := len(order) - len(set(order)):
        logger.warning("Lightly's dataset %r has %s.", dataset.name, quantify(num_duplicates, "duplicate file name"))
    tags = Tags(platform, dataset, order, _IMAGE_TYPE[mode])
    vectors = {
        pool.file_names[start + number]: vector
        for start, block in outcome.embeddings.blocks()
        for number, vector in enumerate(block)
    }
    embedding = embeddings.upload(platform, dataset, output, order, vectors, outcome.space)
    scored = _upload_scores(tags, pool)

    chosen = None
    if settings.lightly_select == "platform":
        if embedding is None:
            logger.warning("Lightly cannot select without embeddings. Falling back to the job's own selection.")
        else:
            chosen = _select(tags, settings, stop, output, outcome, scored, embedding)
    picks = outcome.picks if chosen is None else chosen
    if missing := [name for name in picks if name not in tags.names]:
        logger.warning(
            "Lightly's tag lacks %s that could not be uploaded: %s", quantify(len(missing), "pick"), list_first(missing)
        )
    tag = tags.make(f"coral-{len(picks)}-{outcome.run_id}", picks)
    content = {
        "server": platform.server,
        "dataset": {"id": dataset.id, "name": dataset.name},
        "tag": {"id": tag.id, "name": tag.name} if tag else None,
        "scores_of_tag": {"id": scored.id, "name": scored.name},
        "embedding": embedding,
        "prediction_task": task_name(pool.provenance),
        "selected_by": "local" if chosen is None else "platform",
        "not_uploaded": [{"file_name": name, "reason": reason} for name, reason in sorted(problems.items())],
    }
    output.write(REPORT, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    tagged = f"Tag of the picks: {tag.name!r}." if tag else "There are no picks, so there is no tag."
    logger.info("Uploaded the run to Lightly's dataset %r. %s", dataset.name, tagged)
    return chosen


def _prepare_files(platform: Platform, dataset: Dataset, settings: Settings) -> str:
    """Sets the datasource, if the settings ask for it, and returns which files to upload."""
    if settings.lightly_datasource:
        datasource.register(platform, dataset, datasource.configs(settings))
        return settings.lightly_images or "none"
    if platform.datasources(dataset):
        # An upload would write files into somebody's bucket, and could even overwrite the originals.
        if settings.lightly_images == "full":
            raise SettingsError(
                f"Lightly's dataset {dataset.name!r} reads its images from a datasource: CORAL_LIGHTLY_IMAGES='full' "
                "could overwrite them. Unset it, or use another dataset."
            )
        logger.info("Lightly's dataset %r reads its images from a datasource: not uploading files.", dataset.name)
        return "none"
    return settings.lightly_images or "thumbnails"


def _upload_scores(tags: Tags, pool: Pool) -> Tag:
    """Uploads the scores, and returns the tag that they belong to: a tag of exactly the images of this run.

    That is the initial tag if it has the same images and no other scores, and otherwise a tag of the job.

    Raises:
        TooManyFailedImages: If the platform has no image of this run.
    """
    row_of = {name: row for row, name in enumerate(pool.file_names)}
    rows = [row_of[name] for name in tags.order if name in row_of]
    scores: dict[str, list[float]] = {kind: pool.scores[kind][rows].tolist() for kind in LIGHTLY_SCORES}
    own_name = f"coral-pool-{ledger.name_piece(tags.mask(set(row_of)), scores)[:8]}"
    for tag in tags.find_by_members(set(row_of)):
        if tag.name in (INITIAL, own_name):
            present = tags.platform.scores(tags.dataset, tag)
            if all(_are_same(scores.get(kind), values) for kind, values in present.items()):
                break
    else:
        new_tag = tags.make(own_name, list(pool.file_names))
        if new_tag is None:
            raise TooManyFailedImages("No image of this run could be uploaded to Lightly.")
        tag, present = new_tag, {}
    for kind, values in scores.items():
        if kind not in present:
            tags.platform.set_scores(tags.dataset, tag, kind, values)
    return tag


def _are_same(local: list[float] | None, remote: list[float]) -> bool:
    """Whether scores are the same except for rounding."""
    return local is not None and len(local) == len(remote) and np.allclose(local, remote, rtol=0, atol=1e-6)


def _select(
    tags: Tags,
    settings: Settings,
    stop: Stop,
    output: Storage,
    outcome: Outcome,
    scored: Tag,
    embedding: str,
) -> list[str] | None:
    """Lets the platform select; returns its picks, or None if it refused."""
    tag_name = f"coral-{len(outcome.picks)}-{outcome.run_id}-platform"
    in_pool = set(outcome.pool.file_names)
    preselected = [name for name in outcome.labelled if name in tags.names and name in in_pool]
    labelled = tags.make(f"coral-labelled-{ledger.name_piece(sorted(preselected))[:8]}", preselected)
    tag = tags.find_by_name(tag_name)
    if tag is None:
        request = selection.request(
            settings,
            tag_name,
            len(outcome.picks),
            pool=scored,
            labelled=labelled,
            num_labelled=len(preselected),
        )
        tag = selection.select(
            tags.platform, tags.dataset, output, stop.requested, request=request, embedding=embedding
        )
        if tag is None:
            return None
    unlabelled = in_pool - set(outcome.labelled)
    chosen = [name for name in tags.members(tag) if name in unlabelled]
    if len(chosen) < len(outcome.picks):
        logger.warning("Lightly picked %d of %d requested images.", len(chosen), len(outcome.picks))
    return chosen
