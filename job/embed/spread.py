"""Large embeddings in the workers of a cluster, which read them from embeddings.parquet in the output.

This brings no other picks. It shares the passes of the selection among machines, where one would take long.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from job.embed import table
from job.errors import DamagedFileError, JobError, one_line
from job.names import quantify
from job.retry import Patience
from job.select.blocks import BlockPoints
from job.select.points import Points
from job.settings import Settings
from job.settings.entries import BalanceEntry
from job.stopping import Stop
from job.storage import Storage, open_output
from job.storage.rangefile import RangeFile
from job.uris import Location

logger = logging.getLogger(__name__)

# Below, one core takes up to a minute for a thousand picks. That is about what a cluster takes to be joined, to start
# workers, and to have them read the rows (`benchmarks.row_blocks`).
MIN_VALUES = 1 << 31
_MIN_BLOCK_VALUES = 1 << 25  # 128 MiB: the process of a worker takes as much for itself


@contextlib.contextmanager
def spread(settings: Settings, stop: Stop, output: Storage, embeddings: Points) -> Iterator[Points]:
    """Spreads large embeddings over a cluster, if one is there, for as long as the selection takes.

    Args:
        settings: The settings.
        stop: Whether the job was asked to stop.
        output: Folder of the results, with embeddings.parquet.
        embeddings: (n, d) the same embeddings.

    Yields:
        Embeddings whose passes are made in the cluster; those that were given if that does not pay or is not possible.
    """
    with contextlib.ExitStack() as stack:
        points = embeddings
        if _pays(settings, embeddings) and os.environ.get("RAY_ADDRESS"):
            try:
                points = _spread(settings, stop, output, embeddings, stack)
            except JobError as error:
                logger.warning("This process selects alone, since the cluster cannot: %s", error)
        yield points


def _pays(settings: Settings, embeddings: Points) -> bool:
    """Whether the passes over all rows take long. Objects and balances make passes of other kinds."""
    strategy = settings.strategy
    others = strategy.uses_objects or any(isinstance(entry, BalanceEntry) for entry in strategy.entries)
    return embeddings.shape[0] * embeddings.shape[1] >= MIN_VALUES and not others


def _spread(settings: Settings, stop: Stop, output: Storage, embeddings: Points, stack: contextlib.ExitStack) -> Points:
    from job import engine  # it imports torch, which a selection alone does not need

    choice = engine.choose(settings, os.environ)
    if not choice.address:
        return embeddings
    uri = settings.output if Location.parse(settings.output).scheme else output.uri
    blocks = stack.enter_context(engine.hold_rows(choice, stop, partial(cut, output, uri, embeddings.shape)))
    if blocks is None:
        return embeddings
    logger.info(
        "%s on %s select together: each holds a block of the embeddings.",
        quantify(len(blocks.starts) - 1, "worker"),
        quantify(blocks.num_machines, "machine"),
    )
    return BlockPoints(embeddings, blocks)


def cut(
    output: Storage, uri: str, shape: tuple[int, int], count: int
) -> tuple[list[int], list[partial[npt.NDArray[np.float32]]]]:
    """Cuts embeddings.parquet into blocks of rows, each of whole groups of the file.

    Args:
        output: Folder of the results.
        uri: The same folder, for other machines.
        shape: (n, d) of the embeddings.
        count: Largest number of blocks.

    Returns:
        (b + 1,) first row of each block and n, and what loads each of them.

    Raises:
        DamagedFileError: If the file is not that of the embeddings.
    """
    with _open(output) as file:
        groups = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    ends = np.cumsum(groups)
    if sum(groups) != shape[0] or not groups:
        raise _damaged(output, f"it has {sum(groups)} rows, and not {shape[0]}")
    count = max(1, min(count, shape[0] * shape[1] // _MIN_BLOCK_VALUES))
    last = np.unique(np.searchsorted(ends, ends[-1] * np.arange(1, count + 1) // count))
    starts = [0, *ends[last].tolist()]
    firsts = [0, *(last + 1).tolist()]
    blocks = zip(pairwise(firsts), pairwise(starts), strict=True)
    return starts, [partial(read_block, uri, range(*some), (end - start, shape[1])) for some, (start, end) in blocks]


def read_block(uri: str, groups: Sequence[int], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Reads some groups of embeddings.parquet.

    Args:
        uri: Folder of the results.
        groups: Numbers of the groups.
        shape: (m, d) of their rows.

    Raises:
        DamagedFileError: If they are not there, or are damaged.
        JobError: If the store cannot be used.
    """
    output = open_output(uri, stop=threading.Event(), patience=Patience())
    result, end = np.empty(shape, np.float32), 0
    with _open(output) as file:
        for group in groups:  # one at a time, since pyarrow reads ahead all that it is asked for
            column = file.read_row_group(group, columns=["embedding"]).column(0).combine_chunks()
            rows = column.flatten().to_numpy().reshape(len(column), -1)
            if rows.shape[1] != shape[1] or end + len(rows) > shape[0]:
                raise _damaged(output, "its embeddings are not those of this run")
            result[end : end + len(rows)] = rows
            end += len(rows)
    if end != shape[0]:
        raise _damaged(output, "its embeddings are not those of this run")
    return result


@contextlib.contextmanager
def _open(output: Storage) -> Iterator[pq.ParquetFile]:
    entry = output.stat(table.NAME)
    if entry is None:
        raise _damaged(output, "it is not there")
    try:
        source = RangeFile(output, entry.key, entry.size)
        yield pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(output, one_line(error)) from error


def _damaged(output: Storage, problem: str) -> DamagedFileError:
    return DamagedFileError.of(output.uri, table.NAME, problem, "all machines must reach the output by the same name")
