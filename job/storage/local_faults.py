"""Faults of local folders: those that may pass, as on network file systems, are tried again; others are explained."""

import contextlib
import errno
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from job.errors import AccessDenied, JobError, ServiceUnavailable, SettingsError
from job.retry import Attempt, Patience, TransientError, run_with_retries

T = TypeVar("T")

_MAX_SECONDS = 20.0  # shorter than for buckets, since a bad block of a disk does not heal
_PASSING = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.EINTR, errno.EAGAIN, errno.EREMOTEIO,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNRESET, errno.ENOTCONN,
}  # fmt: skip
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_SUCH_PATH = {
    errno.ENOENT,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}


class Faults:
    """Runs operations on local files, and again if their fault may pass.

    Args:
        stop: When set, no operation is tried again.
        patience: How long to try; of its total, at most 20 seconds.
    """

    def __init__(self, stop: threading.Event, patience: Patience) -> None:
        self._stop, self._patience = stop, patience

    def run(self, operation: Callable[[], T], size: int = 0) -> T:
        """Runs an operation.

        Args:
            operation: The operation; it can be repeated.
            size: Bytes that it transfers.

        Raises:
            OSError: If it fails for good, or again and again.
        """
        try:
            return operation()  # in this thread, as nearly all operations succeed
        except OSError as error:
            if error.errno not in _PASSING:
                raise
            last = error

        def attempt(limits: Attempt) -> T:
            nonlocal last
            limits.expect(size)
            try:
                return operation()
            except OSError as error:
                if error.errno not in _PASSING:
                    raise
                last = error
                raise TransientError(f"{error.strerror}: {error.filename}") from None

        total = min(self._patience.total, _MAX_SECONDS)
        try:
            return run_with_retries(attempt, patience=self._patience, stop=self._stop, total=total)
        except TransientError:
            raise last from None


def may_pass(error: OSError) -> bool:
    """Returns whether an error may pass, such as one of a network file system."""
    return error.errno in _PASSING


def is_absent(error: OSError) -> bool:
    """Returns whether an error means that there is no such file, or that none can have such a path."""
    return error.errno in _NO_SUCH_PATH


def explain(error: OSError, action: str, path: Path) -> JobError:
    """Converts an error that ends the job.

    Args:
        error: The error.
        action: What failed, such as ``write``.
        path: The file or folder.
    """
    text = f"Cannot {action} {path}: {error.strerror}"
    if error.errno in _DENIED:
        return AccessDenied(f"{text}.")
    if error.errno in _FULL:
        return ServiceUnavailable(f"{text} ({_describe_space(path)}). Free some space, and run the job again.")
    if error.errno in _NO_SUCH_PATH:
        return SettingsError(f"{text}. Move what is in the way, or set another path.")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return ServiceUnavailable(f"{text}. Raise the limit of open files (ulimit -n), and run the job again.")
    return ServiceUnavailable(f"{text}. Check the disk or the network file system, and run the job again.")


def _describe_space(path: Path) -> str:
    with contextlib.suppress(OSError, StopIteration):
        folder = next(parent for parent in path.parents if parent.is_dir())
        return f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB are free in {folder}"
    return "the free space is unknown"
