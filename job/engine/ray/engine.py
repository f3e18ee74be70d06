"""The engine that the job sees."""

import dataclasses
import logging
import time
from collections.abc import Mapping
from pathlib import Path

import ray
from ray.exceptions import RayTaskError

from job import parts
from job.detect import runner
from job.detect.agreement import agree_on_precision
from job.detect.pieces import Piece, Shown, choose_part_size, cut
from job.engine.choice import Choice
from job.engine.ray import cluster
from job.engine.ray.crew import MAX_FAILED_STARTS, Crew, Task, make_actor, unwrap, wait_for
from job.engine.todo import Todo
from job.engine.work import Work
from job.errors import ServiceUnavailable, first_line
from job.names import escape
from job.progress import Progress
from job.settings import Settings
from job.settings.schema import Precision
from job.stopping import Stop
from job.storage import Storage

logger = logging.getLogger(__name__)


class OnRay:
    """Workers in processes of Ray, one for each GPU.

    Args:
        choice: The cluster and the number of workers.
    """

    in_process = False

    def __init__(self, choice: Choice) -> None:
        self._choice, self._is_started = choice, False
        logger.info(choice.words)

    def agree_on_precision(self, settings: Settings, output: Storage, stop: Stop) -> Precision:
        """See `Engine`. In a cluster, the first worker chooses: this machine may have no GPU."""
        if not self._choice.address or settings.precision != "auto":
            return agree_on_precision(settings, output)
        self._start(stop)
        num_lost = 0
        while True:
            worker = make_actor(_without_secrets(settings), str(Path.cwd()))
            try:
                precision: Precision = wait_for(worker.agree_on_precision.remote(), stop)
                return precision
            except RayTaskError as error:
                raise unwrap(error) from error
            except cluster.LOST as error:
                num_lost += 1
                if num_lost == MAX_FAILED_STARTS:
                    raise ServiceUnavailable(
                        f"{num_lost} workers ended, one after the other, before they had chosen a precision "
                        f"({escape(first_line(error))}): check the memory of the machines, or set CORAL_PRECISION."
                    ) from error
                logger.warning("The first worker is lost (%s): trying another one.", escape(first_line(error)))
            finally:
                ray.kill(worker)

    def detect(self, work: Work) -> None:
        """See `Engine`."""
        imported, detector = work.imported, work.detector
        made_with = runner.provenance(detector, imported)
        todo = runner.find_unfinished(work.listing, work.output, made_with, work.done, imported, work.shard)
        if not todo.any():
            return
        self._start(work.stop)

        def plan(batch_size: int) -> Todo:
            return Todo(
                cut(work.listing, todo, choose_part_size(work.settings.part_size, len(work.listing), batch_size))
            )

        def find_rows(piece: Piece) -> Mapping[str, parts.Row]:
            return {entry.key: imported.rows[entry.key] for entry in piece.images} if imported else {}

        def give_up(row: parts.Row) -> None:
            parts.write(work.output, [row], made_with, work.shard)

        with Progress("Embedding" if imported else "Detecting", int(todo.sum()), "image") as progress:
            task = Task(
                settings=_without_secrets(work.settings),
                folder=str(Path.cwd()),
                shard=work.shard,
                precision=work.precision,
                provenance=made_with,
                imported=imported.provenance if imported else None,
                plan=plan,
                find_rows=find_rows,
                give_up=give_up,
                told=Shown(progress),
            )
            Crew(task, self._count_wanted, work.stop).run()

    def close(self) -> None:
        """See `Engine`."""
        if self._is_started:
            cluster.close()

    def _start(self, stop: Stop) -> None:
        if self._is_started:
            return
        start = time.monotonic()
        self._is_started = True  # also if it fails half-way
        cluster.start(self._choice, stop)
        logger.info("Ray is up after %.1f s.", time.monotonic() - start)

    def _count_wanted(self) -> int:
        """Counts the workers that there should be: in a cluster that grows on demand, at least one asks for a GPU."""
        return self._choice.workers or max(1, cluster.count_gpus())


def _without_secrets(settings: Settings) -> Settings:
    """The settings that a worker needs: it uploads nothing, and Ray stores what it is given."""
    return dataclasses.replace(settings, lightly_token=None, lightly_token_file=None)
