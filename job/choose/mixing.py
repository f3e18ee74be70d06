"""The score of each image, mixed from several."""

import numpy as np

from job import scores
from job.errors import SettingsError
from job.parts.pool import Floats, Pool
from job.select.engine import scale_scores
from job.settings.mix import Mix


def check_detections(pool: Pool) -> None:
    """Checks that there are detections to rank by.

    Raises:
        SettingsError: If there are none.
    """
    if not pool.has_detections:
        raise SettingsError(
            "This strategy needs predictions, and CORAL_PREDICTIONS='none': set CORAL_STRATEGY to coreset, typicality "
            "or random."
        )


def mix_scores(pool: Pool, mix: Mix, *, weighted: bool) -> Floats:
    """(n,) values of a score, or the sum of several after each is scaled by the highest values of the pool.

    Args:
        pool: The images.
        mix: The share of each score by its name.
        weighted: Whether classes have weights.

    Raises:
        SettingsError: If the pool has no detections.
    """
    check_detections(pool)
    columns = {name: name + (scores.WEIGHTED if weighted else "") for name in mix}
    if len(mix) == 1:
        return pool.scores[columns[next(iter(mix))]]
    result: Floats = np.sum([share * scale_scores(pool.scores[columns[name]]) for name, share in mix.items()], axis=0)
    return result
