"""Selection as a library: arrays in, picks out. It writes no files and imports nothing else of the job.

    from coralpick import select

    selection = select(embeddings, scores, 100, labelled=[0, 7])
    rows = selection.indices

`select` offers the strategies. `choose` multiplies factors of your own. `coverage` measures how near each image is to
its nearest pick. Embeddings are a numpy array, a torch tensor, or `ParquetPoints` for a file that is larger than
memory. torch is imported only for a tensor.
"""

from job.select.apart import Apart
from job.select.balance import Balance
from job.select.engine import STRATEGIES, choose, select
from job.select.evidence import coverage
from job.select.greedy import Pick
from job.select.objects import Objects
from job.select.points import ArrayPoints, ParquetPoints
from job.select.selection import Factor, Selection

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
    "choose",
    "coverage",
    "select",
]
