"""Which GPUs detect: that of this process, all GPUs of the machine, or those of a cluster.

One GPU or the CPU needs no engine (`none`). From two GPUs up, Ray gives each GPU a process, which gets pieces of the
listing (`ray`). The parts in the output are the only truth, so an engine holds no state that matters: workers, nodes
and this process can be killed at any time, and the same command continues.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from job.engine.choice import Choice, choose
from job.engine.work import Engine, Load, Work
from job.stopping import Stop

if TYPE_CHECKING:
    from job.engine.ray.rows import RowWorkers

__all__ = ["Choice", "Engine", "Load", "Work", "choose", "describe_cluster", "hold_rows", "start"]


def start(choice: Choice) -> Engine:
    """Makes the engine that was chosen; it starts with its work."""
    if choice.kind == "none":
        from job.engine.none import InProcess

        return InProcess(choice)
    from job.engine.ray import OnRay  # Ray takes seconds to import, and one GPU does not need it

    return OnRay(choice)


def describe_cluster(choice: Choice, stop: Stop) -> str:
    """Joins a cluster for a moment, and returns what it consists of, for `check`.

    Raises:
        ServiceUnavailable: If no cluster answers.
        SettingsError: If it has another version of Ray or of Python.
    """
    from job.engine.ray import describe_cluster

    return describe_cluster(choice, stop)


def hold_rows(
    choice: Choice, stop: Stop, cut: Callable[[int], tuple[Sequence[int], Sequence[Load]]]
) -> "AbstractContextManager[RowWorkers | None]":
    """Joins a cluster for a selection, and has its machines hold the rows: see `job.engine.ray.rows.hold_rows`."""
    from job.engine.ray import hold_rows

    return hold_rows(choice, stop, cut)
