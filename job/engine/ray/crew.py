"""The workers: they are started as there are GPUs, get two pieces each, and give them back when they are lost."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, RayTaskError

from job import parts
from job.detect.pieces import Piece, Told
from job.engine.ray import cluster
from job.engine.ray.worker import About, News, Worker
from job.engine.todo import Todo
from job.errors import JobError, ServiceUnavailable, SettingsError, Stopped, TryAgain, first_line
from job.names import escape, quantify, shorten
from job.settings import Settings
from job.settings.schema import Precision
from job.shards import Shard
from job.stopping import MESSAGE, Stop

logger = logging.getLogger(__name__)

_PIECES_AHEAD = 2  # the one that a worker detects in, and the one that its threads already read
_SECONDS_OF_STOPPING = 8.0  # Docker kills a container after ten
_SECONDS_WITHOUT_WORKER = 1800.0
_SECONDS_BETWEEN_REMINDERS = 60.0
MAX_FAILED_STARTS = 5  # one after the other


@dataclass(frozen=True)
class Task:
    """What a crew works on.

    Attributes:
        settings: The settings of the run, without secrets.
        folder: Working directory of the job.
        shard: The shard that the images are of.
        precision: Precision of the run.
        provenance: What the parts of all workers must be made with.
        imported: Provenance of the detections that were made elsewhere.
        plan: Returns the pieces for a batch size.
        find_rows: Returns the rows of a piece that were made elsewhere, by file name.
        give_up: Writes the row of an image that ends workers.
        told: Who is told what becomes of the pieces.
    """

    settings: Settings
    folder: str
    shard: Shard
    precision: Precision
    provenance: parts.Provenance
    imported: parts.Provenance | None
    plan: Callable[[int], Todo]
    find_rows: Callable[[Piece], Mapping[str, parts.Row]]
    give_up: Callable[[parts.Row], None]
    told: Told


@dataclass(eq=False)
class _Member:
    """A worker as the crew sees it.

    Attributes:
        actor: Ray's handle.
        about: What it says of itself, once it has loaded the model.
        works: Whether it has begun to detect.
        pieces: The pieces that it has, by number.
        unsaved: Images of these that have their rows.
    """

    actor: Any
    about: About | None = None
    works: bool = False
    pieces: dict[int, Piece] = field(default_factory=dict)
    unsaved: int = 0

    @property
    def name(self) -> str:
        """Its name for messages."""
        return f"The worker with {self.about.name}" if self.about else "A worker"


def make_actor(settings: Settings, folder: str) -> Any:
    """Makes a worker, which starts as soon as a GPU is free."""
    # It needs no core of Ray's, since there may be none left, and a second thread for each kind of call.
    options = {"num_gpus": 1, "num_cpus": 0, "max_restarts": 0, "max_concurrency": 4}
    return ray.remote(Worker).options(**options).remote(settings, folder)


class _Patience:
    """Waits for a first worker, but not for ever."""

    def __init__(self) -> None:
        self._since = self._reminded = time.monotonic()

    def check(self) -> None:
        """Reminds of the waiting once a minute.

        Raises:
            TryAgain: If it has taken long.
        """
        now = time.monotonic()
        if now - self._since > _SECONDS_WITHOUT_WORKER:
            raise TryAgain(
                f"There has been no GPU for {_SECONDS_WITHOUT_WORKER / 60:.0f} minutes: start the job again when there "
                "are some. Finished work is saved."
            )
        if now - self._reminded > _SECONDS_BETWEEN_REMINDERS:
            self._reminded = now
            logger.warning("Waiting for a GPU since %.0f minutes.", (now - self._since) / 60)


class Crew:
    """All workers of a run.

    Args:
        task: What they work on.
        count: Returns the number of workers that there should be now.
        stop: Whether the job was asked to stop.
    """

    def __init__(self, task: Task, count: Callable[[], int], stop: Stop) -> None:
        self._task, self._count, self._stop = task, count, stop.requested
        self._members: list[_Member] = []
        self._excluded: list[_Member] = []  # kept, so that their GPUs are not used again
        self._calls: dict[Any, tuple[_Member, str]] = {}
        self._todo: Todo | None = None
        self._batch_size = task.settings.batch_size
        self._lines: set[str] = set()
        self._failed: set[str] = set()
        self._num_failed_starts = self._num_started = 0
        self._patience = _Patience()

    def run(self) -> None:
        """Has all pieces detected in, whatever comes and goes.

        Raises:
            JobError: If the work cannot be finished. Finished images are saved.
        """
        try:
            while not self._stop.is_set():
                self._plan()
                self._hire()
                self._hand_out()
                if self._todo is not None and self._todo.is_empty() and not any(m.pieces for m in self._members):
                    return
                for member in self._members:
                    self._call_next(member)
                self._listen(1.0)
                if any(member.about for member in self._members):
                    self._patience = _Patience()
                self._patience.check()
        finally:  # after an error, too: what the others have is nearly finished
            self._let_save()

    def _plan(self) -> None:
        if self._todo is None and self._batch_size is not None:
            self._todo = self._task.plan(self._batch_size)

    def _hire(self) -> None:
        for _ in range(self._count() - len(self._members) - len(self._excluded)):
            self._members.append(_Member(make_actor(self._task.settings, self._task.folder)))

    def _hand_out(self) -> None:
        todo = self._todo
        if todo is None:
            return
        for member in self._members:
            while member.works and len(member.pieces) < _PIECES_AHEAD:
                if any(map(todo.is_suspect, member.pieces.values())):
                    break  # it must be alone
                piece = todo.take(is_idle=not member.pieces)
                if piece is None:
                    break
                member.pieces[piece.number] = piece
                member.actor.put.remote(piece, self._task.find_rows(piece))

    def _call_next(self, member: _Member) -> None:
        """Makes the next call of a worker that has none."""
        if any(busy is member for busy, _ in self._calls.values()):
            return
        if member.about is None:
            call, kind = member.actor.load.remote(self._task.precision, self._task.imported), "load"
        elif self._batch_size is None:
            if any(kind == "measure" for _, kind in self._calls.values()):
                return
            call, kind = member.actor.measure_batch_size.remote(), "measure"
        else:
            if not member.works:
                member.actor.begin.remote(self._batch_size, self._task.shard)
                member.works = True
            call, kind = member.actor.fetch_news.remote(), "news"
        self._calls[call] = (member, kind)

    def _listen(self, seconds: float) -> None:
        if not self._calls:
            time.sleep(seconds)
            return
        for call in ray.wait(list(self._calls), num_returns=1, timeout=seconds)[0]:
            member, kind = self._calls.pop(call)
            try:
                value = ray.get(call)
            except cluster.LOST as error:
                self._lose(member, error)
            except RayTaskError as error:
                self._fail(member, unwrap(error))
            else:
                self._take_in(member, kind, value)

    def _take_in(self, member: _Member, kind: str, value: Any) -> None:
        if kind == "load":
            self._check_provenance(value)
            member.about, self._num_failed_starts = value, 0
            self._num_started += 1
            logger.info("Worker %d has loaded the model: %s.", self._num_started, value.name)
        elif kind == "measure":
            self._batch_size = value
        else:
            self._hear(member, value)

    def _check_provenance(self, about: About) -> None:
        if about.provenance != self._task.provenance:
            difference = parts.describe_difference(about.provenance, self._task.provenance)
            raise SettingsError(
                f"The worker with {about.name} would make other results ({difference}): give all machines the same "
                "image and the same files."
            )

    def _hear(self, member: _Member, news: News) -> None:
        told = self._task.told
        for level, name, text in news.lines:
            if text not in self._lines:  # what all workers say is said once
                self._lines.add(text)
                logging.getLogger(name).log(level, "%s", text)
        for row in news.failed:
            if row.file_name not in self._failed:  # the piece of a lost worker is read again
                self._failed.add(row.file_name)
                told.failed(row)
        told.detected(news.detected)
        member.unsaved += news.detected
        for number in news.written:
            piece = member.pieces.pop(number)
            member.unsaved -= len(piece.images)
            if self._todo is not None:
                self._todo.finish(piece)
            told.written(piece)
        if news.error is not None:
            self._fail(member, news.error)
        elif news.has_ended:
            self._members.remove(member)

    def _lose(self, member: _Member, error: RayError) -> None:
        """Takes back the pieces of a worker whose process, or whose machine, is gone."""
        is_suspect = isinstance(error, (ActorDiedError, OutOfMemoryError)) and (
            member.about is None or cluster.is_alive(member.about.node_id)
        )
        ended = "its machine has too little memory" if isinstance(error, OutOfMemoryError) else "its process ended"
        logger.warning(
            "%s is lost (%s)%s.",
            member.name,
            ended if is_suspect else "its machine is gone",
            f": {quantify(len(member.pieces), 'piece goes', 'pieces go')} to other workers" if member.pieces else "",
        )
        if member.about is None and is_suspect:
            self._num_failed_starts += 1
            if self._num_failed_starts >= MAX_FAILED_STARTS:
                raise ServiceUnavailable(
                    f"{MAX_FAILED_STARTS} workers ended while they loaded the model ({escape(first_line(error))}): "
                    "check the memory of the machine, or set CORAL_ENGINE=none to see what happens."
                ) from error
        pieces = self._release(member)
        ray.kill(member.actor)  # it may be alive, behind a broken network
        if self._todo is None:
            return
        if not is_suspect:
            self._todo.give_back(pieces)
            return
        for entry, losses in self._todo.suspect(pieces):
            reason = f"the process that works on it ends each time ({losses} times)"
            row = parts.Row(entry.key, entry.etag, entry.size, "failed", reason)
            self._task.give_up(row)
            self._failed.add(row.file_name)
            self._task.told.failed(row)
            self._task.told.detected(1)

    def _fail(self, member: _Member, error: JobError) -> None:
        """Goes on without a worker that cannot work, unless its error would meet the others, too.

        Raises:
            JobError: If it would.
        """
        pieces = self._release(member)
        self._excluded.append(member)
        if not isinstance(error, (ServiceUnavailable, TryAgain)) or not self._members:
            raise error
        logger.warning("%s cannot continue, and the others go on without it: %s", member.name, error)
        if self._todo is not None:
            self._todo.give_back(pieces)

    def _release(self, member: _Member) -> list[Piece]:
        self._members.remove(member)
        self._task.told.detected(-member.unsaved)
        return list(member.pieces.values())

    def _let_save(self) -> None:
        """Lets all workers save what they have, for some seconds."""
        for member in self._members:
            member.actor.stop.remote()
        end = time.monotonic() + _SECONDS_OF_STOPPING
        while time.monotonic() < end and any(member.pieces for member in self._members):
            for member in self._members:
                if member.works:
                    self._call_next(member)
            try:
                self._listen(0.2)
            except JobError as error:  # the first error counts, or the stop
                logger.warning("Another worker could not save all of its work: %s", shorten(str(error)))


def wait_for(call: Any, stop: Stop) -> Any:
    """Waits for the call of a first worker, which may have to wait for a GPU, and returns its value.

    Raises:
        Stopped: If the job was asked to stop.
        TryAgain: If there has been no GPU for long.
    """
    patience = _Patience()
    with stop.defer():  # in Ray's calls that wait, the error of a handler would become another one
        while not ray.wait([call], timeout=1.0)[0]:
            if stop.has_arrived:
                raise Stopped(MESSAGE)
            patience.check()
        return ray.get(call)


def unwrap(error: RayTaskError) -> JobError:
    """Returns the error of a worker as it was raised there."""
    if isinstance(error.cause, JobError):
        return error.cause
    return JobError(f"Internal error in a worker (please report it)\n{error}")
