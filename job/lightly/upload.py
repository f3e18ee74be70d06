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

from job.errors import SettingsError, TooManyFailedImages
from job.exports.lightly import task_name
from job.lightly import datasource, embeddings, images, selection
from job.lightly.api import Dataset, Platform, Tag
from job.lightly.tags import INITIAL, Tags
from job.parts import ledger
from job.parts.pool import Pool
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
    output.delete(REPORT)
    dataset = find(platform, settings) or platform.create_dataset(settings.lightly_dataset or "")
    mode = _prepare_files(platform, dataset, settings)
    problems = images.upload(platform, dataset, output, pool, source, mode, max_failed=settings.max_failed)
    order = platform.file_names(dataset)
    if doubled := len(order) - len(set(order)):
        logger.warning("Lightly's dataset %r has %d file names more than once.", dataset.name, doubled)
    tags = Tags(platform, dataset, order, _IMAGE_TYPE[mode])
    vectors = dict(zip(pool.file_names, outcome.embeddings, strict=True))
    embedding = embeddings.upload(platform, dataset, output, order, vectors, outcome.space)
    scored = _upload_scores(tags, pool)

    chosen = None
    if settings.lightly_select == "platform":
        if embedding is None:
            logger.warning("Lightly cannot select without embeddings. The job's own selection is taken.")
        else:
            chosen = _select(tags, settings, stop, output, outcome, scored, embedding)
    picks = outcome.picks if chosen is None else chosen
    if lost := [name for name in picks if name not in tags.names]:
        logger.warning("%d picks are not in Lightly's tag, since they could not be uploaded: %s", len(lost), lost)
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
    picked = f"the picks as tag {tag.name!r}" if tag else "no pick, so no tag"
    logger.info("Lightly's dataset %r has the images, and %s.", dataset.name, picked)
    return chosen


def _prepare_files(platform: Platform, dataset: Dataset, settings: Settings) -> str:
    """Sets the datasource, if it is wanted, and says which files to upload."""
    if settings.lightly_datasource:
        datasource.register(platform, dataset, datasource.configs(settings))
        return settings.lightly_images or "none"
    if platform.datasources(dataset):
        # Files would be written into somebody's bucket, over the originals even.
        if settings.lightly_images == "full":
            raise SettingsError(
                f"Lightly's dataset {dataset.name!r} reads its images from a datasource: CORAL_LIGHTLY_IMAGES='full' "
                "could overwrite them. Leave it out, or use another dataset."
            )
        logger.info("Lightly's dataset %r reads its images from a datasource, so no files are uploaded.", dataset.name)
        return "none"
    return settings.lightly_images or "thumbnails"


def _upload_scores(tags: Tags, pool: Pool) -> Tag:
    """Uploads the scores, and returns the tag that they belong to: one of exactly the images of this run.

    That is the initial tag where it fits and has no other scores, and else one of our own.

    Raises:
        TooManyFailedImages: There is no image that it could be of.
    """
    row = {name: number for number, name in enumerate(pool.file_names)}
    rows = [row[name] for name in tags.order if name in row]
    scores: dict[str, list[float]] = {kind: pool.scores[kind][rows].tolist() for kind in LIGHTLY_SCORES}
    own = f"coral-pool-{ledger.name_piece(tags.mask(set(row)), scores)[:8]}"
    for tag in tags.having(set(row)):
        if tag.name in (INITIAL, own):
            present = tags.platform.scores(tags.dataset, tag)
            if all(_same(scores.get(kind), values) for kind, values in present.items()):
                break
    else:
        made = tags.make(own, pool.file_names)
        if made is None:
            raise TooManyFailedImages("No image of this run could be uploaded to Lightly.")
        tag, present = made, {}
    for kind, values in scores.items():
        if kind not in present:
            tags.platform.set_scores(tags.dataset, tag, kind, values)
    return tag


def _same(ours: list[float] | None, theirs: list[float]) -> bool:
    """Whether scores are the same but for rounding."""
    return ours is not None and len(ours) == len(theirs) and np.allclose(ours, theirs, rtol=0, atol=1e-6)


def _select(
    tags: Tags,
    settings: Settings,
    stop: Stop,
    output: Storage,
    outcome: Outcome,
    scored: Tag,
    embedding: str,
) -> list[str] | None:
    """Lets the platform select; returns its picks."""
    name = f"coral-{len(outcome.picks)}-{outcome.run_id}-platform"
    known = set(outcome.pool.file_names)
    has_labels = [name for name in outcome.labelled if name in tags.names and name in known]
    labelled = tags.make(f"coral-labelled-{ledger.name_piece(sorted(has_labels))[:8]}", has_labels)
    tag = tags.named(name)
    if tag is None:
        request = selection.request(
            *(settings, name, len(outcome.picks)), pool=scored, labelled=labelled, num_labelled=len(has_labels)
        )
        tag = selection.select(
            tags.platform, tags.dataset, output, stop.requested, request=request, embedding=embedding
        )
        if tag is None:
            return None
    new = known - set(outcome.labelled)
    chosen = [each for each in tags.members(tag) if each in new]
    if len(chosen) < len(outcome.picks):
        logger.warning("Lightly picked %d images, and %d were asked for.", len(chosen), len(outcome.picks))
    return chosen
