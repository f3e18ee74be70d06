"""Checks of the output: permissions, and the clock."""

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import requests

from job import parts
from job.errors import AccessDenied, JobError
from job.preflight.check import Findings, State, Warn
from job.retry import Patience
from job.storage import STORES, Storage, expect_readable, open_output
from job.uris import Location

# After SIGTERM a run still has this time to save its work, and a check to delete its probe.
PATIENCE = Patience(grace=10.0)
_MAX_SECONDS_TO_ANSWER = 5
_MAX_SKEW_SECONDS = 5 * 60.0


def output(state: State) -> Findings:
    """Every permission that a run needs on the output, tested with a small file that is deleted again."""
    location = Location.parse(state.settings.output)
    store = open_output(state.settings.output, stop=state.stop.requested, patience=PATIENCE)
    restored = contextlib.nullcontext() if state.is_run else _restore_folders(location)
    problems: set[str] = set()
    with restored, contextlib.closing(_Probe(store)) as probe:
        for right, operation in probe.operations().items():
            try:
                operation()
            except AccessDenied as error:
                if str(error) not in problems:  # a problem of the whole store is reported once
                    yield AccessDenied(f"{error}{_suggest_fix(location, right, str(error))}")
                problems.add(str(error))
    if not problems:
        state.output = store
        yield f"{store.uri} allows listing, reading, writing, overwriting and deleting"


class _Probe:
    """A small file in the output; a file of its name exists only between `write` and `delete`."""

    def __init__(self, store: Storage) -> None:
        self._store, self._key = store, f"{parts.FOLDER}.probe-{uuid.uuid4().hex}"
        self._exists = False

    def operations(self) -> dict[str, Callable[[], None]]:
        """The operations, by the field of `job.storage.rights.Rights` that is missing if one of them fails."""
        return {
            "write": self.write,
            "list": self.list,
            "read": self.read,
            "overwrite": self.overwrite,
            "delete": self.delete,
        }

    def write(self) -> None:
        """Writes the file, so that there is one to read."""
        self._store.write(self._key, b"probe")
        self._exists = True

    def list(self) -> None:
        """Lists the folder of the parts, as a run does."""
        next(self._store.list(parts.FOLDER), None)

    def read(self) -> None:
        """Reads the file. If it could not be written, a store that permits reading answers that it does not exist."""
        with expect_readable(self._store, self._key), contextlib.suppress(FileNotFoundError):
            self._store.read(self._key)

    def overwrite(self) -> None:
        """Writes the file again, as a run does that resumes; some stores require another permission for that."""
        if self._exists:
            self._store.write(self._key, b"again")

    def delete(self) -> None:
        """Deletes the file, as a run does with results that are no longer valid."""
        existed, self._exists = self._exists, False
        try:
            self._store.delete(self._key)
        except AccessDenied as error:
            remains = f" {self._key} remains in the output." if existed else ""
            raise AccessDenied(f"{error}{remains}") from None

    def close(self) -> None:
        """Deletes the file if a check ends early."""
        if self._exists:
            with contextlib.suppress(JobError):  # the error that ended the check is the one to report
                self.delete()


@contextlib.contextmanager
def _restore_folders(location: Location) -> Iterator[None]:
    """Removes the local folders that a probe created, so that `check` leaves nothing behind."""
    folder = Path(location.path or "/").absolute() / parts.FOLDER
    created = [path for path in (folder, *folder.parents) if not path.exists()] if not location.scheme else []
    try:
        yield
    finally:
        for path in created:
            with contextlib.suppress(OSError):  # the probe did not create it, or another process uses it by now
                path.rmdir()


def _suggest_fix(location: Location, right: str, error: str) -> str:
    rights = STORES[location.scheme].rights
    if rights is None:
        return f" Allow user {os.getuid()} to do that, or set CORAL_OUTPUT to another folder."
    if "permission" not in error:  # the error says itself what to do about the credentials
        return ""
    name = getattr(rights, right)
    return f" Grant the job's credentials this permission{'' if name in error else f': {name}'}."


def clock(state: State) -> Findings:
    """The clock of this machine: stores refuse signed requests whose time differs too much from theirs."""
    locations = {Location.parse(uri) for uri in (state.settings.input, state.settings.output)}
    endpoints = {STORES[location.scheme].find_endpoint(state.environment) for location in locations}
    for endpoint in sorted(filter(None, endpoints)):
        host = urlsplit(endpoint).netloc.rpartition("@")[2]
        try:
            skew = _measure_skew(endpoint)
        except (requests.RequestException, KeyError, ValueError) as error:
            yield Warn(f"{host} sent no Date header ({type(error).__name__}), so the clock skew is not checked.")
            continue
        if abs(skew) <= _MAX_SKEW_SECONDS:
            yield f"it agrees with the clock of {host}"
        else:
            yield Warn(
                f"The clock is {abs(skew) / 60:.0f} minutes {'ahead of' if skew > 0 else 'behind'} that of {host}. "
                "Stores refuse requests from a skew of 15 minutes on: set the clock of this machine (NTP)."
            )


def _measure_skew(endpoint: str) -> float:
    """Seconds that this machine's clock is ahead of a server's, which every response states, even a refusal."""
    before = time.time()
    bundle = os.environ.get("AWS_CA_BUNDLE") or True
    response = requests.head(endpoint, timeout=_MAX_SECONDS_TO_ANSWER, allow_redirects=False, verify=bundle)
    server_time = parsedate_to_datetime(response.headers["Date"]).timestamp()
    return (before + time.time()) / 2 - server_time
