"""The selection and the scores of coralpick as a library. It needs numpy and pyarrow alone.

    from coralpick import scores, select

    uncertainty = scores.compute("uncertainty_entropy", detections)
    selection = select(embeddings, uncertainty, 100)
    selection.indices

The job itself is the command `coralpick`.
"""

from coralpick import scores
from job import __version__
from job.select import (
    STRATEGIES,
    Apart,
    ArrayPoints,
    Balance,
    Factor,
    Objects,
    ParquetPoints,
    Pick,
    Selection,
    choose,
    coverage,
    select,
)

__all__ = [
    "STRATEGIES",
    "Apart",
    "ArrayPoints",
    "Balance",
    "Factor",
    "Objects",
    "ParquetPoints",
    "Pick",
    "Selection",
    "__version__",
    "choose",
    "coverage",
    "scores",
    "select",
]
