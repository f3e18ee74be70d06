"""One worker: a process with one GPU that detects in the pieces that it is given."""

import dataclasses
import logging
import os
import queue
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import ray

from job import limits, parts
from job.detect import embedder, gpu, runner
from job.detect.agreement import agree_on_batch_size, agree_on_precision
from job.detect.imported import Imported
from job.detect.inference import Inference, measure_batch_size
from job.detect.pieces import Piece
from job.errors import JobError, ServiceUnavailable, Stopped
from job.retry import Patience
from job.secret import hide_secrets
from job.settings import Settings
from job.settings.schema import Precision
from job.shards import Shard
from job.storage import Storage, open_output, open_source

_PATIENCE = Patience(grace=10.0)  # with the last parts after a stop, as the process of the job has
_SECONDS_OF_LISTENING = 2.0
_SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class About:
    """What a worker says of itself.

    Attributes:
        name: Name of its GPU, and of its machine.
        node_id: Ray's name of its machine.
        pid: Its process.
        provenance: What its parts are made with.
    """

    name: str
    node_id: str
    pid: int
    provenance: parts.Provenance


@dataclass
class News:
    """What has become of the pieces since the last news.

    Attributes:
        detected: Number of images that have their rows.
        written: Numbers of the pieces whose parts are in the output.
        failed: Rows of the images that cannot be used.
        lines: Log lines: level, logger, text.
        error: What ended the worker.
        has_ended: Whether the worker works no more.
    """

    detected: int = 0
    written: list[int] = field(default_factory=list)
    failed: list[parts.Row] = field(default_factory=list)
    lines: list[tuple[int, str, str]] = field(default_factory=list)
    error: JobError | None = None
    has_ended: bool = False


class Notes(logging.Handler):
    """Collects the news until they are fetched.

    Args:
        forget: Called with each finished piece.
    """

    def __init__(self, forget: Callable[[Piece], None]) -> None:
        super().__init__(logging.WARNING)
        self._forget = forget
        self._changed = threading.Condition()
        self._news, self._is_urgent = News(), False

    def detected(self, count: int) -> None:
        """Counts images that have their rows."""
        with self._changed:
            self._news.detected += count

    def failed(self, row: parts.Row) -> None:
        """Notes an image that cannot be used."""
        with self._changed:
            self._news.failed.append(row)

    def written(self, piece: Piece) -> None:
        """Notes a finished piece. That is urgent: the worker needs another one."""
        self._forget(piece)
        with self._changed:
            self._news.written.append(piece.number)
            self._wake()

    def ended(self, error: JobError | None) -> None:
        """Notes that the worker works no more, and why."""
        with self._changed:
            self._news.error, self._news.has_ended = error, True
            self._wake()

    def emit(self, record: logging.LogRecord) -> None:
        """Notes a log line, without secrets."""
        with self._changed:
            self._news.lines.append((record.levelno, record.name, hide_secrets(record.getMessage())))

    def fetch(self) -> News:
        """Returns the news: at once if something is urgent, else after some seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_urgent, _SECONDS_OF_LISTENING)
            news, self._news, self._is_urgent = self._news, News(), False
            return news

    def _wake(self) -> None:
        self._is_urgent = True
        self._changed.notify_all()


class Worker:
    """An actor of Ray. Its methods are called from several threads.

    Args:
        settings: The settings of the run, without secrets.
        folder: Working directory of the job, which relative paths begin at.
    """

    def __init__(self, settings: Settings, folder: str) -> None:
        if os.path.isdir(folder):  # noqa: PTH112  # on a machine of a cluster it may not exist, and paths are absolute
            os.chdir(folder)
        limits.limit_threads(os.environ)
        self._settings, self._stop, self._notes = settings, threading.Event(), Notes(self._forget)
        logging.getLogger("job").addHandler(self._notes)
        self._pieces: queue.Queue[Piece] = queue.Queue()
        self._rows: dict[str, parts.Row] = {}
        self._imported: Imported | None = None

    def agree_on_precision(self) -> Precision:
        """Returns the precision of the run, chosen for this GPU if nothing is agreed yet."""
        return agree_on_precision(self._settings, self._open_output())

    def load(self, precision: Precision, imported: parts.Provenance | None) -> About:
        """Builds the detector.

        Args:
            precision: That of the run.
            imported: Provenance of the detections that were made elsewhere.

        Raises:
            JobError: If that is not possible here.
        """
        self._imported = Imported(self._rows, imported) if imported else None
        settings = dataclasses.replace(self._settings, precision=precision)
        device, _ = gpu.choose(settings)
        if device.type == "cpu" and precision != "fp32":
            raise ServiceUnavailable(f"{_machine()} has no usable GPU, and the run computes in {precision}.")
        self._detector = embedder.build(settings)
        name = gpu.inspect().names[device.index or 0] if device.type == "cuda" else "CPU"
        node_id = ray.get_runtime_context().get_node_id()
        made_with = runner.provenance(self._detector, self._imported)
        return About(f"{name} on {_machine()}", node_id, os.getpid(), made_with)

    def measure_batch_size(self) -> int:
        """Returns the batch size of the run, the one that fits this GPU if nothing is agreed yet."""
        measure = partial(measure_batch_size, self._detector)
        return agree_on_batch_size(self._open_output(), self._detector.device, measure)

    def begin(self, batch_size: int, shard: Shard) -> None:
        """Begins to detect in the pieces that come, of a shard."""
        threading.Thread(target=self._work, args=(batch_size, shard), daemon=True).start()

    def put(self, piece: Piece, rows: Mapping[str, parts.Row]) -> None:
        """Takes one more piece, with the rows of its images that were made elsewhere."""
        self._rows.update(rows)
        self._pieces.put(piece)

    def fetch_news(self) -> News:
        """Waits for news of the pieces."""
        return self._notes.fetch()

    def stop(self) -> None:
        """Lets the worker save what is on its way, and end."""
        self._stop.set()

    def _open_output(self) -> Storage:
        return open_output(self._settings.output, stop=self._stop, patience=_PATIENCE)

    def _forget(self, piece: Piece) -> None:
        for entry in piece.images if self._rows else ():
            self._rows.pop(entry.key, None)

    def _work(self, batch_size: int, shard: Shard) -> None:
        try:
            source = open_source(self._settings.input, self._stop, self._settings.frames)
            output = self._open_output()
            while (first := self._wait()) is not None:
                runner.detect(
                    self._follow(first),
                    source,
                    output,
                    self._detector,
                    Inference(self._detector, batch_size),
                    stop=self._stop,
                    told=self._notes,
                    imported=self._imported,
                    shard=shard,
                )
            self._notes.ended(None)
        except Stopped:  # as asked
            self._notes.ended(None)
        except JobError as error:
            self._notes.ended(error)
        except Exception as error:
            internal = JobError(f"Internal error (please report it)\n{traceback.format_exc()}")
            self._notes.ended(limits.explain_memory_error(error) or internal)

    def _wait(self) -> Piece | None:
        """Waits for a piece; None if the worker must end."""
        while not self._stop.is_set():
            try:
                return self._pieces.get(timeout=_SECONDS_BETWEEN_LOOKS)
            except queue.Empty:
                continue
        return None

    def _follow(self, piece: Piece) -> Iterator[Piece]:
        """Yields the pieces that are there: the iterator must not wait, since the images before would wait, too."""
        while True:
            yield piece
            try:
                piece = self._pieces.get_nowait()
            except queue.Empty:
                return


def _machine() -> str:
    return socket.gethostname()
