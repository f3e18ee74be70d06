"""status.json: the progress of a run and how it ended, for programs that watch the output.

It is written when the run or a stage begins or ends, and every 30 seconds in between. If there are several shards, each
has its own file, status-<index>-of-<count>.json, and `select` writes status.json. The file of a killed run still says
``running``, but its ``updated`` no longer changes.

| field | in status.json | in JSON log lines | meaning |
|---|---|---|---|
| ``time``, ``level``, ``logger``, ``message`` | | all | those of the line |
| ``state`` | yes | | ``running``, ``done``, ``failed`` or ``stopped`` |
| ``stage`` | yes | of progress | as in run.json's ``seconds``; after the run, the last one |
| ``done``, ``total`` | yes | of progress | images (bytes of weights, epochs of training); null if none are counted |
| ``rate`` | yes | of progress | of these per second, since the stage began |
| ``eta_s`` | yes | of progress | seconds until this stage is finished at that rate; null before the first item |
| ``failures`` | yes | | unusable images: so far in this process; from stage ``score`` on, in the whole run |
| ``started``, ``updated`` | yes | | UTC, ISO 8601 |
| ``run_id`` | | once it is known | as in run.json |
| ``shard_index``, ``shard_count`` | yes | all | the shard of this process; 0 of 1 without shards |
| ``exit_code`` | yes | | null while the run lasts; 143 if ``stopped`` |
| ``message`` | yes | all | in status.json, why the run failed or stopped, on one line; null otherwise |
| ``selected``, ``picks``, ``output`` ... | | of the last line | the picks, and figures of run.json |
| ``check``, ``outcome`` | | of `check` | name of the check; ``ok``, ``warning`` or ``failed`` |
"""

import json
import logging
import threading
from collections.abc import Collection
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from job import limits, packages
from job.errors import JobError, Stopped, one_line
from job.progress import now
from job.publish import STATUS, STATUS_OF_SHARD
from job.secret import hide_secrets
from job.shards import MAX_SHARDS, Shard
from job.storage import Storage

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_WRITES = 30.0
# Limit of the last write, which delays the end of the job. A slower store does not get the final status.
_SECONDS_AT_THE_END = 5.0
_NO_COUNTS = dict.fromkeys(("done", "total", "rate", "eta_s"))
_INTERRUPTED = 130


def file_name(shard: Shard) -> str:
    """Returns the name of a shard's status file."""
    return STATUS if shard.count == 1 else STATUS_OF_SHARD.format(index=shard.index, count=shard.count)


def remove(output: Storage, counts: Collection[int]) -> None:
    """Removes the status files of earlier runs that had other numbers of shards.

    Raises:
        JobError: If the output cannot be used.
    """
    for count in counts:
        for index in range(min(count, MAX_SHARDS)):
            output.delete(file_name(Shard(index, count)))


class Status:
    """Keeps the status file of a shard up to date while the run lasts; a context manager.

    The file is written in a thread of its own, so that the run does not wait for it. A failure to write it does not end
    the run.

    Args:
        output: Folder of the results.
        shard: Shard of this process.
    """

    def __init__(self, output: Storage, shard: Shard) -> None:
        self._output, self._shard = output, shard
        self._started = _format_now()
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
            over = self._over  # read before the content is made, so that the last content is the final one
            self._write()

    def _write(self) -> None:
        name = file_name(self._shard)
        try:
            self._output.write(name, (json.dumps(self._content(), indent=2, ensure_ascii=False) + "\n").encode())
        except Exception as error:  # no failure to write the status may end the run
            if not self._warned:
                reason = one_line(error) if isinstance(error, JobError) else type(error).__name__
                logger.warning("Cannot write %s; the run continues without it: %s", name, reason)
            self._warned = True

    def _content(self) -> dict[str, Any]:
        return {
            "state": self._ending["state"],
            "stage": now.stage,
            **(now.progress.counts() if now.progress else _NO_COUNTS),
            "failures": now.failures,
            "started": self._started,
            "updated": _format_now(),
            "shard_index": self._shard.index,
            "shard_count": self._shard.count,
            "exit_code": self._ending["exit_code"],
            "message": self._ending["message"],
        }


def _ending(error: BaseException | None) -> dict[str, Any]:
    """Describes how a run ended. Errors of libraries may contain secrets, so that their texts stay in the log."""
    if error is None:
        return {"state": "done", "exit_code": 0, "message": None}
    error = limits.explain_memory_error(error) or packages.explain_missing_package(error) or error
    if isinstance(error, JobError):
        return {"state": "failed", "exit_code": error.exit_code, "message": hide_secrets(one_line(error))}
    if isinstance(error, Stopped):
        return {"state": "stopped", "exit_code": error.exit_code, "message": str(error)}
    if isinstance(error, Exception):
        message = f"Internal error ({type(error).__name__}): see the log."
        return {"state": "failed", "exit_code": JobError.exit_code, "message": message}
    return {"state": "stopped", "exit_code": _INTERRUPTED, "message": "Interrupted."}


def _format_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
