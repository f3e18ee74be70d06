"""Selection: arrays in, picks and their reasons out. Nothing here writes files or knows of the job.

    from job.select import select

    picked = select(embeddings, scores, 100, labelled=[0, 7])
    rows = [pick.index for pick in picked.picks]

`select` has the strategies; `choose` multiplies factors of one's own; `coverage` says how near each image is to its
nearest pick. Embeddings are a numpy array, a tensor of torch, or `ParquetPoints` for a file that is larger than memory;
torch is imported only for a tensor.
"""

from job.select.balance import Balance
from job.select.engine import STRATEGIES, Factor, Selection, choose, select
from job.select.evidence import coverage
from job.select.greedy import Pick
from job.select.points import ArrayPoints, ParquetPoints

__all__ = [
    "STRATEGIES",
    "ArrayPoints",
    "Balance",
    "Factor",
    "ParquetPoints",
    "Pick",
    "Selection",
    "choose",
    "coverage",
    "select",
]
