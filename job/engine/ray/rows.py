"""The rows of the selection in workers of a cluster: each has a block of them, and makes the passes over it."""

import contextlib
import logging
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from job.engine.choice import Choice
from job.engine.ray import cluster
from job.engine.ray.crew import unwrap
from job.engine.work import Load
from job.errors import ServiceUnavailable, Stopped, first_line
from job.names import escape
from job.select.blocks import Block
from job.stopping import MESSAGE, Stop

logger = logging.getLogger(__name__)

_MAX_LOSSES = 10  # of one block; for some seconds, Ray offers a machine that is gone


@contextlib.contextmanager
def hold_rows(
    choice: Choice, stop: Stop, cut: Callable[[int], tuple[Sequence[int], Sequence[Load]]]
) -> Iterator["RowWorkers | None"]:
    """Joins a cluster, and has its machines hold the rows.

    Args:
        choice: The cluster.
        stop: Whether the job was asked to stop.
        cut: Cuts the rows into at most so many blocks: (b + 1,) their first rows, and what loads each of them.

    Yields:
        The blocks; None if the cluster has only one machine with cores.

    Raises:
        JobError: If the cluster cannot be joined, or a machine cannot read its rows.
    """
    try:
        cluster.start(choice, stop)
        places = cluster.list_cores()
        if len(set(places)) < 2:
            yield None
            return
        workers = RowWorkers(*cut(len(places)), stop)
        workers.load()
        yield workers
    finally:
        cluster.close()


class RowWorkers:
    """Blocks in processes of Ray (`job.select.blocks.Blocks`), each on the next core of the cluster.

    Args:
        starts: (b + 1,) first row of each block, and the number of all rows.
        loads: What loads each of them, on any machine.
        stop: Whether the job was asked to stop.

    Attributes:
        num_calls: How often all blocks or some were asked, by method.
        sent: Bytes of all arguments.
        received: Bytes of all answers.
    """

    def __init__(self, starts: Sequence[int], loads: Sequence[Load], stop: Stop) -> None:
        self.starts, self._loads, self._stop = np.asarray(starts, np.int64), loads, stop
        self.num_calls: Counter[str] = Counter()
        self.sent = self.received = 0
        self._losses: Counter[int] = Counter()
        self._actors = [self._make(block) for block in range(len(loads))]

    @property
    def num_losses(self) -> int:
        """How often a worker was lost."""
        return self._losses.total()

    @property
    def num_machines(self) -> int:
        """Number of the machines that have cores."""
        return len(set(cluster.list_cores()))

    def load(self) -> None:
        """Waits until all rows are loaded, so that what is wrong shows before the work.

        Raises:
            JobError: If a machine cannot read its rows.
        """
        self.ask("get_shape", lambda block: (), range(len(self._actors)), lambda block: None)

    def ask(
        self,
        method: str,
        make_arguments: Callable[[int], tuple[Any, ...]],
        blocks: Sequence[int],
        forget: Callable[[int], None],
    ) -> list[Any]:
        """See `job.select.blocks.Blocks`.

        Raises:
            JobError: If a worker fails, or is lost again and again.
            Stopped: If the job was asked to stop.
        """
        with self._stop.defer():  # in Ray's calls that wait, the error of a handler would become another one
            return self._ask(method, make_arguments, blocks, forget)

    def _ask(
        self,
        method: str,
        make_arguments: Callable[[int], tuple[Any, ...]],
        blocks: Sequence[int],
        forget: Callable[[int], None],
    ) -> list[Any]:
        self.num_calls[method] += 1
        answers: dict[int, Any] = {}
        waiting = {self._call(block, method, make_arguments(block)): block for block in blocks}
        while waiting:
            if self._stop.has_arrived:
                raise Stopped(MESSAGE)
            for call in ray.wait(list(waiting), num_returns=1, timeout=1.0)[0]:
                block = waiting.pop(call)
                try:
                    answers[block] = ray.get(call)
                except RayTaskError as error:
                    raise unwrap(error) from error
                except cluster.LOST as error:
                    self._replace(block, error)
                    forget(block)
                    waiting[self._call(block, method, make_arguments(block))] = block
                else:
                    self.received += count_bytes(answers[block])
        return [answers[block] for block in blocks]

    def _call(self, block: int, method: str, arguments: tuple[Any, ...]) -> Any:
        self.sent += count_bytes(arguments)
        return getattr(self._actors[block], method).remote(*arguments)

    def _make(self, block: int) -> Any:
        places = cluster.list_cores()
        options: dict[str, Any] = {"num_cpus": 0, "max_restarts": 0}  # it needs no core of Ray's: none may be left
        if places:
            place = places[(block + self._losses[block]) % len(places)]
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(place, soft=True)
        return ray.remote(Block).options(**options).remote(self._loads[block], int(self.starts[block]))

    def _replace(self, block: int, error: Exception) -> None:
        self._losses[block] += 1
        reason = escape(first_line(error))
        if self._losses[block] > _MAX_LOSSES:
            raise ServiceUnavailable(
                f"The workers with one block of rows ended {_MAX_LOSSES + 1} times ({reason}): check the memory of the "
                "machines, or set CORAL_ENGINE=none to select in one process."
            ) from error
        logger.warning("A worker with rows of the selection is lost (%s): another one reads them.", reason)
        ray.kill(self._actors[block])  # it may be alive, behind a broken network
        self._actors[block] = self._make(block)


def count_bytes(value: Any) -> int:
    """Counts the bytes of a value as it is sent; its arrays are not copied."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return len(data) + sum(buffer.raw().nbytes for buffer in buffers)
