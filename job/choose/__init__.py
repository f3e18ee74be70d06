"""The selection that the settings ask for, on the images of the pool."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from job import scores
from job.choose.composition import Composition, check_target
from job.choose.limits import Limits
from job.choose.mixing import check_detections, mix_scores
from job.inputs import frames
from job.parts import objects as part_objects
from job.parts import pool as pools
from job.parts.pool import Floats, Pool
from job.select import STRATEGIES as IMPLEMENTED
from job.select import Objects, Selection, select
from job.settings import Settings
from job.settings.entries import BalanceEntry
from job.settings.strategy import STRATEGIES
from job.storage import Storage

if TYPE_CHECKING:
    from job.select.points import Embeddings

if set(STRATEGIES) != set(IMPLEMENTED):
    raise RuntimeError("job.settings.strategy and job.select.engine name different strategies: add the missing one.")


def ranking_score(settings: Settings, pool: Pool) -> Floats:
    """(n,) values of the score that the strategy ranks by, or else of CORAL_SCORE; weighted if classes have weights.

    Raises:
        SettingsError: If the pool has no detections.
    """
    return mix_scores(pool, settings.ranking_scores, weighted=settings.class_weights is not None)


def choose_among(
    settings: Settings,
    output: Storage,
    pool: Pool,
    embeddings: "Embeddings",
    labelled: Sequence[str],
    elsewhere: npt.NDArray[np.float32] | None = None,
    candidates: Sequence[str] | None = None,
) -> Selection:
    """Selects images with the strategy of the settings.

    Args:
        settings: The settings.
        output: Folder with the parts.
        pool: The images.
        embeddings: (n, d) in the order of the pool.
        labelled: File names of the images that have labels.
        elsewhere: (k, d) embeddings of labelled images that are not in the pool; None for none.
        candidates: File names of the images to select from; all by default.

    Raises:
        SettingsError: If the strategy names an image, a class or a column that the pool does not have, or compares
            objects, and their boxes have no features.
    """
    return _Chooser(settings, output, pool, embeddings, labelled, elsewhere, candidates).choose(settings.n_samples)


class _Chooser:
    """Selects any number of images, with the arguments of `choose_among`. What it needs is read once."""

    def __init__(
        self,
        settings: Settings,
        output: Storage,
        pool: Pool,
        embeddings: "Embeddings",
        labelled: Sequence[str],
        elsewhere: npt.NDArray[np.float32] | None,
        candidates: Sequence[str] | None = None,
    ) -> None:
        self._settings, self._pool, self._embeddings = settings, pool, embeddings
        labelled_rows = pool.file_names.find(labelled)
        self._limits = Limits(
            labelled=labelled_rows[labelled_rows >= 0].tolist(),
            elsewhere=elsewhere,
            candidates=None if candidates is None else pool.file_names.find(candidates).tolist(),
            min_distance=settings.min_distance if candidates is None else 0.0,
            apart=frames.keep_apart(pool, settings.min_seconds) if candidates is None else None,
        )
        strategy = settings.strategy
        self._objects = _read_objects(settings, output, pool) if strategy.uses_objects else None
        self._composition = Composition(settings, output, pool, embeddings) if strategy.entries else None

    def choose(self, count: int) -> Selection:
        """Selects so many images."""
        settings, pool, limits = self._settings, self._pool, self._limits
        if self._composition:
            return self._composition.select(count, limits, self._objects)
        needs_score = pool.has_detections or settings.strategy.uses_scores
        return select(
            self._embeddings,
            ranking_score(settings, pool) if needs_score else np.zeros(len(pool.file_names)),
            count,
            strategy=settings.strategy.text,
            objects=self._objects,
            score_strength=settings.score_strength,
            diversity_strength=settings.diversity_strength,
            seed=settings.seed,
            labelled=limits.labelled,
            labelled_elsewhere=limits.elsewhere,
            candidates=limits.candidates,
            min_distance=limits.min_distance,
            apart=limits.apart,
        )


def _read_objects(settings: Settings, output: Storage, pool: Pool) -> Objects:
    """Reads the boxes of the pool, with what each contributes to CORAL_SCORE as its weight."""
    check_detections(pool)
    class_weights = pools.class_weight_array(settings.class_weights or {}, pool.provenance.class_names)

    def weigh(boxes: scores.Boxes) -> Floats:
        shares = settings.score.shares.items()
        contributions = [share * scores.TABLE[name].contributions(boxes) for name, share in shares]
        weights: Floats = np.sum(contributions, axis=0) * class_weights[boxes.classes]
        return weights

    return part_objects.read(output, pool, weigh)


def choose_without(
    rejected: Collection[str],
    settings: Settings,
    output: Storage,
    pool: Pool,
    embeddings: "Embeddings",
    labelled: Sequence[str],
    elsewhere: npt.NDArray[np.float32] | None = None,
) -> Selection:
    """Selects as `choose_among` does, and replaces rejected picks by the next best images.

    The greedy goes on until there are enough other picks. So these stay, and rejected picks still repel images that
    look like them. A strategy that first takes the highest scores takes more of them.

    Args:
        rejected: File names of the rejected images.
        settings: The settings.
        output: Folder with the parts.
        pool: The images.
        embeddings: (n, d) in the order of the pool.
        labelled: File names of the images that have labels.
        elsewhere: (k, d) embeddings of labelled images that are not in the pool; None for none.

    Raises:
        SettingsError: If the strategy names an image, a class or a column that the pool does not have.
    """
    count = wanted = settings.n_samples
    chooser = _Chooser(settings, output, pool, embeddings, labelled, elsewhere)
    while True:
        selection = chooser.choose(count)
        kept = [pick for pick in selection.picks if pool.file_names[pick.index] not in rejected]
        if len(kept) >= wanted or len(selection.picks) < count:
            return Selection(kept[:wanted], selection.factors)
        count += wanted - len(kept)


def check_classes(settings: Settings, class_names: Sequence[str]) -> None:
    """Checks, before any work, that the settings of the selection name existing classes.

    Raises:
        SettingsError: If a class weight or a balance names a class that the detector does not have.
    """
    if settings.class_weights:
        pools.class_weight_array(settings.class_weights, class_names)
    for entry in settings.strategy.entries:
        if isinstance(entry, BalanceEntry) and not entry.column:
            check_target(entry, class_names)
