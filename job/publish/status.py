"""status.json: how far a run is, and how it ended, for programs that watch the output.

It is written when the run begins and ends, when a stage begins and ends, and every 30 seconds in between. Of several
shards each has a file of its own, status-<index>-of-<count>.json; `select` writes status.json. A run that was killed
still says ``running``, but its ``updated`` grows old.

| field | in status.json | in JSON log lines | meaning |
|---|---|---|---|
| ``time``, ``level``, ``logger``, ``message`` | | all | of the line |
| ``state`` | yes | | ``running``, ``done``, ``failed`` or ``stopped`` |
| ``stage`` | yes | of progress | as in run.json's ``seconds``; the last one, once the run is over |
| ``done``, ``total`` | yes | of progress | images (bytes of weights, epochs of training); null where none are counted |
| ``rate`` | yes | of progress | of these a second, since the stage began |
| ``eta_s`` | yes | of progress | seconds until this stage is through at that rate; null before the first |
| ``failures`` | yes | | images that cannot be used: those that this process met, from ``score`` on those of the run |
| ``started``, ``updated`` | yes | | UTC, ISO 8601 |
| ``shard_index``, ``shard_count`` | yes | | which shard this is; 0 of 1 without shards |
| ``exit_code`` | yes | | null while it runs; 143 where ``stopped`` |
| ``message`` | yes | all | in status.json, why a run failed or stopped, on one line; else null |
| ``selected``, ``output`` | | of the last line | how many picks, and where they are |
| ``check``, ``outcome`` | | of `check` | what was tried; ``ok``, ``warning`` or ``failed`` |
"""

import json
import logging
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from job.errors import JobError, Stopped, one_line
from job.progress import now
from job.secret import hide_secrets
from job.shards import Shard
from job.storage import Storage

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_WRITES = 30.0
# How long the last write may hold up the end of the job: a store that takes longer does not learn of it.
_SECONDS_AT_THE_END = 5.0
_NO_COUNTS = dict.fromkeys(("done", "total", "rate", "eta_s"))
_INTERRUPTED = 130


def file_name(shard: Shard) -> str:
    """The file of a shard."""
    return "status.json" if shard.count == 1 else f"status-{shard.index}-of-{shard.count}.json"


class Status:
    """Keeps the file of a shard up to date while the run lasts; a context manager.

    It is written in a thread of its own, so that the run does not wait for it, and its failures are none of the run.

    Args:
        output: Folder of the results.
        shard: Which shard this process is.
    """

    def __init__(self, output: Storage, shard: Shard) -> None:
        self._output, self._shard = output, shard
        self._started = _utc()
        self._ending: dict[str, Any] = {"state": "running", "exit_code": None, "message": None}
        self._over = self._warned = False
        self._changed = now.changed
        self._thread = threading.Thread(target=self._keep, daemon=True, name="status")

    def __enter__(self) -> "Status":
        now.reset()
        self._changed = now.changed
        self._changed.set()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending = _ending(error)
        self._over = True
        self._changed.set()
        self._thread.join(_SECONDS_AT_THE_END)

    def _keep(self) -> None:
        over = False
        while not over:
            self._changed.wait(_SECONDS_BETWEEN_WRITES)
            self._changed.clear()
            over = self._over  # before the content is put together, which then is the last
            self._write()

    def _write(self) -> None:
        name = file_name(self._shard)
        try:
            self._output.write(name, (json.dumps(self._content(), indent=2, ensure_ascii=False) + "\n").encode())
        except Exception as error:  # whatever it is, the run goes on
            if not self._warned:
                reason = one_line(error) if isinstance(error, JobError) else type(error).__name__
                logger.warning("%s cannot be written, and the run goes on without it: %s", name, reason)
            self._warned = True

    def _content(self) -> dict[str, Any]:
        return {
            "state": self._ending["state"],
            "stage": now.stage,
            **(now.progress.counts() if now.progress else _NO_COUNTS),
            "failures": now.failures,
            "started": self._started,
            "updated": _utc(),
            "shard_index": self._shard.index,
            "shard_count": self._shard.count,
            "exit_code": self._ending["exit_code"],
            "message": self._ending["message"],
        }


def _ending(error: BaseException | None) -> dict[str, Any]:
    """How a run has ended; the texts of errors that are not ours may hold anything, and stay in the log."""
    if error is None:
        return {"state": "done", "exit_code": 0, "message": None}
    if isinstance(error, JobError):
        state = "stopped" if isinstance(error, Stopped) else "failed"
        return {"state": state, "exit_code": error.exit_code, "message": hide_secrets(one_line(error))}
    if isinstance(error, Exception):
        message = f"A fault of the job itself ({type(error).__name__}): the log says more."
        return {"state": "failed", "exit_code": JobError.exit_code, "message": message}
    return {"state": "stopped", "exit_code": _INTERRUPTED, "message": "Interrupted."}


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
