"""One run at a time writes results into an output: `owner.json`, with the parts, says which.

Two runs with the same settings write the same bytes, so they may share an output. A run with other settings ends with
75 while the owner is at work. The owner writes the file again every few seconds, and a run that finds the file watches
it: if it does not change, its owner was killed. So no clocks are compared.
"""

import json
import logging
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from job.errors import JobError, Stopped, TryAgain
from job.parts import FOLDER
from job.stopping import MESSAGE
from job.storage import Storage, expect_readable

logger = logging.getLogger(__name__)

KEY = FOLDER + "owner.json"


@dataclass(frozen=True)
class Pace:
    """How fast claims are made.

    Attributes:
        beat: Seconds between two writes of the file.
        watch: Seconds without a change after which the owner counts as killed.
        settle: Seconds between the claim and the first result. A run that claimed the output at the same time has
            written its claim by then.
    """

    beat: float = 8.0
    watch: float = 30.0
    settle: float = 1.0


LOCAL = Pace(beat=2.0, watch=10.0, settle=0.1)
REMOTE = Pace()


class Claim:
    """The claim of one run, as a context."""

    def __init__(self, output: Storage, settings: str, stop: threading.Event, pace: Pace | None = None) -> None:
        """Prepares a claim.

        Args:
            output: Folder of the results.
            settings: Digest of all that the results depend on; runs with the same may share the output.
            stop: When set, waiting ends.
            pace: How fast claims are made; None to choose by the kind of the output.
        """
        self._output, self._settings, self._stop = output, settings, stop
        self._pace = pace or (REMOTE if "://" in output.uri else LOCAL)
        self._name = uuid.uuid4().hex
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._beats, self._claimed_at = 0, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="claim")

    def __enter__(self) -> "Claim":
        """Claims the output.

        Raises:
            TryAgain: If a run with other settings is at work in it.
            Stopped: If the job was asked to stop meanwhile.
        """
        self._wait_for_owner()
        self._write()
        self._claimed_at = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(self._pace.beat)
        owner = self._read()
        if owner.get("name") == self._name:
            self._output.delete(KEY)

    def verify(self) -> None:
        """Verifies that no other run has claimed the output at the same time.

        Raises:
            TryAgain: If a run with other settings has.
        """
        time.sleep(max(0.0, self._claimed_at + self._pace.settle - time.monotonic()))
        owner = self._read()
        if owner and owner.get("settings") != self._settings:
            raise self._explain(owner)

    def _wait_for_owner(self) -> None:
        owner, since = self._read(), time.monotonic()
        announced = False
        while owner and owner.get("settings") != self._settings:
            if time.monotonic() - since > self._pace.watch:
                logger.warning("The run that began at %s in %s was killed.", owner.get("started"), self._output.uri)
                return
            if not announced:
                logger.info("Another run was at work in %s: checking whether it still is.", self._output.uri)
                announced = True
            if self._stop.wait(self._pace.beat / 4):
                raise Stopped(MESSAGE)
            current = self._read()
            if current and current != owner:
                raise self._explain(current)
            owner = current

    def _explain(self, owner: dict[str, Any]) -> TryAgain:
        return TryAgain(
            f"Another run with other settings, which began at {owner.get('started')}, is writing its results to "
            f"{self._output.uri}: wait until it has finished, or set another CORAL_OUTPUT."
        )

    def _keep(self) -> None:
        while not self._over.wait(self._pace.beat):
            try:
                owner = self._read()
                if not owner or owner.get("name") == self._name:
                    self._write()
            except JobError as error:  # the next result that is written fails as well, if it lasts
                logger.warning("The claim of the output could not be renewed, and is tried again: %s", error)

    def _write(self) -> None:
        self._beats += 1
        content = {"name": self._name, "settings": self._settings, "started": self._started, "beats": self._beats}
        self._output.write(KEY, json.dumps(content).encode())

    def _read(self) -> dict[str, Any]:
        if self._output.stat(KEY) is None:
            return {}
        with expect_readable(self._output, KEY):
            try:
                content = json.loads(self._output.read(KEY))
            except (FileNotFoundError, ValueError, RecursionError):  # deleted since, or damaged
                return {}
        return content if isinstance(content, dict) else {}
