"""What the output must allow, and whether our clock is that of the stores."""

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
from job.storage import STORES, Storage, expect_readable, open_folder
from job.uris import Location

_PATIENCE = Patience(grace=10.0)  # a probe is still removed when the check is asked to stop
_SECONDS_TO_ANSWER = 5
_SKEW = 5 * 60.0


def output(state: State) -> Findings:
    """Every right that a run needs on the output, by a probe that is removed again."""
    where = Location.parse(state.settings.output)
    store = open_folder(state.settings.output, stop=state.stop.requested, patience=_PATIENCE)
    said: set[str] = set()
    with _folders_restored(where), contextlib.closing(_Probe(store)) as probe:
        for right, operation in probe.operations().items():
            try:
                operation()
            except AccessDenied as error:
                if str(error) not in said:  # one of the whole store, such as of the credentials, is told once
                    yield AccessDenied(f"{error}{_fix(where, right, str(error))}")
                said.add(str(error))
    if not said:
        state.output = store
        yield f"{store.uri} can be listed, read, written and overwritten, and files in it removed"


class _Probe:
    """A small file in the output; a file of its name is there only between `write` and `delete`."""

    def __init__(self, store: Storage) -> None:
        self._store, self._key = store, f"{parts.FOLDER}.probe-{uuid.uuid4().hex}"
        self._there = False

    def operations(self) -> dict[str, Callable[[], None]]:
        """What is tried, by the field of `job.storage.rights.Rights` that is missing if it fails."""
        return {
            "write": self.write,
            "list": self.list,
            "read": self.read,
            "overwrite": self.overwrite,
            "delete": self.delete,
        }

    def write(self) -> None:
        """Also to the end that there is something to read."""
        self._store.write(self._key, b"probe")
        self._there = True

    def list(self) -> None:
        """The folder of the parts, as a run does."""
        next(self._store.list(parts.FOLDER), None)

    def read(self) -> None:
        """Where nothing could be written, a store that would let us read says that there is no such file."""
        with expect_readable(self._store, self._key), contextlib.suppress(FileNotFoundError):
            self._store.read(self._key)

    def overwrite(self) -> None:
        """Parts, and all results, are written again by a run that goes on; some stores ask another right for that."""
        if self._there:
            self._store.write(self._key, b"again")

    def delete(self) -> None:
        """Results that no longer hold are taken away when a run begins."""
        there, self._there = self._there, False
        try:
            self._store.delete(self._key)
        except AccessDenied as error:
            stays = f" {self._key} stays behind." if there else ""
            raise AccessDenied(f"{error}{stays}") from None

    def close(self) -> None:
        """Removes what is left of it when a check ends early."""
        if self._there:
            with contextlib.suppress(JobError):  # what ended the check is the one to tell
                self.delete()


@contextlib.contextmanager
def _folders_restored(where: Location) -> Iterator[None]:
    """Takes away the local folders that probes made."""
    folder = Path(where.path or "/").absolute() / parts.FOLDER
    new = [each for each in (folder, *folder.parents) if not each.exists()] if not where.scheme else []
    try:
        yield
    finally:
        for each in new:
            with contextlib.suppress(OSError):  # it was not made, or is somebody's by now
                each.rmdir()


def _fix(where: Location, right: str, error: str) -> str:
    rights = STORES[where.scheme].rights
    if rights is None:
        return f" Let user {os.getuid()} do that there, or name another CORAL_OUTPUT."
    if "permission" not in error:  # then it says itself what to do about the credentials
        return ""
    name = getattr(rights, right)
    return f" Grant the job's credentials this permission{'' if name in error else f': {name}'}."


def clock(state: State) -> Findings:
    """Signed requests are refused when they seem to come from another hour."""
    places = {Location.parse(uri) for uri in (state.settings.input, state.settings.output)}
    endpoints = {STORES[place.scheme].find_endpoint(state.environment) for place in places}
    for endpoint in sorted(filter(None, endpoints)):
        host = urlsplit(endpoint).netloc.rpartition("@")[2]
        try:
            ahead = _seconds_ahead(endpoint)
        except (requests.RequestException, KeyError, ValueError) as error:
            yield Warn(f"{host} does not tell the time ({type(error).__name__}), so ours is not compared with it.")
            continue
        if abs(ahead) <= _SKEW:
            yield f"that of {host}"
        else:
            yield Warn(
                f"It is {abs(ahead) / 60:.0f} minutes {'ahead of' if ahead > 0 else 'behind'} that of {host}, and "
                "stores refuse requests from 15 minutes on: set the clock of this machine (NTP)."
            )


def _seconds_ahead(endpoint: str) -> float:
    """How far our clock is ahead of a server's, which tells its own in each answer, even of a refusal."""
    before = time.time()
    bundle = os.environ.get("AWS_CA_BUNDLE") or True
    answer = requests.head(endpoint, timeout=_SECONDS_TO_ANSWER, allow_redirects=False, verify=bundle)
    theirs = parsedate_to_datetime(answer.headers["Date"]).timestamp()
    return (before + time.time()) / 2 - theirs
